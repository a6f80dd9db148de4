"""A model with the interface of a diffusers pipeline: ``pipe(["lemon"], num_inference_steps=(18, 6)).images``.

It generates the same images as ``StraIT.generate``. Differences from diffusers: steps are given for each level, and a
``guidance_scale`` of 0 means no guidance (the paper uses 0.2), where diffusers uses 1.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.model.sharing import moved
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures
from strait.runtime.messages import first_line
from strait.types import DecodingStep, Images

StepCallback = Callable[["StraITPipeline", int, int, dict[str, Any]], Any]
"""``callback(pipe, step, timestep, values)``: see ``StraITPipeline.__call__``."""


@dataclass(frozen=True)
class PipelineOutput:
    """The result of a call.

    Attributes:
        images: PIL pictures, or an array float32 ``[images, height, width, 3]`` in [0, 1], or ``Images``, a tensor in
            [-1, 1] as elsewhere in this package.
    """

    images: list[Image.Image] | np.ndarray | Images


class StraITPipeline:
    """Generates images.

    Args:
        model: with all its parts; available as ``pipe.model``.
    """

    def __init__(self, model: StraIT) -> None:
        self.model = model

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, **options: Any) -> StraITPipeline:
        """Load a model; arguments as of ``StraIT.from_pretrained``."""
        return cls(StraIT.from_pretrained(source, **options))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def to(
        self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> StraITPipeline:
        """Move the model: ``pipe.to("cuda")``, ``pipe.to("cuda", torch.bfloat16)``, ``pipe.to(torch.bfloat16)``.

        ``pipe.model`` becomes a new model, for inference; the one before stays as it is. A compiled model must be
        compiled again.

        Args:
            device: where to; a dtype in its place changes that alone.
            dtype: of the transformers, as in ``StraIT.from_pretrained``. The tokenizer is always float32.

        Returns:
            This pipeline.

        Raises:
            ValueError: if there is no such device.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        before = next(self.model.part(self.model.config.parts[-1]).parameters()).dtype
        place = self.device if device is None else _device(device)
        if place != self.device or dtype not in (None, before):
            self.model = moved(self.model, place, dtype or before).pack()
        return self

    def __call__(
        self,
        class_labels: str | int | Sequence[str | int] | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | None = None,
        temperature: float | Sequence[float] | None = None,
        num_images_per_label: int = 1,
        generator: int | torch.Generator | Sequence[int | torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> PipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            class_labels: names in any case, WordNet ids or indices; None draws random classes, or generates
                unconditionally if the model has none.
            num_inference_steps: steps of each level, such as (18, 6). The model's defaults if None, as for the next
                two.
            guidance_scale: of classifier-free guidance; 0 for none.
            temperature: of the noise on the confidences, for all levels or for each.
            num_images_per_label: consecutive images of each label; without labels, the total number.
            generator: source of the seed. An integer is the seed, as for ``StraIT.generate``. From a
                ``torch.Generator`` a seed is drawn, so the next call gives other images. A list has one seed or
                generator for each image, which then depends only on that and its label; without labels, its class
                too. By default every call draws a new seed.
            output_type: ``pil``, ``np`` or ``pt``: see ``PipelineOutput``.
            return_dict: False returns ``(images,)``.
            callback_on_step_end: called as ``callback(pipe, step, timestep, values)`` after every step: ``step``
                counts from 0 through all levels, ``timestep`` is the number of remaining steps (at most, with a
                quality below 1), and ``values`` has the ``decoding_step`` and its ``tokens`` (int64 ``[batch, h, w]``)
                and ``masked`` (bool). Its return value is ignored; an exception in it ends the call. Each batch counts
                anew.
            batch_size: images decoded at once; by default as many as fit into memory, at most 64.
            settings: others of ``DecodingConfig`` by name: ``quality``, ``revise``, ``guidance_ramp`` ...

        Raises:
            TypeError: for a setting that does not exist.
            ValueError: for invalid labels or settings.
            ModelError: if a part is missing.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type: {output_type!r} is not one of pil, np, pt")
        if num_images_per_label < 1:
            raise ValueError(f"num_images_per_label: {num_images_per_label} must be at least 1")
        steps = [num_inference_steps] if isinstance(num_inference_steps, SupportsIndex) else num_inference_steps
        decoding = self.model.default_decoding().chosen(
            self.model.config.tokenizer.num_levels,
            steps,
            temperature,
            guidance_scale,
            called="num_inference_steps",
            **settings,
        )
        names = None if class_labels is None else self._labels(class_labels, num_images_per_label)
        count = num_images_per_label if names is None else len(names)
        seeds, indices = _seeds(generator, count)
        if names is None and isinstance(generator, Sequence):
            names = [self.model.labels(None, 1, int(seed))[0] for seed in seeds]
        labels = torch.tensor(self.model.labels(names, count, int(seeds[0])), dtype=torch.int64)
        batch_size = self.model.batch_size(None if batch_size is None else min(batch_size, count), decoding)
        batches: list[Tensor] = []
        for label, seed, index in zip(*(rows.split(batch_size) for rows in (labels, seeds, indices)), strict=True):
            steps = self.model.decoding_steps(label, seed, index, decoding)
            watch = None if callback_on_step_end is None else self._watch(callback_on_step_end, decoding)
            batches.append(self.model.decode(final_tokens(steps, watch)))
        images = _as_type(torch.cat(batches), output_type)
        return PipelineOutput(images) if return_dict else (images,)

    def _labels(self, class_labels: str | int | Sequence[str | int], times: int) -> list[str | int]:
        labels: list[Any] = [class_labels] if np.ndim(class_labels) == 0 else list(class_labels)  # pyright: ignore
        if not labels:
            raise ValueError("class_labels: the list is empty; None draws random classes")
        return [label for label in labels for _ in range(times)]

    def _watch(self, callback: StepCallback, decoding: DecodingConfig) -> Callable[[DecodingStep], None]:
        """A function that calls a callback after each step of one batch."""
        lengths = [height * width for height, width in self.model.config.grids]
        # A level takes at most one step per token; fewer if the pace adapts.
        total = sum(map(min, decoding.steps, lengths)) + len(decoding.steps) * decoding.revise_passes
        taken = 0

        def watch(step: DecodingStep) -> None:
            nonlocal taken
            grids = {"tokens": step.canvas.as_grid(), "masked": step.canvas.masked.view(-1, *step.canvas.grid)}
            callback(self, taken, total - taken - 1, {"decoding_step": step, **grids})
            taken += 1

        return watch


def _device(name: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name} is not available here ({first_line(error)})") from error


def _seeds(
    generator: int | torch.Generator | Sequence[int | torch.Generator] | None, count: int
) -> tuple[Tensor, Tensor]:
    """For each image, its seed and its index under that seed: int64 ``[count]`` each."""
    if generator is None or isinstance(generator, SupportsIndex | torch.Generator):
        return torch.full((count,), _seed(generator), dtype=torch.int64), torch.arange(count)
    if len(generator) != count:
        raise ValueError(f"generator: {len(generator)} generators were given for {count} images")
    return torch.tensor([_seed(item) for item in generator], dtype=torch.int64), torch.zeros(count, dtype=torch.int64)


def _seed(generator: int | torch.Generator | None) -> int:
    """A seed itself, or one that is drawn from a generator."""
    seed = operator.index(generator) if isinstance(generator, SupportsIndex) else _drawn(generator)
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"generator: {seed} does not fit into 64 bits")
    return seed


def _drawn(generator: torch.Generator | None) -> int:
    if generator is None:
        # A new generator, so that torch's default generator is not advanced.
        generator = torch.Generator()
        generator.seed()
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def _as_type(images: Images, output_type: str) -> list[Image.Image] | np.ndarray | Images:
    if output_type == "pil":
        return to_pictures(images)
    if output_type == "np":
        return images.float().add(1).div(2).permute(0, 2, 3, 1).cpu().numpy()
    return images
