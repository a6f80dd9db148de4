"""The pictures of README and of the site's first page, drawn by the model that ships: run it after that has changed.

python docs/pictures.py                                  docs/images/decoding.gif and docs/images/best.png
python docs/pictures.py --model M --labels a,b,c,d,e     of another model

The classes are chosen, since a model draws some better than others. The images are not: they are those of the seed.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch
from PIL import Image

from strait.model.strait import StraIT
from strait.pictures.sheets import contact_sheet
from strait.runtime.files import write_bytes
from strait.types import Images, Tokens

IMAGES = Path(__file__).parent / "images"
LABELS = "mountain,forest,lemon,tomato,sunflower"
SIDE = 128  # pixels of an image in the moving picture: smaller ones are enlarged by a whole number
MILLISECONDS, LAST = 300, 2500
COLUMNS, COLOURS = 8, 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--labels", default=LABELS, help="classes, between commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=IMAGES)
    args = parser.parse_args()
    model = StraIT.from_pretrained(args.model)
    names = args.labels.split(",")
    args.folder.mkdir(parents=True, exist_ok=True)
    write_bytes(args.folder / "decoding.gif", moving_picture(model, names, args.seed))
    buffer = io.BytesIO()
    best_sheet(model, names, args.seed).save(buffer, "PNG")
    write_bytes(args.folder / "best.png", buffer.getvalue())


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


def _enlarged(images: Images) -> Images:
    times = -(-SIDE // images.shape[-1])
    return images.repeat_interleave(times, 2).repeat_interleave(times, 3)


if __name__ == "__main__":
    main()
