"""Infilling of boxes at every offset: how many top tokens stay known, and whether the filling fits.

python benchmarks/infilling_boxes.py --data DIR [--photographs 8] [--side 128] [--offsets 4]

Boxes of several sizes are placed at evenly spaced positions of each photograph. "Centred, any pixel" centres the
window on the box and makes every token unknown that the box touches; the other rows place the window, and keep a top
token known if at most a share of it is masked (``EditConfig.cover``).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch

from strait.data.images import in_order
from strait.data.sources import open_images
from strait.editing.config import EditConfig
from strait.editing.edits import Edit, expanded, infilling_window
from strait.editing.infilling import encode_for_infilling, infill_canvases
from strait.editing.masks import box_mask
from strait.editing.placing import Window, cut, put_back, window_around
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures
from strait.pictures.reading import Picture

_COVERS = (0.0, 0.125, 0.25, 0.5)
_SHARES = (0.2, 0.35, 0.5, 0.55)


@dataclass
class Row:
    """Sums over boxes.

    Attributes:
        unknown: number of top tokens that are drawn.
        none_known: number of boxes for which all top tokens are drawn.
        error: root mean square distance to the photograph inside the box, in levels of 0..255.
        colour: distance between the mean colour inside and that of a band around the box.
    """

    count: int = 0
    unknown: int = 0
    none_known: int = 0
    error: float = 0.0
    colour: float = 0.0

    def add(self, unknown: int, tokens: int, result: np.ndarray, picture: Picture, mask: np.ndarray) -> None:
        band = _grown(mask, 8) & ~mask
        assert np.array_equal(result[~mask], picture.pixels[~mask])
        inside, true = result[mask].astype(float), picture.pixels[mask].astype(float)
        self.count += 1
        self.unknown += unknown
        self.none_known += unknown == tokens
        self.error += float(np.sqrt(((inside - true) ** 2).mean()))
        self.colour += float(np.abs(inside.mean(0) - picture.pixels[band].mean(0)).mean())


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    grown = np.zeros_like(mask)
    grown[max(0, rows[0] - pixels) : rows[-1] + 1 + pixels, max(0, columns[0] - pixels) : columns[-1] + 1 + pixels] = (
        True
    )
    return grown


def filled(
    edit: Edit, picture: Picture, mask: np.ndarray, window: Window, config: EditConfig
) -> tuple[int, np.ndarray]:
    """How many top tokens are drawn, and the result."""
    model = edit.model
    images, masks = cut(picture.rgb(), mask, window, model.config.image_size, hide=True)
    tokens = encode_for_infilling(model, images, masks)
    canvases = infill_canvases(expanded(tokens, 1), masks, edit.seeds(torch.tensor([0])), config)
    (image,) = edit.results(lambda _: canvases)
    return int(canvases[0].masked.sum()), put_back(picture.pixels, image, mask, window, config.feather)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--side", type=int, default=128, help="of the photographs, in pixels")
    parser.add_argument("--offsets", type=int, default=4, help="places of a box along either axis together")
    args = parser.parse_args()
    model = StraIT.from_pretrained(args.model)
    source = open_images(args.data, "validation")
    chosen = [(2 * place + 1) * len(source) // (2 * args.photographs) for place in range(args.photographs)]
    (batch,) = in_order(source, args.side, args.photographs, chosen)
    pictures = [Picture(np.asarray(picture)) for picture in to_pictures(batch.images(torch.device("cpu")))]
    size, tokens = model.config.image_size, model.config.grids[0][0]
    rows = {"centred, any pixel": Row(), **{f"placed, cover {cover:g}": Row() for cover in _COVERS}}
    for number, picture in enumerate(pictures):
        edit = Edit(model, seed=number).base()
        for share in _SHARES:
            extent = round(share * args.side)
            for place in range(args.offsets):
                top = round((args.side - extent) * (place + 0.5) / args.offsets)
                left = round((args.side - extent) * ((place * 3 + 1) % args.offsets + 0.5) / args.offsets)
                mask = box_mask(f"{left},{top},{left + extent},{top + extent}", picture.size)
                # One token along a side has one place: the middle.
                config, window = EditConfig(cover=0), window_around(mask, size, 2.0, 1)
                rows["centred, any pixel"].add(
                    *_with(tokens, filled(edit, picture, mask, window, config)), picture, mask
                )
                for cover in _COVERS:
                    config = EditConfig(cover=cover)
                    window = infilling_window(model, mask, config)
                    row = rows[f"placed, cover {cover:g}"]
                    row.add(*_with(tokens, filled(edit, picture, mask, window, config)), picture, mask)
    print(f"{args.photographs} photographs of {args.side} pixels, {next(iter(rows.values())).count} boxes a row")
    print("window, tokens         top tokens drawn  no token known  distance to the photograph  to the colour around")
    for name, row in rows.items():
        print(
            f"{name:<22} {row.unknown / row.count:>16.1f} {row.none_known / row.count:>15.0%} "
            f"{row.error / row.count:>27.1f} {row.colour / row.count:>21.1f}"
        )


def _with(tokens: int, result: tuple[int, np.ndarray]) -> tuple[int, int, np.ndarray]:
    return result[0], tokens * tokens, result[1]


if __name__ == "__main__":
    main()
