"""Generate images from exported files with onnxruntime and numpy: neither torch nor strait is needed.

    python generate.py --labels lemon,daisy --count 2 --seed 0 --output out

The decoding and its noise are those of strait itself: image k of a label and seed is the same image, up to rounding in
the last bits. This file is written into the folder of the files it reads, and may be modified freely.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import secrets
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Noise: an integer hash (splitmix64's finaliser) of (seed, image, level, step, position), and from it one of each id.

GOLDEN, MIX_A, MIX_B = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
DRAW, CHOOSE, CLASSES = 1, 2, 21
NULL_LABEL = -1


def key(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers into 64 bits each; arrays are broadcast."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ np.asarray(part).astype(np.int64).astype(np.uint64)) + GOLDEN
            state = (state ^ (state >> np.uint64(30))) * MIX_A
            state = (state ^ (state >> np.uint64(27))) * MIX_B
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(keys: np.ndarray) -> np.ndarray:
    """One number in (0, 1) for each key."""
    return ((keys >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)


def uniform_ids(keys: np.ndarray, count: int) -> np.ndarray:
    """``count`` numbers in (0, 1) for each key: ``[...]`` -> ``[..., count]``."""
    low, high = (half.astype(np.uint32)[..., None] for half in (keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)))
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + low
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x2C1B3C6D) + high
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0xC2B2AE35)
        x = x ^ (x >> np.uint32(15))
    return ((x >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)


def gumbel(u: np.ndarray) -> np.ndarray:
    return -np.log(-np.log(u))


# Schedule: the number of tokens masked after a step; r is the progress, n the number unknown at the start.

RATIOS: dict[str, Callable[[float, float], float]] = {
    "linear": lambda r, n: 1 - r,
    "square": lambda r, n: 1 - r**2,
    "cubic": lambda r, n: 1 - r**3,
    "square_root": lambda r, n: 1 - r**0.5,
    "cosine": lambda r, n: math.cos(math.pi / 2 * r),
    "logarithmic": lambda r, n: -math.log2(r) / math.log2(n),
    "exponential": lambda r, n: 1 - n ** (r - 1),
    "arccos": lambda r, n: math.acos(r) * 2 / math.pi,
}


def num_masked(schedule: str, step: int, num_steps: int, start: int, unknown: int) -> int:
    if step + 1 >= num_steps or unknown == 0:
        return 0
    ratio = min(1.0, max(1e-6, RATIOS[schedule]((step + 1) / num_steps, max(2, start))))
    return max(1, min(unknown - 1, math.floor(start * ratio + 1e-9)))


def halton_scores(height: int, width: int) -> np.ndarray:
    """A fixed order that spreads over the grid (bases 2 and 3); tokens with higher scores are kept first."""

    def cell(index: int, base: int, size: int) -> int:
        mirrored, scale = 0, 1
        while index:
            mirrored, scale, index = mirrored * base + index % base, scale * base, index // base
        return mirrored * size // scale

    rank: dict[int, int] = {}
    index = 1
    while len(rank) < height * width:
        rank.setdefault(cell(index, 2, height) * width + cell(index, 3, width), len(rank))
        index += 1
    return -np.array([rank[position] for position in range(height * width)], np.float32)


def ramp(decoding: dict[str, Any], step: int, num_steps: int) -> float:
    """The share of the guidance at a step."""
    progress = (step + 1) / num_steps
    if step + 1 <= decoding.get("guidance_start", 0) * num_steps + 1e-4:  # a product that is an integer is rounded
        return 0.0
    shapes = {"constant": 1.0, "linear": progress, "power_cosine": (1 - math.cos(math.pi * progress**3)) / 2}
    return shapes[decoding["guidance_ramp"]]


def _check_offered(decoding: dict[str, Any]) -> None:
    """Refuse settings of strait that this program does not implement."""
    for name, usual in {"quality": 1, "revise": "none"}.items():
        if decoding.get(name, usual) != usual:
            raise ValueError(
                f"decoding.{name}: this program offers only {usual}, but export.json has {decoding[name]}"
            )


class Exported:
    """The exported files of a model.

    Args:
        folder: written by ``strait export``.
        threads: of onnxruntime; 0 for its default.
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        import onnxruntime

        self.folder = Path(folder)
        self.about = json.loads((self.folder / "export.json").read_text(encoding="utf-8"))
        _check_offered(self.about["decoding"])
        self.levels: list[dict[str, Any]] = self.about["levels"]
        self.classes: list[str] = self.about["classes"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {
            name: onnxruntime.InferenceSession(
                str(self.folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for name in (*(level["name"] for level in self.levels), "pixels")
        }

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Run one graph; inputs that it does not use are left out."""
        session = self.sessions[name]
        used = {entry.name for entry in session.get_inputs()}
        return np.asarray(session.run(None, {entry: value for entry, value in inputs.items() if entry in used})[0])

    def named(self, name: str) -> int | None:
        """The index of a class by its name, in any case and spelling, or WordNet id; None if there is none."""
        if name in self.classes:
            return self.classes.index(name)
        text = _folded(name)
        for index, folded in enumerate(map(_folded, self.classes)):
            first, _, rest = folded.partition(" ")
            has_id = len(first) == 9 and first[0] == "n" and first[1:].isdecimal()
            if text == folded or (has_id and text in (first, rest or first)):
                return index
        return None

    def label(self, label: str) -> int:
        """The index of a class by its name, in any case and spelling, its WordNet id or its index (``3``, ``#3``)."""
        index = self.named(label)
        digits = label.strip().removeprefix("#")
        if index is None and re.fullmatch("[0-9]+", digits) and int(digits) < len(self.classes):
            index = int(digits)
        if index is None:
            raise ValueError(f"label: no class is called {label!r}")
        return index

    def tokens(
        self,
        labels: Sequence[int],
        seed: int,
        indices: Sequence[int],
        steps: Sequence[int],
        temperature: Sequence[float],
        guidance: float,
    ) -> list[np.ndarray]:
        """The grids ``[batch, h, w]`` of all levels, coarse to fine, for a batch of images.

        Args:
            labels: class indices; ``NULL_LABEL`` for no class.
            seed: shared by all images.
            indices: index of each image under the seed.
            steps: of each level.
            temperature: of each level.
            guidance: 0 for no guidance.
        """
        seeds = key(seed, np.asarray(indices))
        grids: dict[str, np.ndarray] = {}
        for number, (level, count) in enumerate(zip(self.levels, steps, strict=False)):
            grids[level["name"]] = self._fill(
                number, grids, np.asarray(labels, np.int64), seeds, count, temperature[number], guidance
            )
        return list(grids.values())

    def _fill(
        self,
        number: int,
        coarser: dict[str, np.ndarray],
        labels: np.ndarray,
        seeds: np.ndarray,
        num_steps: int,
        temperature: float,
        guidance: float,
    ) -> np.ndarray:
        """Decode one level: draw every unknown token, keep the most confident, mask the rest again."""
        level, decoding = self.levels[number], self.about["decoding"]
        height, width = level["grid"]
        batch, length = len(labels), height * width
        num_steps = min(num_steps, length)
        tokens, masked = np.zeros((batch, length), np.int64), np.ones((batch, length), bool)
        condition = {"labels": labels, **coarser}
        if guidance:
            condition = {name: np.concatenate([value, value]) for name, value in condition.items()}
            condition["labels"][batch:] = NULL_LABEL
        unknown, positions = length, np.arange(length)
        for step in range(num_steps):
            twice = 2 if guidance else 1
            canvas = {"tokens": np.tile(tokens, (twice, 1)), "masked": np.tile(masked, (twice, 1))}
            logits = self.run(level["name"], {**canvas, **condition})
            if guidance:
                scale = guidance * ramp(decoding, step, num_steps)
                logits = logits[:batch] + np.float32(scale) * (logits[:batch] - logits[batch:])
            noise = gumbel(uniform_ids(key(seeds[:, None], number, DRAW, step, positions), level["codebook_size"]))
            ids = (logits + noise).argmax(-1)
            largest = logits.max(-1, keepdims=True)
            log_sum = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
            log_p = np.take_along_axis(logits, ids[..., None], -1)[..., 0] - log_sum
            tokens = np.where(masked, ids, tokens)
            if decoding["keep"] == "halton":
                scores = np.broadcast_to(halton_scores(height, width), log_p.shape)
            else:
                fading = np.float32(temperature) * (1 - np.float32(step + 1) / np.float32(num_steps))
                scores = log_p + fading * gumbel(uniform(key(seeds[:, None], number, CHOOSE, step, positions)))
            unknown = num_masked(decoding["schedule"], step, num_steps, length, unknown)
            order = np.where(masked, scores, np.inf).argsort(-1, kind="stable").argsort(-1, kind="stable")
            masked &= order < unknown
        return tokens.reshape(batch, height, width)

    def pixels(self, grids: list[np.ndarray]) -> np.ndarray:
        """Grids, coarse to fine -> uint8 ``[batch, height, width, 3]``, from the last levels of the tokenizer."""
        count = self.about["tokenizer_levels"]
        names = [level["name"] for level in self.levels[-count:]]
        images = self.run("pixels", dict(zip(names, grids[-count:], strict=True)))
        return ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _folded(name: str) -> str:
    """A name with case, Unicode normal form, spaces, underscores and hyphens normalised."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"\s*,\s*", ", ", " ".join(re.split(r"[\s_\-]+", folded)).strip())


def split_labels(text: str, model: Exported) -> list[int]:
    """The classes in a comma-separated text; class names that contain commas are recognised."""
    pieces = [piece.strip() for piece in text.split(",")]
    labels: list[int] = []
    while pieces:
        named = (size for size in range(len(pieces), 1, -1) if model.named(", ".join(pieces[:size])) is not None)
        length = next(named, 1)
        label = ", ".join(pieces[:length])
        if label:
            labels.append(model.label(label))
        del pieces[:length]
    if not labels:
        raise ValueError(f"--labels: {text!r} names no class")
    return labels


def write_new(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file atomically; never replace different content unless ``overwrite`` is set."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with temporary.open("xb") as file:
        file.write(content)
    try:
        if overwrite:
            temporary.replace(path)
        else:
            try:
                os.link(temporary, path)
            except PermissionError:  # a file system without hard links
                with path.open("xb") as file:
                    file.write(content)
    except FileExistsError:
        if path.read_bytes() != content:
            raise FileExistsError(f"{path} exists and differs; choose another --output, or pass --overwrite") from None
    finally:
        temporary.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--labels", help="classes by name, WordNet id or index, separated by commas")
    parser.add_argument("--count", type=int, default=1, help="images per label; without labels, in total")
    parser.add_argument("--seed", type=int, default=0, help="image k of a seed is always the same")
    parser.add_argument("--steps", help="steps of each level, such as 18+6")
    parser.add_argument("--temperature", help="one for all levels, or one for each, such as 4.5+2")
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance")
    parser.add_argument("--batch-size", type=int, default=16, help="images decoded at once")
    parser.add_argument("--threads", type=int, default=0, help="threads of onnxruntime; its default if 0")
    parser.add_argument("--model", default=str(Path(__file__).parent), help="folder of the exported files")
    parser.add_argument("--output", required=True, help="folder for the images, one PNG each")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name")
    args = parser.parse_args()
    model = Exported(args.model, args.threads)
    decoding, levels = model.about["decoding"], len(model.levels)
    steps = [int(part) for part in args.steps.split("+")] if args.steps else decoding["steps"]
    temperature = decoding["temperature"]
    if args.temperature:
        temperature = [float(part) for part in args.temperature.split("+")]
        if len(temperature) not in (1, len(steps)):
            raise ValueError(f"--temperature: give one number, or {len(steps)}, one for each level")
    if len(temperature) == 1:
        temperature = list(temperature) * levels
    guidance = decoding["guidance"] if args.guidance is None else args.guidance
    if len(steps) not in (levels, model.about["tokenizer_levels"]) or len(temperature) < len(steps) or min(steps) < 1:
        raise ValueError(f"--steps and --temperature: give {levels} numbers, one for each level, such as 18+6")
    if not all(map(math.isfinite, [guidance, *temperature])) or min(temperature) < 0:
        raise ValueError("--guidance and --temperature must be finite, and a temperature not negative")
    if min(args.count, args.batch_size) < 1:
        raise ValueError("--count and --batch-size must be at least 1")
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed: {args.seed} does not fit into 64 bits")
    if not args.output:
        raise ValueError("--output: the name is empty; give a folder")
    if args.labels is not None:
        images = [(label, index) for label in split_labels(args.labels, model) for index in range(args.count)]
    else:
        drawn = key(args.seed, CLASSES, np.arange(args.count)) & np.uint64(2**63 - 1)
        labels = (drawn % np.uint64(len(model.classes))).tolist() if model.classes else [NULL_LABEL] * args.count
        images = list(zip(labels, range(args.count), strict=True))

    from PIL import Image

    output = Path(args.output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(images), args.batch_size):
        labels, indices = zip(*images[start : start + args.batch_size], strict=True)
        batch = model.pixels(model.tokens(labels, args.seed, indices, steps, temperature, guidance))
        for number, pixels in enumerate(batch, start=start):
            path, content = output / f"{number:04d}.png", io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            write_new(path, content.getvalue(), args.overwrite)
            print(path)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"generate.py: {error}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        print(f"generate.py: {error}; pip install numpy onnxruntime pillow", file=sys.stderr)
        sys.exit(2)
