"""Export a model as ONNX files: one step of each level's transformer, and the pixel decoder, for any batch size.

The loop over steps, its noise and its schedule are not part of the graphs; ``generate.py``, which is written into the
same folder, implements them in numpy.

    LEVEL.onnx     tokens, masked, labels, every coarser level's grid -> logits
    pixels.onnx    a grid for each level of the tokenizer -> images
    export.json    grids, codebook sizes, decoding defaults, class names
    generate.py    generates images from these files with onnxruntime, without torch
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strait.model.config import ModelError
from strait.model.parts import LevelNetwork, level_networks
from strait.model.sharing import unfilled
from strait.model.strait import StraIT
from strait.randomness import key
from strait.runtime.files import naming, write_bytes, write_text
from strait.runtime.messages import library_needed
from strait.types import NULL_LABEL, Canvas, Condition, Grid, Images, Tokens

_LARGEST_DIFFERENCE = 1e-2
"""Rounding errors of dozens of layers stay a hundred times below this; the errors of a wrong graph do not."""


class _Step(nn.Module):
    """A level's transformer as a function of tensors only."""

    def __init__(self, network: LevelNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, masked: Tensor, labels: Tensor, *context: Tensor) -> Tensor:
        return self.network.bind(Condition(labels, context))(Canvas(tokens, masked, self.network.grid))


class _Pixels(nn.Module):
    """The grids of all levels -> images."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, *grids: Tensor) -> Images:
        return self.tokenizer.decode(Tokens(grids))


@dataclasses.dataclass(frozen=True)
class _Graph:
    """One file: a module, example inputs with two rows, and the names of inputs and output."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    output: str
    free_sides: bool = False

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """The batch, and for the pixel decoder also the grid's sides: those of finer levels are multiples."""
        batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
        shapes: list[dict[int, Any]] = []
        for level in range(len(self.inputs)):
            sides = {1: 2**level * height, 2: 2**level * width} if level else {1: height, 2: width}
            shapes.append({0: batch, **(sides if self.free_sides else {})})
        # Both modules take their last inputs as *args, whose shapes must be grouped in a tuple.
        fixed = 0 if self.free_sides else 3
        starred = [tuple(shapes[fixed:])] if shapes[fixed:] else []
        return (*shapes[:fixed], *starred)


def export_onnx(model: StraIT, folder: Path) -> list[Path]:
    """Write the files of a model.

    Args:
        model: with all its parts, in any dtype, packed or not, on any device; the files are float32.
        folder: created if needed; files of the same names are replaced.

    Returns:
        The paths of the files.

    Raises:
        ModelError: if a part is missing; an untrained upsampler is left out.
        ValueError: if the libraries are not installed, or the exported program lacks a setting of the model.
    """
    decoding = model.default_decoding()
    if decoding.quality < 1 or decoding.revise != "none":
        raise ValueError(
            f"decoding: the exported program offers only quality 1 and revise none, but the model's defaults are "
            f"{decoding.quality:g} and {decoding.revise}"
        )
    for library in ("onnx", "onnxscript"):
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise ValueError(f"export needs {library_needed(error, 'export')}") from error
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for graph in _graphs(model):
        paths.append(folder / f"{graph.name}.onnx")
        _write(graph, paths[-1])
    write_text(folder / "export.json", json.dumps(_description(model), indent=1) + "\n")
    write_bytes(folder / "generate.py", (Path(__file__).parent / "generate.py").read_bytes())
    return [*paths, folder / "export.json", folder / "generate.py"]


@torch.no_grad()
def largest_difference(model: StraIT, folder: Path) -> float:
    """Run the files in onnxruntime and compare logits and pixels with those of the model.

    Raises:
        ModelError: if the difference exceeds rounding errors.
        ValueError: if onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"export needs {library_needed(error, 'export')}") from error
    largest = 0.0
    for graph in _graphs(model):
        path = folder / f"{graph.name}.onnx"
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        used = {entry.name for entry in session.get_inputs()}
        inputs = {name: value.numpy() for name, value in graph.inputs.items() if name in used}
        (output,) = session.run([graph.output], inputs)
        difference = float((torch.from_numpy(output) - graph.module(*graph.inputs.values())).abs().max())
        if not difference <= _LARGEST_DIFFERENCE:
            raise ModelError(f"{path}: its {graph.output} differ by {difference:g} from those of the model")
        largest = max(largest, difference)
    return largest


def _levels(model: StraIT) -> int:
    """The number of exported levels: without the upsampler's if that is not trained."""
    return len(model.default_decoding().steps)


def _graphs(model: StraIT) -> Iterator[_Graph]:
    model.require(*(part for part in model.config.parts if part != "upsampler"))
    copy = unfilled(StraIT, model.config, list(model.classes), model.decoding, torch.float32)
    copy.load_state_dict(model.state_dict())
    copy.eval()
    config, levels = model.config, _levels(model)
    names, sizes = config.level_names[:levels], config.level_codebook_sizes
    grids = {
        name: _example_ids(number, grid, sizes[number])
        for number, (name, grid) in enumerate(zip(names, config.grids, strict=False))
    }
    networks: dict[int, LevelNetwork] = {}
    for part in config.parts[1:]:
        networks.update(level_networks(copy.part(part)))
    for number, name in enumerate(names):
        tokens = grids[name].flatten(1)
        context = {coarser: grids[coarser] for coarser in names[:number]}
        labels = torch.tensor([NULL_LABEL, len(model.classes) - 1])
        inputs = {"tokens": tokens, "masked": tokens % 2 == 0, "labels": labels, **context}
        yield _Graph(name, _Step(networks[number]), inputs, "logits")
    last = names[-config.tokenizer.num_levels :]
    yield _Graph("pixels", _Pixels(copy.tokenizer), {name: grids[name] for name in last}, "images", free_sides=True)


def _example_ids(level: int, grid: Grid, codebook_size: int) -> Tensor:
    """Two rows of example ids, ``[2, h, w]``."""
    return key(level, torch.arange(2 * grid[0] * grid[1])).bitwise_and(0xFFFF).remainder(codebook_size).view(2, *grid)


def _write(graph: _Graph, path: Path) -> None:
    shapes = graph.dynamic_shapes()
    with _quiet():
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            dynamic_shapes=shapes,
        )
    assert program is not None
    # A failed write leaves no part of a file. Weights above 2 GB lie in files of their own, named by the first.
    with naming(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as temporary:
        program.save(str(Path(temporary) / path.name))
        for file in sorted(Path(temporary).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about missing libraries and shared axis names."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _description(model: StraIT) -> dict[str, Any]:
    config, levels = model.config, _levels(model)
    return {
        "format": 1,
        "levels": [
            {"name": name, "grid": list(grid), "codebook_size": size}
            for name, grid, size in zip(
                config.level_names[:levels], config.grids, config.level_codebook_sizes, strict=False
            )
        ],
        "tokenizer_levels": config.tokenizer.num_levels,
        "decoding": dataclasses.asdict(model.default_decoding()),
        "classes": list(model.classes),
        "model": model.weights_hash(),
    }
