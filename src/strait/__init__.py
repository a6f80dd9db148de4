"""strait: Stratified Image Transformer, non-autoregressive image generation and editing.

from strait import StraIT
images = StraIT.from_pretrained().generate(["lemon", "red apple"], seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strait.model.pipeline import StraITPipeline
    from strait.model.strait import StraIT
    from strait.version import __version__

__all__ = ["StraIT", "StraITPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy, so that importing the package, as the command line does, does not import torch.
    if name == "__version__":
        from strait.version import __version__

        return __version__
    if name == "StraIT":
        from strait.model.strait import StraIT

        return StraIT
    if name == "StraITPipeline":
        from strait.model.pipeline import StraITPipeline

        return StraITPipeline
    raise AttributeError(f"module 'strait' has no attribute {name!r}")
