"""The methods at equal cost, which is not a table of the paper but tests its argument.

StraIT, MaskGIT on one grid (short and long), StraIT's pipeline on VQGAN2-C and the cascade of two VQGANs are trained
for the same time with equally many transformer parameters; the large MaskGIT has more, in the proportion of Table 2.
Each is decoded with its own best settings, without guidance and with the configuration's. As in the paper, StraIT and
StraIT on VQGAN2-C differ only in their fusion; StraIT with bottom dropout is our variant.

strait table equal-cost --config nature64-cpu --data DIR --tokenizer-budget 60 --budget 30 --seeds 2
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from strait.config import Config
from strait.evaluation.cost import describe
from strait.tables.methods import as_named, bottom_dropped, bottom_kept
from strait.tables.table import Claim, Mean, Row, Table


def maskgit(config: Config, fine: bool = False) -> Config:
    """MaskGIT on one grid, with as many layers as fit the number of parameters of all of StraIT's levels.

    Args:
        config: StraIT's.
        fine: use the grid of the bottom instead of the top.
    """

    def parameters(config: Config) -> int:
        parts = describe(config.model, 1)["parts"]
        return sum(parts[part]["parameters"] for part in parts if part not in ("tokenizer", "upsampler"))

    def with_layers(count: int) -> Config:
        return dataclasses.replace(single, top=dataclasses.replace(single.top, layers=count))

    # As wide as StraIT's top; only the number of layers changes.
    single = as_named(config, "maskgit-imagenet256-f8" if fine else "maskgit-imagenet256-8192")
    single = dataclasses.replace(single, top=config.top)
    total = parameters(single)
    per_layer = parameters(with_layers(single.top.layers + 1)) - total
    return with_layers(single.top.layers + (parameters(config) - total) // per_layer)


def _on_c(config: Config) -> Config:
    return bottom_kept(as_named(config, "imagenet256-vqgan2-c-deep"))


def _named(name: str) -> Callable[[Config], Config]:
    return lambda config: as_named(config, name)


@dataclass(frozen=True)
class _Method:
    """A method: its name, change of the configuration, the paper's figures without guidance (Tables 2, 5 and 6), and
    the number of levels to decode, None for all."""

    name: str
    change: Callable[[Config], Config]
    paper: Mapping[str, float] = field(default_factory=dict)
    levels: int | None = None


_METHODS = (
    _Method("StraIT", bottom_kept, {"fid": 3.96, "inception_score": 214.1}),
    _Method("StraIT, bottom dropped (ours)", bottom_dropped),
    _Method("MaskGIT, short", maskgit, {"fid": 6.05, "inception_score": 203}),
    _Method("MaskGIT, long", partial(maskgit, fine=True), {"fid": 6.61, "inception_score": 177.7}),
    _Method("MaskGIT, large", _named("maskgit-imagenet256-1.3b"), {"fid": 5.84, "inception_score": 180.3}),
    _Method("StraIT on VQGAN2-C", _on_c, {"fid": 6.11}),
    _Method("cascade", _named("cascade-imagenet256"), {"fid": 5.71}),
    _Method("cascade, top alone", _named("cascade-imagenet256"), {"fid": 6.05}, levels=1),
)

_COMPARED = ("MaskGIT, short", "MaskGIT, long", "StraIT on VQGAN2-C", "cascade")


def _lead(rows: Mapping[str, Mapping[str, Mean]], name: str, other: str) -> Mean:
    """By how much more of a row's images are recognised than of another's."""
    row, base = rows[name]["recognised"], rows[other]["recognised"]
    known = row.error is not None and base.error is not None
    return Mean(row.value - base.value, math.hypot(row.error or 0.0, base.error or 0.0) if known else None)


def _claims() -> Iterator[Claim]:
    """The paper's order of methods, in recognised images; that in Fréchet distances follows from ``paper``."""
    for name in ("StraIT", "StraIT, bottom dropped (ours)"):
        for other in _COMPARED:
            for suffix in ("", ", guided"):
                lead = partial(_lead, name=name + suffix, other=other + suffix)
                yield Claim(f"recognised: {name}{suffix} is ahead of {other}{suffix}", lead)


TABLE = Table(
    number=None,
    title="methods at equal cost",
    rows=(
        *(Row(m.name, m.paper, change=m.change, levels=m.levels, decoding={"guidance": 0.0}) for m in _METHODS),
        *(Row(f"{m.name}, guided", change=m.change, levels=m.levels) for m in _METHODS),
    ),
    columns=("fid", "inception_score", "precision", "recall", "reconstruction_fid", "parameters", "seconds_per_image"),
    claims=tuple(_claims()),
)
