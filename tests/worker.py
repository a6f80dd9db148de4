"""What ``test_distributed.py`` runs in one process and in two: ``worker.py PHOTOS FOLDER JOBS``.

In float64: every ``float()`` of the code is a ``double()`` here, so that what differs is wrong and not rounded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from strait.data.config import DataConfig
from strait.data.encoding import Encoding, build_token_cache
from strait.data.images import in_order
from strait.data.job import Job
from strait.data.sources import open_images
from strait.data.token_cache import TokenCache
from strait.data.training_images import training_batches
from strait.evaluation.features import Features
from strait.evaluation.generation import SampleSet, generated
from strait.evaluation.reference import ReferenceSet, features_of, reference_features
from strait.model.strait import StraIT
from strait.runtime.ranks import Ranks
from strait.tokenizer.classifier import Classifier
from strait.tokenizer.config import ClassifierConfig, TokenizerConfig
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.classifier_loop import ClassifierTrainee
from strait.training.config import (
    AdversarialConfig,
    ClassifierTrainingConfig,
    CodebookConfig,
    RunConfig,
    TokenizerTrainingConfig,
    TransformerTrainingConfig,
)
from strait.training.distributed import launched
from strait.training.tokenizer_loop import TokenizerImages, TokenizerTrainee
from strait.training.transformer_loop import Preview, TrainingTokens, TransformerTrainee
from strait.transformer.bottom import BottomTransformer
from strait.transformer.config import TransformerConfig
from strait.transformer.top import TopTransformer

CPU = torch.device("cpu")
SIZE, STEPS, BATCH = 32, 20, 12
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=24, code_dim=4, normalize_codes=True
)
STAGE1 = TokenizerTrainingConfig(
    steps=STEPS,
    batch_size=BATCH,
    learning_rate=3e-5,  # small: what rounding leaves grows tenfold a step at the usual ones
    perceptual="none",
    bottom_dropout=0.4,
    code_noise=0.4,
    ema_decay=0.9,
    adversarial=AdversarialConfig(
        weight=0.1, start=0.3, ramp=0.2, r1_every=2, lecam_weight=0.05, channels=8, max_channels=16
    ),
    codebook=CodebookConfig(entropy_weight=0.1, restart_below=0.9, restart_every=3, start=4),
)
CLASSIFIER = ClassifierTrainingConfig(
    steps=STEPS, batch_size=BATCH, learning_rate=1e-3, warmup_steps=3, ema_decay=0.9, smallest_crop=0.5
)
STAGE2 = TransformerTrainingConfig(steps=STEPS, batch_size=BATCH, learning_rate=1e-3, warmup_steps=3, ema_decay=0.9)
SHAPE = TransformerConfig(layers=2, width=32, mlp=64, heads=4, dropout=0.0, norm="pre", qk_norm=True)


def cells(images: Tensor) -> Any:
    """Brightness as tokens: 4x4 and 8x8."""
    from strait.types import StratifiedTokens

    def ids(side: int) -> Tensor:
        means = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), images.shape[2] // side)[:, 0]
        return ((means + 1) / 2 * 15).round().long()

    return StratifiedTokens((ids(4), ids(8)))


def cache_in(folder: Path, photos: str, ranks: Ranks, **settings: Any) -> TokenCache:
    source = open_images(photos, "train")
    job = Job(CPU, ranks)
    encoding = Encoding(source, cells, ("top", "bottom"), SIZE, DataConfig(cache_variants=2))
    cache = build_token_cache(folder, encoding, job, **settings)
    job.bad_files.summary()
    return cache


def run(trainee: Any, ranks: Ranks) -> tuple[dict[str, Any], dict[str, Tensor]]:
    trainee.begin(0)
    curves: dict[str, list[float]] = {}
    for step in range(STEPS):
        for name, value in trainee.step(step).items():
            if not isinstance(value, tuple):
                mean = ranks.mean(torch.as_tensor(value, dtype=torch.float64))
                curves.setdefault(name, []).append(float(mean))
    return curves, {name: value.contiguous() for name, value in trainee.tensors().items()}


def tokenizer(photos: str, out: Path, ranks: Ranks, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    source, config = open_images(photos, "train"), replace(STAGE1, **settings)

    def batches(step: int) -> Any:
        return training_batches(source, SIZE, config.batch_size, DataConfig(shift=2), 5, step, 0, ranks)

    preview = next(in_order(source, SIZE, 2)).images(CPU)
    network = StratifiedTokenizer(TOKENIZER)
    run_config, images = RunConfig(seed=5, precision="float32"), TokenizerImages(SIZE, batches, preview)
    trainee = TokenizerTrainee(network, config, run_config, images, Job(CPU, ranks))
    return run(trainee, ranks)


def classifier(photos: str, out: Path, ranks: Ranks, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    source, config = open_images(photos, "train"), replace(CLASSIFIER, **settings)

    def batches(step: int) -> Any:
        return training_batches(source, SIZE, config.batch_size, DataConfig(shift=2), 5, step, 0, ranks)

    network = Classifier(ClassifierConfig(channels=8, multipliers=(1, 2)), len(source.classes))
    run_config = RunConfig(seed=5, precision="float32")
    trainee = ClassifierTrainee(network, config, run_config, batches, None, Job(CPU, ranks))
    return run(trainee, ranks)


def transformer(photos: str, out: Path, ranks: Ranks, settings: dict[str, Any]) -> Any:
    cache = cache_in(out.with_name("tokens"), photos, ranks)
    torch.manual_seed(0)
    level, parallel = settings.pop("level", 0), settings.pop("parallel", "ddp")
    network = (
        TopTransformer(SHAPE, 16, 4, (4, 4)) if level == 0 else BottomTransformer(SHAPE, 16, [16], 4, (8, 8), [(4, 4)])
    )
    run_config = RunConfig(seed=5, precision="float32", parallel=parallel, sample_every=5)
    config, tokens = replace(STAGE2, **settings), TrainingTokens(cache, cache)
    preview = Preview(_no_picture)
    trainee = TransformerTrainee(network, {level: network}, config, run_config, tokens, Job(CPU, ranks), preview)
    curves, tensors = run(trainee, ranks)
    assert bool(tensors) == ranks.first  # who does not write them does not hold them
    assert bool(trainee.weights()) == ranks.first
    assert all(value.device == CPU and not hasattr(value, "full_tensor") for value in tensors.values())
    everybody = ranks.on_first(lambda: tensors)
    trainee.load_tensors(everybody)  # what has been put together can be taken apart again
    again = trainee.tensors()
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    return curves, tensors


def _no_picture() -> Any:
    raise AssertionError("no sample grid was asked for")


class Means:
    """Features simple enough to be the same in any batch."""

    name = resize = digest = "means"

    def __call__(self, images: Tensor) -> Features:
        return Features(images.flatten(2).mean(-1), None)


def shared(photos: str, out: Path, ranks: Ranks, settings: dict[str, Any]) -> Any:
    """Tokens cached in pieces, features of generated images and of photographs."""
    cache = cache_in(out.with_name("split"), photos, ranks, piece_images=6, batch_size=4)
    levels = {name: torch.from_numpy(level.astype("int64")) for name, level in zip("tb", cache.levels, strict=True)}
    model = StraIT.from_pretrained()
    decoding = replace(model.default_decoding(), steps=(2, 1))
    images = generated(model, SampleSet(7, 1, decoding, batch_size=2), ranks)
    features = features_of(images, Means(), 7, "made", ranks)
    photographs = ReferenceSet(open_images(photos, "train"), "train", 16)
    real = reference_features(photographs, Means(), CPU, batch_size=9, ranks=ranks)
    assert features is not None
    return {}, {**levels, "labels": cache.labels, "made": features.values, "real": real.values}


TASKS: dict[str, Callable[..., Any]] = {task.__name__: task for task in (tokenizer, classifier, transformer, shared)}


def main() -> None:
    photos, folder, jobs = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    with launched(CPU) as (ranks, _):
        for job in sorted(jobs, key=lambda job: job != "shared"):
            if job != "shared":  # the shipped model's float32 is what its users get
                torch.set_default_dtype(torch.float64)
                torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
            out = folder / job / "state.safetensors"
            out.parent.mkdir(parents=True, exist_ok=True)
            curves, tensors = TASKS[job.partition("-")[0]](photos, out, ranks, jobs[job])
            if ranks.first:
                save_file(tensors, str(out))
                out.with_suffix(".json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
