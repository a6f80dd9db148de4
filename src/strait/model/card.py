"""The model card: what a model says about itself where it is shared, and the metadata by which a hub finds it.

A card made here holds only what the model knows. What it was trained on, what it is for and under which licence it
may be used are its owner's to say: a README.md in the model folder goes before it.
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
    """A card in Markdown, its metadata included.

    Args:
        repo_id: ``user/name``, by which a hub has the model; None for one in a folder, wherever that is.
        config: its parts.
        classes: names in the order of their indices; empty for an unconditional model.
        decoding: its defaults.
        parameters: of each part that is there.
        weights_hash: as ``strait describe`` gives it.
    """
    source, title = repo_id or _FOLDER, (repo_id or "A StraIT model").rpartition("/")[2]
    size = config.image_size * (2 if "upsampler" in parameters else 1)
    of = f"{size}x{size} images of {len(classes)} classes" if classes else f"{size}x{size} images, without classes"
    names = ", ".join(classes[:_MOST_NAMES]) + (", ..." if len(classes) > _MOST_NAMES else "")
    steps = "+".join(map(str, decoding.steps))
    temperatures = "+".join(f"{value:g}" for value in decoding.temperature)
    labels = repr([str(classes[0])]) if classes else "count=1"
    rows = "\n".join(f"| {part} | {count:,} |" for part, count in parameters.items())
    paragraphs = [
        f"# {title}",
        f"A StraIT (stratified image transformer, tokenizer {config.tokenizer.kind}) for {of}.",
        "## Use",
        f"```python\nfrom strait import StraIT\n\nmodel = StraIT.from_pretrained({json.dumps(source)})\n"
        f"images = model.generate({labels}, seed=0)\n```",
        f"```\nstrait generate --model {shlex.quote(source)} --count 4 --output out\n```",
        "## Parts",
        f"| part | parameters |\n|---|---|\n{rows}",
        f"Decoding by default: {steps} steps, temperature {temperatures}, guidance {decoding.guidance:g}, "
        f"schedule {decoding.schedule}. Hash of the weights: {weights_hash}.",
        *([f"## Classes\n\n{names}"] if classes else []),
        "## Data, purpose, licence\n\nNot stated.",
    ]
    return with_metadata("\n\n".join(paragraphs) + "\n", bool(classes))


def with_metadata(card: str, has_classes: bool) -> str:
    """A card that names the library and its tags; what its metadata say already stays.

    Args:
        card: Markdown, with metadata before it or without.
        has_classes: of the model.

    Raises:
        ModelError: if the metadata are no YAML.
    """
    from huggingface_hub import ModelCard

    if not card.startswith("---"):
        card = f"---\nlibrary_name: {LIBRARY}\n---\n\n{card}"
    try:
        parsed = ModelCard(card)
    except (ValueError, yaml.YAMLError) as error:
        raise ModelError(f"README.md: its metadata are not YAML ({first_line(error)})") from error
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
