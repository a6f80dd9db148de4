"""A sheet of four photographs outside the training set, extended by four top tokens on either side.

python benchmarks/extension.py --data DIR --sheet sheet.png [--classes orange,pepper]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from strait.data.images import in_order
from strait.data.sources import ClassesOf, open_images
from strait.editing.edits import Edit, extend_picture
from strait.editing.extension import Sides
from strait.model.strait import StraIT
from strait.pictures.images import to_images, to_pictures
from strait.pictures.reading import Picture
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.runtime.files import write_new

_PHOTOGRAPHS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--classes", help="of the photographs, between commas; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, required=True)
    args = parser.parse_args()
    model = StraIT.from_pretrained(args.model)
    source = ClassesOf(open_images(args.data, "validation"), model.classes)
    candidates = np.arange(len(source))
    if args.classes is not None:
        numbers = [model.classes.find(name) for name in args.classes.split(",")]
        candidates = np.flatnonzero(np.isin(source.labels(), numbers))
    places = [(2 * place + 1) * len(candidates) // (2 * _PHOTOGRAPHS) for place in range(_PHOTOGRAPHS)]
    chosen = candidates[places].tolist()
    (batch,) = in_order(source, model.config.image_size, _PHOTOGRAPHS, chosen)
    extended = []
    pictures = to_pictures(batch.images(torch.device("cpu")))
    for picture, label in zip(pictures, batch.labels.tolist(), strict=True):
        edit = Edit(model, label, seed=args.seed)
        (pixels,) = extend_picture(edit, Picture(np.asarray(picture)), Sides(left=4, right=4))
        extended.append(to_images(Image.fromarray(pixels)))
    sheet = contact_sheet(torch.cat(extended), 2)
    settings = {"model": model.weights_hash(), "seed": args.seed, "photographs": chosen}
    write_new(args.sheet, png_bytes(sheet, settings), overwrite=True)


if __name__ == "__main__":
    main()
