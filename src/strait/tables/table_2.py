"""Table 2: StraIT and MaskGIT, small and large, without guidance; other methods are quoted.

strait table 2 --config tiny-imagenet64-cpu --data DIR --budget 30
"""

from __future__ import annotations

from strait.tables.table import Row, Table

_PLAIN = {"guidance": 0.0}
_LARGE = (
    "the paper says 1.3B and gives no shape; 24 layers of width 2048 with MLPs of 8192 and 16 heads are our reading"
)


def _quoted(name: str, parameters: float, steps: int, *figures: float | None) -> Row:
    names = ("fid", "inception_score", "precision", "recall")
    scores = {key: value for key, value in zip(names, figures, strict=False) if value is not None}
    return Row(name, {"parameters": parameters, **scores}, quoted={"steps": str(steps)}, ours=False)


TABLE = Table(
    number=2,
    title="generation without guidance",
    rows=(
        _quoted("VQVAE-2", 13.5e9, 5120, 31.11, 45, 0.36, 0.57),
        _quoted("VQGAN, autoregressive", 1.3e9, 256, 15.78, 78.3),
        _quoted("RQ-Transformer", 3.8e9, 256, 7.55, 137),
        _quoted("ViT-VQ + VIM", 1.7e9, 1024, 4.17, 175.1),
        _quoted("Improved DDPM", 280e6, 250, 12.26, None, 0.70, 0.62),
        _quoted("ADM", 554e6, 250, 10.94, 101.0, 0.69, 0.63),
        _quoted("VQ-Diffusion", 518e6, 100, 11.89),
        _quoted("LDM", 400e6, 250, 10.56, 103.49, 0.71, 0.62),
        _quoted("CDM", 1e9, 250, 4.88, 158.71),
        Row(
            "MaskGIT, 8 steps",
            {"parameters": 227e6, "fid": 6.18, "inception_score": 182.1, "precision": 0.80, "recall": 0.51},
            configuration="maskgit-imagenet256",
            steps=(8,),
            decoding=_PLAIN,
            quoted={"steps": "8"},
        ),
        Row(
            "MaskGIT large, 12 steps",
            {"parameters": 1.3e9, "fid": 5.84, "inception_score": 180.3, "precision": 0.73, "recall": 0.54},
            configuration="maskgit-imagenet256-1.3b",
            steps=(12,),
            decoding=_PLAIN,
            quoted={"steps": "12"},
            departs=_LARGE,
        ),
        Row(
            "MaskGIT large, 36 steps",
            {"parameters": 1.3e9, "fid": 5.71, "inception_score": 185.9, "precision": 0.73, "recall": 0.56},
            configuration="maskgit-imagenet256-1.3b",
            steps=(36,),
            decoding=_PLAIN,
            quoted={"steps": "36"},
            departs=_LARGE,
        ),
        Row(
            "StraIT, 18+6 steps",
            {"parameters": 863e6, "fid": 3.96, "inception_score": 214.1, "precision": 0.74, "recall": 0.62},
            steps=(18, 6),
            decoding=_PLAIN,
            quoted={"steps": "12*"},
        ),
    ),
    columns=("parameters", "steps", "fid", "inception_score", "precision", "recall", "seconds_per_image"),
    notes=(
        "12*: the paper counts a pass through the whole model, top and bottom, as one step. 18+6 steps are 24 passes "
        "through one of the two; at the paper's size they cost 4.27T multiply-adds an image, 12 passes through both "
        "5.34T",
    ),
)
