"""The time of an edit: in a running process, and as a whole command including the start of Python and torch.

python benchmarks/editing_time.py       on noise; the time does not depend on the content of a picture
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from strait.decoding.config import DecodingConfig
from strait.editing.infilling import base_decoding, infill
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures
from strait.randomness import key, uniform
from strait.types import Images


def seconds_an_edit(model: StraIT, image: Images, decoding: DecodingConfig) -> float:
    """The fastest of five infillings of an image's left half ``[1, 3, size, size]``, after one warm-up."""
    mask = torch.zeros(1, *image.shape[2:], dtype=torch.bool)
    mask[..., : image.shape[3] // 2] = True
    label = torch.tensor([0])
    infill(model, image, mask, label, decoding=decoding)
    return _quickest(lambda: infill(model, image, mask, label, decoding=decoding), 5)


def seconds_a_command(image: Images, model: str | None = None) -> float:
    """The fastest of three processes of ``strait edit infill``, from the start of Python to its end."""
    (picture,) = to_pictures(image)
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        picture.save(photo)
        box = f"0,0,{picture.width // 2},{picture.height}"
        arguments = ["edit", "infill", str(photo), "--box", box, "--label", "0", "--device", "cpu", "--output", folder]
        command = [sys.executable, "-m", "strait.cli", *arguments, *([] if model is None else ["--model", model])]
        return _quickest(lambda: subprocess.run(command, check=True, capture_output=True), 3)


def _quickest(action: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    args = parser.parse_args()
    model = StraIT.from_pretrained(args.model)
    side = model.config.image_size
    image = uniform(key(0, torch.arange(3 * side * side))).float().view(1, 3, side, side) * 2 - 1
    print(f"one infilling: {seconds_an_edit(model, image, base_decoding(model)):.3f} s")
    print(f"strait edit infill, the whole command: {seconds_a_command(image, args.model):.2f} s")
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
