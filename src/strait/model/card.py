"""The model card: a description of a model for a hub, and the metadata by which the hub lists it.

A generated card contains only what the model itself stores. Training data, purpose and licence are for its owner to
state: a README.md in the model folder takes precedence.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence

import yaml

from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig, ModelError
from strait.runtime.messages import first_line

LIBRARY = "strait"
_TAGS = ("strait", "image-generation", "masked-token-modeling")
_MOST_NAMES = 20
_FOLDER = "path/to/this/folder"
_SIGNATURE = re.compile(r"\n<!-- strait wrote this card: ([0-9a-f]{12}) -->\n\Z")


def model_card(
    repo_id: str | None,
    config: ModelConfig,
    classes: Sequence[str],
    decoding: DecodingConfig,
    parameters: Mapping[str, int],
    weights_hash: str,
) -> str:
    """A card in Markdown, including its metadata.

    Args:
        repo_id: of the model on the hub, ``user/name``; None for a model in a folder.
        config: of the model.
        classes: names in the order of their indices; empty for an unconditional model.
        decoding: the model's defaults.
        parameters: number of parameters of each trained part.
        weights_hash: as ``strait describe`` prints it.
    """
    source, title = repo_id or _FOLDER, (repo_id or "A StraIT model").rpartition("/")[2]
    size = config.image_size * (2 if "upsampler" in parameters else 1)
    scope = f"{size}x{size} images of {len(classes)} classes" if classes else f"{size}x{size} images, without classes"
    names = ", ".join(classes[:_MOST_NAMES]) + (", ..." if len(classes) > _MOST_NAMES else "")
    steps = "+".join(map(str, decoding.steps))
    temperatures = "+".join(f"{value:g}" for value in decoding.temperature)
    labels = repr([str(classes[0])]) if classes else "count=1"
    guidance = f"{decoding.guidance:g}"
    if decoding.guidance_ramp != "constant":
        guidance += f" ({decoding.guidance_ramp})"
    if decoding.guidance_start:
        guidance += f" after {decoding.guidance_start:.0%} of each level's steps"
    rows = "\n".join(f"| {part} | {count:,} |" for part, count in parameters.items())
    paragraphs = [
        f"# {title}",
        f"A StraIT (stratified image transformer, tokenizer {config.tokenizer.kind}) for {scope}.",
        "## Use",
        f"```python\nfrom strait import StraIT\n\nmodel = StraIT.from_pretrained({json.dumps(source)})\n"
        f"images = model.generate({labels}, seed=0)\n```",
        f"```\nstrait generate --model {shlex.quote(source)} --count 4 --output out\n```",
        "## Parts",
        f"| part | parameters |\n|---|---|\n{rows}",
        f"Decoding defaults: {steps} steps, temperature {temperatures}, guidance {guidance}, "
        f"schedule {decoding.schedule}. Hash of the weights: {weights_hash}.",
        *([f"## Classes\n\n{names}"] if classes else []),
        "## Data, purpose, licence\n\nNot stated.",
    ]
    return with_metadata("\n\n".join(paragraphs) + "\n", bool(classes))


def with_metadata(card: str, has_classes: bool) -> str:
    """Add the library and its tags to a card's metadata; existing metadata is kept.

    Args:
        card: Markdown, with or without metadata.
        has_classes: whether the model has classes.

    Raises:
        ModelError: if the metadata is not YAML.
    """
    from huggingface_hub import ModelCard

    if not card.startswith("---"):
        card = f"---\nlibrary_name: {LIBRARY}\n---\n\n{card}"
    try:
        parsed = ModelCard(card)
    except (ValueError, yaml.YAMLError) as error:
        raise ModelError(f"README.md: its metadata is not YAML ({first_line(error)})") from error
    data = parsed.data
    data["library_name"] = data.get("library_name") or LIBRARY
    data["tags"] = list(data.get("tags") or [])
    data["tags"] += [tag for tag in _TAGS if tag not in data["tags"]]
    if not has_classes and not data.get("pipeline_tag"):
        data["pipeline_tag"] = "unconditional-image-generation"
    return str(parsed)


def signed(card: str) -> str:
    """A card of ``model_card`` with a last line, invisible on a page, by which ``is_generated`` knows it."""
    return f"{card}\n<!-- strait wrote this card: {_digest(card)} -->\n"


def is_generated(card: str) -> bool:
    """Whether a card is as ``signed`` left it: nothing is lost when it is written anew. An edited card is not."""
    signature = _SIGNATURE.search(card)
    return signature is not None and signature[1] == _digest(card[: signature.start()])


def _digest(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()[:12]
