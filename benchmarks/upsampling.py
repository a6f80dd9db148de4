"""The upsampler compared with a smooth enlargement: PSNR and token accuracy on photographs outside the training set.

    python benchmarks/upsampling.py --model M --data DIR --samples 500 --sheet sheet.png

Each photograph, at twice the model's base size, is compared with: the tokenizer's reconstruction at that size (an
upper bound for the upsampler), the upsampler's result for the true low-resolution tokens, its result for the tokens of
another photograph, and a bicubic enlargement of the low-resolution reconstruction.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from strait.data.images import in_order
from strait.data.sources import ClassesOf, open_images
from strait.decoding.stratified import final_tokens
from strait.model.strait import StraIT
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.runs.part_tokens import encode_at_two_sizes
from strait.runtime.files import write_new
from strait.tokenizer.stratification import peak_signal_to_noise
from strait.types import Canvas, Tokens


def upsampled(model: StraIT, labels: Tensor, low: tuple[Tensor, ...], indices: Tensor) -> Tokens:
    """All four levels, of which the first two are given."""
    grids = model.config.grids[2:]
    canvases = [Canvas.known(grid) for grid in low] + [Canvas.blank(len(labels), grid) for grid in grids]
    return final_tokens(model.decoding_steps(labels, seed=0, indices=indices, canvases=canvases))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    model = StraIT.from_pretrained(args.model)
    model.require("tokenizer", "top", "bottom", "upsampler")
    source = ClassesOf(open_images(args.data, "validation"), model.classes)
    size = 2 * model.config.image_size
    # Evenly spaced, with a stride between neighbours, so that "another photograph" is of another class.
    count = min(args.samples, len(source))
    order = [(place * 37 % count) * len(source) // count for place in range(count)]
    sums: dict[str, float] = {}
    seen = 0
    for batch in in_order(source, size, args.batch_size, order):
        images, labels = batch.images("cpu"), batch.labels
        indices = torch.arange(seen, seen + len(labels))
        tokens = encode_at_two_sizes(model.tokenizer, images)
        low, high = tokens.levels[:2], tokens.levels[2:]
        drawn = upsampled(model, labels, low, indices)
        mixed = upsampled(model, labels, tuple(grid.roll(1, 0) for grid in low), indices)
        small = model.tokenizer.decode(Tokens(low))
        pictures = {
            "bicubic enlargement of the low-resolution reconstruction": F.interpolate(
                small, scale_factor=2, mode="bicubic", align_corners=False
            ).clamp(-1, 1),
            "upsampler": model.decode(drawn),
            "upsampler, tokens of another photograph": model.decode(mixed),
            "reconstruction at the high resolution": model.decode(tokens),
        }
        for name, picture in pictures.items():
            sums[f"psnr: {name}"] = sums.get(f"psnr: {name}", 0.0) + float(peak_signal_to_noise(picture, images).sum())
        for name, ours, true in zip(("top", "bottom"), drawn.levels[2:], high, strict=True):
            hits = float((ours == true).float().mean((1, 2)).sum())
            sums[f"tokens drawn as in the photograph: {name}"] = (
                sums.get(f"tokens drawn as in the photograph: {name}", 0.0) + hits
            )
        if args.sheet is not None and seen == 0:
            rows = [images, *(pictures[name] for name in list(pictures)[:2]), pictures[list(pictures)[3]]]
            sheet = contact_sheet(torch.cat([row[:8] for row in rows]), 8)
            write_new(args.sheet, png_bytes(sheet, {}), overwrite=True)
        seen += len(labels)
    print(json.dumps({"samples": seen, **{name: round(total / seen, 4) for name, total in sums.items()}}, indent=1))


if __name__ == "__main__":
    main()
