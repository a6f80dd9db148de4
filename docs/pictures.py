"""The pictures of README and of the site's first page, drawn by the model that ships: run it after that has changed.

python docs/pictures.py                                  docs/images/decoding.gif, best.png, wide.png, revised.png
python docs/pictures.py --model M --labels a,b,c,d,e     of another model
python docs/pictures.py --data nature128                 docs/images/editing.png as well, from validation photographs

The classes and photographs are chosen, since a model draws some better than others. The results are not: they are
those of the seed. Photographs of produce are MIT (c) 2019 Marcus Klasson.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from strait.data.sources import open_images
from strait.decoding.config import AUTO_QUALITY
from strait.editing.extension import generate_sized
from strait.editing.infilling import infill
from strait.editing.transfer import random_kept, transfer
from strait.model.strait import StraIT
from strait.pictures.as_images import as_images
from strait.pictures.sheets import contact_sheet
from strait.randomness import image_seeds
from strait.runtime.files import write_bytes
from strait.types import Images, Tokens

IMAGES = Path(__file__).parent / "images"
LABELS = "mountain,forest,lemon,tomato,sunflower"
SIDE = 128  # pixels of an image in the moving picture: smaller ones are enlarged by a whole number
MILLISECONDS, LAST = 300, 2500
COLUMNS, COLOURS = 8, 96
EDITS = (("orange", 3, "lemon"), ("green apple", 2, "orange"), ("lemon", 2, "tomato"), ("tomato", 2, "orange"))
"""Of each photograph its class, its number within the class, and the class it is transferred to."""
WIDE = ("forest", "mountain", "tomato", "sea")
RESULTS, KEEP = 3, 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--labels", default=LABELS, help="classes, between commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="nature128: draw editing.png as well")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    args = parser.parse_args()
    model = StraIT.from_pretrained(args.model)
    names = args.labels.split(",")
    args.folder.mkdir(parents=True, exist_ok=True)
    write_bytes(args.folder / "decoding.gif", moving_picture(model, names, args.seed))
    sheets = {
        "best.png": best_sheet(model, names, args.seed),
        "wide.png": wide_sheet(model, args.seed),
        "revised.png": revised_sheet(model, names, args.seed),
    }
    if args.data is not None:
        sheets["editing.png"] = editing_sheet(model, args.data, args.seed)
    for name, sheet in sheets.items():
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        write_bytes(args.folder / name, buffer.getvalue())


def moving_picture(model: StraIT, names: list[str], seed: int) -> bytes:
    """A GIF: one image of each class, side by side, after every step of the top and then of the bottom."""
    labels = torch.tensor(model.labels(names, len(names), seed))
    grids: dict[str, torch.Tensor] = {}
    pictures: list[Image.Image] = []
    for step in model.decoding_steps(labels, seed):
        # While there is no bottom yet, the top is decoded alone.
        grids[step.level] = step.canvas.as_grid()
        images = model.decode(Tokens(tuple(grids.values())))
        title = f"{step.level}: step {step.index + 1} of {step.num_steps}"
        pictures.append(contact_sheet(_enlarged(images), len(names), [title]))
    limited = [picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT) for picture in pictures]
    durations = [MILLISECONDS] * (len(limited) - 1) + [LAST]
    buffer = io.BytesIO()
    limited[0].save(buffer, "GIF", save_all=True, append_images=limited[1:], duration=durations, loop=0)
    return buffer.getvalue()


def best_sheet(model: StraIT, names: list[str], seed: int) -> Image.Image:
    """A row of images for each class."""
    images = model.generate([name for name in names for _ in range(COLUMNS)], seed=seed)
    return contact_sheet(images, COLUMNS, [model.classes.title(model.classes.find(name)) for name in names])


def wide_sheet(model: StraIT, seed: int) -> Image.Image:
    """Images of three times the width, drawn by windows."""
    labels = torch.tensor(model.labels(WIDE, len(WIDE), seed))
    size = (model.config.image_size, 3 * model.config.image_size)
    images = generate_sized(model, labels, size, seed)
    return contact_sheet(images, 2)


def revised_sheet(model: StraIT, names: list[str], seed: int) -> Image.Image:
    """The same seeds with revision, another guidance and steps that adapt, at most as many passes each."""
    base = model.default_decoding()
    top, bottom = base.steps
    methods = {
        "default": base,
        "remask 0.1": replace(base, revise="remask", revise_share=0.1),
        "confidence 0.1": replace(base, revise="confidence", revise_share=0.1),
        "redraw 4": replace(base, steps=(top - 4, bottom - 4), revise="redraw", revise_passes=4),
        "constant guidance 1": replace(base, guidance=1.0, guidance_start=0.0),
        f"auto {AUTO_QUALITY:g}": replace(base, quality=AUTO_QUALITY),
    }
    rows = [model.generate(names, seed=seed, decoding=decoding) for decoding in methods.values()]
    return contact_sheet(torch.cat(rows), len(names), list(methods))


def editing_sheet(model: StraIT, data: str, seed: int) -> Image.Image:
    """A row for each photograph: transfers to another class, then infillings of its right half under its own class."""
    source = open_images(data, "validation")
    size = model.config.image_size
    right = torch.zeros(RESULTS, size, size, dtype=torch.bool)
    right[:, :, size // 2 :] = True
    decoding = model.default_decoding()
    indices = torch.arange(RESULTS)
    rows: list[Images] = []
    titles: list[str] = []
    for name, number, target in EDITS:
        index = int(np.flatnonzero(source.labels() == source.classes.find(name))[number])
        photograph = as_images([source.read(index)[0]], size)
        photographs = photograph.expand(RESULTS, -1, -1, -1)
        kept = random_kept(model.encode(photographs).levels[0], KEEP, image_seeds(seed, indices))
        labels, own_labels = (torch.tensor(model.labels([label] * RESULTS, RESULTS, seed)) for label in (target, name))
        transferred = transfer(model, photographs, labels, kept, seed, decoding=decoding)
        hidden = photograph.masked_fill(right[:1, None], 1.0)
        filled = infill(model, photographs, right, own_labels, seed, decoding=decoding)
        filled = torch.where(right[:, None], filled, photographs)
        rows.append(torch.cat([photograph, transferred, hidden, filled]))
        titles.append(f"{name}, transferred to {target}; then its right half drawn anew")
    return contact_sheet(torch.cat(rows), 2 * (RESULTS + 1), titles)


def _enlarged(images: Images) -> Images:
    times = -(-SIDE // images.shape[-1])
    return images.repeat_interleave(times, 2).repeat_interleave(times, 3)


if __name__ == "__main__":
    main()
