"""What makes generation fast changes nothing: against the plain loop, torch's own functions, and counts by hand."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from strait.config import Config, config_path, read_config
from strait.decoding.config import SCHEDULES, DecodingConfig
from strait.decoding.masking import most_masked
from strait.decoding.sampling import masked_positions
from strait.decoding.stratified import final_tokens, stratified_decode
from strait.evaluation.cost import describe
from strait.model.config import ModelConfig
from strait.model.memory import bytes_an_image, fitting_batch
from strait.model.strait import StraIT, random_model
from strait.nn.dropout import Dropout
from strait.nn.recompute import recompute_in_backward
from strait.randomness import image_seeds
from strait.runs.bench import PARTS, Bench, Machine
from strait.runs.noise import random_trainee, tokenizer_networks
from strait.runs.run_folder import runnable
from strait.runtime import devices
from strait.tokenizer.config import TokenizerConfig
from strait.training.config import AdversarialConfig, CodebookConfig, TokenizerTrainingConfig
from strait.transformer.config import TransformerConfig
from strait.types import Canvas
from test_masking import naive_num_masked

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from plain_loop import plain_tokens

SMALL = TransformerConfig(layers=2, width=32, mlp=48, heads=4, dropout=0.1)
CONFIG = ModelConfig(
    image_size=32,
    tokenizer=TokenizerConfig(channels=8, multipliers=(1, 1, 2, 2), res_blocks=1, codebook_size=24, code_dim=4),
    top=dataclasses.replace(SMALL, norm="pre", qk_norm=True),
    bottom=SMALL,
)
LABELS = torch.tensor([0, 2, 1, 2, 0])


@pytest.fixture(scope="module")
def model() -> StraIT:
    return random_model(CONFIG, ["a", "b", "c"], seed=3)


@pytest.fixture(scope="module")
def shipped() -> StraIT:
    return StraIT.from_pretrained(pack=False)


# The same tokens


@pytest.mark.parametrize("guidance", [0.0, 0.8])
@pytest.mark.parametrize("schedule", ["cosine", "logarithmic"])
def test_tokens_equal_the_plain_loop(model: StraIT, guidance: float, schedule: Any):
    config = DecodingConfig((9, 5), (4.0, 1.5), guidance=guidance, schedule=schedule)
    packed = copy.deepcopy(model).pack()
    for variant in (model, packed):
        tokens = final_tokens(variant.decoding_steps(LABELS, 11, None, config))
        for level, expected in zip(tokens.levels, plain_tokens(model, LABELS, 11, config), strict=True):
            assert torch.equal(level.flatten(1), expected)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_the_shipped_model_draws_what_the_plain_loop_draws(shipped: StraIT, guidance: float):
    config, labels = dataclasses.replace(shipped.decoding, steps=(6, 3), guidance=guidance), torch.tensor([29, 1, 7])
    tokens = final_tokens(copy.deepcopy(shipped).pack().decoding_steps(labels, 2, None, config))
    for level, expected in zip(tokens.levels, plain_tokens(shipped, labels, 2, config), strict=True):
        assert torch.equal(level.flatten(1), expected)


@pytest.mark.slow
def test_compiled_drawing_draws_the_same(shipped: StraIT):
    compiled = copy.deepcopy(shipped).pack().compile_decoding()
    labels = torch.tensor([29, 1])
    tokens, compiled_tokens = (final_tokens(m.decoding_steps(labels, 5)) for m in (shipped, compiled))
    assert all(torch.equal(a, b) for a, b in zip(tokens.levels, compiled_tokens.levels, strict=True))


class _Questions(TorchDispatchMode):
    """Counts operations that make the host wait for a device: those that hand a value, or a shape made of values."""

    asking = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(self.asking):
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("keep", ["confidence", "halton"])
def test_no_step_asks_the_device_anything(model: StraIT, known: bool, keep: Any):
    config = DecodingConfig((4, 3), (1.0, 1.0), guidance=0.5, keep=keep)
    canvases = None
    if known:
        generator = torch.Generator().manual_seed(0)
        canvases = [Canvas.blank(5, grid) for grid in CONFIG.grids]
        canvases = [
            dataclasses.replace(c, masked=torch.rand(c.masked.shape, generator=generator) < 0.7) for c in canvases
        ]
    seeds = image_seeds(0, torch.arange(5))
    steps = stratified_decode(model.levels(), LABELS, seeds, config, canvases)
    taken = 0
    with torch.no_grad():
        for step in steps:  # a level's first step comes after its one question
            taken += 1
            while step.index + 1 < step.num_steps:
                with _Questions() as questions:
                    step = next(steps)
                assert questions.asked == []
                taken += 1
    assert taken > 4


def test_the_counter_of_questions_counts():
    with _Questions() as questions:
        int(torch.tensor(3))
        torch.tensor([1, 0]).nonzero()
    assert questions.asked == ["_local_scalar_dense", "nonzero"]


# Only where tokens are unknown


@given(data=st.data(), length=st.integers(1, 20), batch=st.integers(1, 4))
def test_masked_positions_are_where_the_mask_is(data: st.DataObject, length: int, batch: int):
    rows = st.lists(st.booleans(), min_size=length, max_size=length)
    masked = torch.tensor([data.draw(rows) for _ in range(batch)])
    count = data.draw(st.integers(int(masked.sum(-1).max()), length))
    positions = masked_positions(masked, count)
    assert positions.shape == (batch, count)
    for row, places in enumerate(positions.tolist()):
        hidden = [place for place, value in enumerate(masked[row].tolist()) if value]
        assert places[: len(hidden)] == hidden
        assert len(set(places)) == count


@given(
    schedule=st.sampled_from(SCHEDULES),
    rows=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), min_size=1, max_size=4),
)
def test_counts_known_beforehand_are_those_of_the_steps(schedule: str, rows: list[tuple[int, int]]):
    start, num_steps = (torch.tensor(column) for column in zip(*rows, strict=True))
    counts = most_masked(schedule, num_steps, start, 12)
    left = [begun for begun, _ in rows]
    for step, most in enumerate(counts):
        assert most == max(left)
        left = [
            naive_num_masked(schedule, step, steps, begun, unknown) if unknown and step < steps else 0
            for (begun, steps), unknown in zip(rows, left, strict=True)
        ]


# Memory


def test_recomputing_changes_memory_and_nothing_else():
    block = nn.Sequential(nn.Linear(16, 256), Dropout(0.3), nn.GELU(), nn.Linear(256, 16))
    twin = copy.deepcopy(block)
    recompute_in_backward(twin)
    kept: dict[str, int] = {}
    gradients = []
    for name, network in (("all", block), ("inputs", twin)):
        kept[name] = 0

        def note(value: Tensor, name: str = name) -> Tensor:
            kept[name] += value.numel()
            return value

        x = torch.linspace(-1, 1, 32 * 16).view(32, 16).requires_grad_()
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            loss = network(x).square().sum()
        at_loss = kept[name]
        loss.backward()
        kept[name] = at_loss
        gradients.append([x.grad, *(value.grad for value in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept["inputs"] < kept["all"] / 10


# What fits, and what a device can do


@given(free=st.integers(0, 2**40), images=st.integers(1, 300), guidance=st.sampled_from([0.0, 1.0]))
def test_a_batch_that_fits_fits(free: int, images: int, guidance: float):
    each = bytes_an_image(CONFIG, DecodingConfig(guidance=guidance), 4, False)
    fits = fitting_batch(free, each)
    assert fits * each <= free < (fits + 1) * each / 0.8 + 2
    assert bytes_an_image(CONFIG, DecodingConfig(guidance=1.0), 4, False) >= 2 * bytes_an_image(
        CONFIG, DecodingConfig(), 4, False
    )


def test_a_batch_that_does_not_fit_says_what_would(model: StraIT, monkeypatch: pytest.MonkeyPatch):
    each = bytes_an_image(CONFIG, model.default_decoding(), 4, False)
    monkeypatch.setattr("strait.model.memory.free_bytes", lambda device: 10 * each)
    assert model.batch_size(None) == 8
    assert model.batch_size(8) == 8
    with pytest.raises(ValueError, match=r"^batch_size: 9 images at once need about .* GB .* 8 would fit$"):
        model.batch_size(9)
    with pytest.raises(ValueError, match=r"8 would fit"):
        model.generate([0] * 9, batch_size=9)
    assert len(model.generate([0, 1], batch_size=9)) == 2  # two are all there are


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_none_says_so(model: StraIT, size: int):
    with pytest.raises(ValueError, match=f"^batch_size: {size} must be at least 1$"):
        model.generate([0], batch_size=size)


def test_settings_for_more_levels_than_there_are_say_so(model: StraIT):
    with pytest.raises(ValueError, match=r"gives 3 levels, the model has 2$"):
        model.generate([0], decoding=DecodingConfig(steps=(1, 1, 1), temperature=(1.0, 1.0, 1.0)))


def test_bfloat16_falls_back_with_one_warning(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(devices, "_has_bfloat16", lambda kind: False)
    cpu = torch.device("cpu")
    assert [devices.usable_dtype(torch.bfloat16, cpu) for _ in range(3)] == [torch.float32] * 3
    assert devices.usable_dtype(torch.float32, cpu) == torch.float32
    assert capfd.readouterr().err == "this cpu cannot compute in bfloat16; float32 is used instead\n"
    monkeypatch.setattr(devices, "_has_bfloat16", lambda kind: True)
    assert devices.usable_dtype(torch.bfloat16, cpu) == torch.bfloat16


def test_without_onednn_a_cpu_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert not devices._has_bfloat16("cpu")


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the processor's flags are not in /proc")
def test_a_processor_that_emulates_bfloat16_has_none():
    """oneDNN claims bfloat16 on every processor with AVX-512; a tokenizer trained there at a fifth of the speed."""
    flags = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if flags is None:
        pytest.skip("not an x86 processor")
    assert devices._has_bfloat16("cpu") == bool({"avx512_bf16", "amx_bf16"} & set(flags[1].split()))


def test_bfloat16_is_the_transformers_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "_has_bfloat16", lambda kind: True)
    half = StraIT.from_pretrained(dtype=torch.bfloat16)
    assert {value.dtype for value in half.tokenizer.parameters()} == {torch.float32}
    assert {value.dtype for value in half.top.parameters()} == {torch.bfloat16}
    images = half.generate(["lemon"], decoding=DecodingConfig((2, 1), (1.0, 1.0)))
    assert images.dtype == torch.float32
    assert images.isfinite().all()


# The bench


@pytest.fixture(scope="module")
def bench(model: StraIT) -> Bench:
    config = Config(
        **{field.name: getattr(CONFIG, field.name) for field in dataclasses.fields(CONFIG)},
        tokenizer_training=TokenizerTrainingConfig(steps=100, perceptual="none", codebook=CodebookConfig(start=3)),
    )
    machine = Machine(torch.device("cpu"), torch.float32)
    return Bench(copy.deepcopy(model).pack(), machine, 2, 2, 0, config=config)


@pytest.mark.parametrize("part", [part for part in PARTS if "upsampler" not in part])
def test_a_measurement_says_what_it_measured(bench: Bench, part: Any):
    report = bench.run(part, DecodingConfig((3, 2), (1.0, 1.0), guidance=0.5))
    cost = {name: entry["multiply_adds"] for name, entry in describe(CONFIG, 3)["parts"].items()}
    flops = {
        **{name: 4 * count for name, count in cost.items()},
        "generate": 8 * (3 * cost["top"] + 2 * cost["bottom"]),
        "train-top": 12 * cost["top"],
        "train-bottom": 12 * cost["bottom"],
    }
    if part == "train-tokenizer":
        assert report["flops"] > 3.02 * flops["tokenizer"]  # with its adversary, more than the closed form below
    else:
        assert report["flops"] == flops[part]
    assert report["fraction_of_ceiling"] == pytest.approx(
        report["flops"] / report["seconds"] / report["ceiling_flops_per_s"]
    )
    assert report["seconds_least"] <= report["seconds"] <= report["seconds_most"]
    assert report["ceiling_least"] <= report["ceiling_flops_per_s"] <= report["ceiling_most"]
    assert report["peak_memory_bytes"] > 10**7
    assert report["copy_bytes_per_s"] > 0
    assert {"device", "threads", "dtype", "batch", "torch", "repeats", "warm_up"} <= set(report)
    if part == "generate":
        assert report["images_per_second"] == pytest.approx(2 / report["seconds"])
        assert report["over_forward_passes"] >= 1
    if part in ("train-top", "train-bottom"):
        assert 0 < report["fraction_loader"] < 1


def test_operations_of_a_tokenizers_step_are_three_forward_passes_without_adversary(model: StraIT):
    """Closed form: two products of the same size for each product forwards, but none for the images' gradient."""
    training = TokenizerTrainingConfig(
        steps=100, perceptual="none", codebook=CodebookConfig(start=3), adversarial=AdversarialConfig(weight=0.0)
    )
    fields = {field.name: getattr(CONFIG, field.name) for field in dataclasses.fields(CONFIG)}
    config = Config(**fields, tokenizer_training=training)
    machine = Machine(torch.device("cpu"), torch.float32)
    flops = Bench(model, machine, 2, 1, 0, config=config).run("train-tokenizer")["flops"]
    forward = 4 * describe(CONFIG, 3)["parts"]["tokenizer"]["multiply_adds"]
    assert 2.8 * forward < flops <= 3.02 * forward
    with pytest.raises(ValueError, match="train-top: give the training's --config"):
        Bench(model, machine, 2, 1, 0).run("train-top")
    cascade = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, kind="cascade"))
    with pytest.raises(ValueError, match="a cascade trains two networks"):
        Bench(model, machine, 2, 1, 0, config=cascade).run("train-tokenizer")


def test_the_upsampler_is_measured_by_itself_and_in_generating():
    """Of its two networks, a pass each; at each of their steps, one of them."""
    small = TransformerConfig(layers=1, width=32, mlp=48, heads=2)
    config = dataclasses.replace(CONFIG, upsampler=small)
    bench = Bench(random_model(config, ["a", "b"]), Machine(torch.device("cpu"), torch.float32), 2, 1, 0)
    parts = describe(config, 2)["parts"]
    up_top, up_bottom = parts["upsampler"]["level_multiply_adds"]
    assert parts["upsampler"]["multiply_adds"] == up_top + up_bottom
    assert up_bottom > up_top > parts["top"]["multiply_adds"]
    assert bench.run("upsampler")["flops"] == 4 * (up_top + up_bottom)
    report = bench.run("generate", DecodingConfig((3, 2, 4, 1), (1.0,) * 4))
    adds = 3 * parts["top"]["multiply_adds"] + 2 * parts["bottom"]["multiply_adds"] + 4 * up_top + up_bottom
    assert report["flops"] == 4 * adds
    assert report["steps"] == [3, 2, 4, 1]


@pytest.mark.parametrize("config", [["--config", "smoke"], ["--config=smoke"]])
def test_the_command_prints_one_object(config: list[str], capfd: pytest.CaptureFixture[str]):
    from strait.cli import main

    words = ["bench", *config, "--part", "top", "--repeats", "1", "--warm-up", "0", "--json"]
    assert main(words) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["part"], report["model"], report["batch"]) == ("top", "smoke", 1)
    model = read_config(config_path("smoke")).model
    assert report["flops"] == 2 * describe(model, 1000)["parts"]["top"]["multiply_adds"]


@pytest.mark.parametrize("changes", [{"perceptual": "classifier"}, {"only_decoder": True}])
def test_every_tokenizers_training_is_measured(changes: dict[str, Any], tmp_path: Path):
    """Neither a trained classifier nor a trained encoder is needed to time a step."""
    adversarial = AdversarialConfig(weight=0.0)
    training = TokenizerTrainingConfig(perceptual="none", adversarial=adversarial, batch_size=2)
    config = Config(**vars(CONFIG), tokenizer_training=dataclasses.replace(training, **changes))
    with random_trainee(config, "tokenizer", 2, 3, torch.device("cpu"), *tokenizer_networks(config)) as trainee:
        trainee.begin(0)
        assert math.isfinite(float(trainee.step(0)["loss"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part", "middle"], "--part: 'middle' is not one of tokenizer, top, bottom, upsampler, generate, train"),
        (["--batch", "0"], "--batch: 0 must be at least 1"),
        (["--dtype", "float8"], "--dtype: 'float8' is not one of float32, bfloat16"),
        (["--batch", "100000000"], "images at once need about"),
        (["--part", "upsampler"], "--part: this model has no upsampler; it has tokenizer, top, bottom"),
        (["--config", "imagenette128-cpu", "--steps", "4+2+2"], "--steps: 4+2+2 must give 2 or 4 number(s)"),
    ],
)
def test_wrong_settings_are_one_line(words: list[str], message: str, capfd: pytest.CaptureFixture[str]):
    from strait.cli import main

    assert main(["bench", *words]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["bench"], ["generate", "--output", "out"]])
def test_compiling_without_a_compiler_is_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    from strait.cli import main

    monkeypatch.setattr(devices, "can_compile", lambda device: False)
    assert main([*words, "--compile", "--device", "cpu"]) == 2
    error = capfd.readouterr().err
    assert "--compile: there is no compiler for cpu here" in error
    assert error.count("\n") == 1


def test_training_falls_back_too(monkeypatch: pytest.MonkeyPatch):
    config, cpu = read_config(config_path("imagenet256")), torch.device("cpu")
    assert config.run.precision == "bfloat16"
    monkeypatch.setattr(devices, "_has_bfloat16", lambda kind: False)
    assert runnable(config, cpu) == dataclasses.replace(
        config, run=dataclasses.replace(config.run, precision="float32")
    )
    monkeypatch.setattr(devices, "_has_bfloat16", lambda kind: True)
    assert runnable(config, cpu) == config
