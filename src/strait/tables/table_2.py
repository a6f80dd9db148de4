"""Table 2: StraIT and MaskGIT, small and large, without guidance; other methods are quoted.

strait table 2 --config tiny-imagenet64-cpu --data DIR --budget 30
"""

from __future__ import annotations

import dataclasses

from strait.config import Config
from strait.tables.table import Row, Table, single_scale

_PLAIN = {"guidance": 0.0}


def _large(config: Config) -> Config:
    """MaskGIT with a transformer twice as wide: four times its parameters, against the paper's 5.7 times."""
    config = single_scale(config)
    top = dataclasses.replace(config.top, width=2 * config.top.width, mlp=2 * config.top.mlp)
    return dataclasses.replace(config, top=top)


def _quoted(name: str, *figures: float | None) -> Row:
    names = ("fid", "inception_score", "precision", "recall")
    return Row(name, {key: value for key, value in zip(names, figures, strict=False) if value is not None}, ours=False)


TABLE = Table(
    number=2,
    title="generation without guidance",
    rows=(
        _quoted("VQVAE-2", 31.11, 45, 0.36, 0.57),
        _quoted("VQGAN, autoregressive", 15.78, 78.3),
        _quoted("RQ-Transformer", 7.55, 137),
        _quoted("ViT-VQ + VIM", 4.17, 175.1),
        _quoted("Improved DDPM", 12.26, None, 0.70, 0.62),
        _quoted("ADM", 10.94, 101.0, 0.69, 0.63),
        _quoted("VQ-Diffusion", 11.89),
        _quoted("LDM", 10.56, 103.49, 0.71, 0.62),
        _quoted("CDM", 4.88, 158.71),
        Row(
            "MaskGIT, 8 steps",
            {"fid": 6.18, "inception_score": 182.1, "precision": 0.80, "recall": 0.51},
            single_scale,
            (8,),
            _PLAIN,
        ),
        Row(
            "MaskGIT large, 12 steps",
            {"fid": 5.84, "inception_score": 180.3, "precision": 0.73, "recall": 0.54},
            _large,
            (12,),
            _PLAIN,
        ),
        Row(
            "MaskGIT large, 36 steps",
            {"fid": 5.71, "inception_score": 185.9, "precision": 0.73, "recall": 0.56},
            _large,
            (36,),
            _PLAIN,
        ),
        Row(
            "StraIT, 18+6 steps",
            {"fid": 3.96, "inception_score": 214.1, "precision": 0.74, "recall": 0.62},
            steps=(18, 6),
            decoding=_PLAIN,
        ),
    ),
    columns=("fid", "inception_score", "precision", "recall", "parameters", "seconds_per_image"),
)
