"""strait: Stratified Image Transformer, non-autoregressive image generation and editing.

from strait import StraIT
images = StraIT.from_pretrained().generate(["lemon", "red apple"], seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strait.model.pipeline import StraITPipeline
    from strait.model.strait import StraIT

__version__ = "0.1.0"
__all__ = ["StraIT", "StraITPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: the command line answers at once.
    if name == "StraIT":
        from strait.model.strait import StraIT

        return StraIT
    if name == "StraITPipeline":
        from strait.model.pipeline import StraITPipeline

        return StraITPipeline
    raise AttributeError(f"module 'strait' has no attribute {name!r}")
