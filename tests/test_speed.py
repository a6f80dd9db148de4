"""What makes generation fast changes nothing: against the plain loop, torch's own functions, and counts by hand."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from strait import devices
from strait.config import config_path, read_config
from strait.decoding.config import DecodingConfig
from strait.decoding.sampling import masked_positions
from strait.decoding.stratified import final_tokens, stratified_decode
from strait.evaluation.cost import describe
from strait.experiments.bench import PARTS, Bench, Machine
from strait.experiments.run_folder import runnable
from strait.masking import most_masked
from strait.masking_names import SCHEDULES
from strait.memory import bytes_an_image, fitting_batch
from strait.model import StraIT, random_model
from strait.model_config import ModelConfig
from strait.nn.attention import attend
from strait.nn.dropout import Dropout
from strait.nn.gelu import gelu, linear_gelu
from strait.nn.packed import PackedConvolution, PackedLinear, pack_layers
from strait.nn.recompute import recompute_in_backward
from strait.randomness import image_seeds
from strait.tokenizer.config import TokenizerConfig
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
    for one in (model, packed):
        found = final_tokens(one.decoding_steps(LABELS, 11, None, config))
        for level, expected in zip(found.levels, plain_tokens(model, LABELS, 11, config), strict=True):
            assert torch.equal(level.flatten(1), expected)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_the_shipped_model_draws_what_the_plain_loop_draws(shipped: StraIT, guidance: float):
    config, labels = dataclasses.replace(shipped.decoding, guidance=guidance), torch.tensor([193, 1, 7])
    found = final_tokens(copy.deepcopy(shipped).pack().decoding_steps(labels, 2, None, config))
    for level, expected in zip(found.levels, plain_tokens(shipped, labels, 2, config), strict=True):
        assert torch.equal(level.flatten(1), expected)


@pytest.mark.slow
def test_compiled_drawing_draws_the_same(shipped: StraIT):
    compiled = copy.deepcopy(shipped).pack().compile_decoding()
    labels = torch.tensor([193, 1])
    one, other = (final_tokens(m.decoding_steps(labels, 5)) for m in (shipped, compiled))
    assert all(torch.equal(a, b) for a, b in zip(one.levels, other.levels, strict=True))


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
    found = most_masked(schedule, num_steps, start, 12)
    left = [begun for begun, _ in rows]
    for step, most in enumerate(found):
        assert most == max(left)
        left = [
            naive_num_masked(schedule, step, steps, begun, unknown) if unknown and step < steps else 0
            for (begun, steps), unknown in zip(rows, left, strict=True)
        ]


# Products, activations, memory


def test_packed_layers_are_the_same_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(33, 70), nn.ModuleDict({"inner": nn.Linear(70, 5, bias=False)})["inner"])
    before, x = {name: value.clone() for name, value in net.state_dict().items()}, torch.randn(3, 9, 33)
    expected = net(x)
    pack_layers(net)
    assert all(isinstance(layer, PackedLinear) for layer in net)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(net(x)[:1], net(x[:1]))  # a row by itself


def test_packed_convolutions_are_the_same_convolutions():
    """Those of the tokenizers: 3x3, 1x1 and strided ones, of small images, odd sides and either layout in memory."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1),
        nn.Conv2d(40, 8, 1, bias=False),
        nn.Conv2d(8, 24, 4, stride=2, padding=(2, 1), dilation=(2, 1), groups=4),
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pictures = [torch.randn(1, 3, 6, 8), torch.randn(2, 3, 33, 17), torch.randn(1, 3, 64, 64)]
    pictures.append(pictures[1].to(memory_format=torch.channels_last))
    expected = [net(x) for x in pictures]
    pack_layers(net)
    assert all(isinstance(layer, PackedConvolution) for layer in net)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    with torch.no_grad():
        for x, wanted in zip(pictures, expected, strict=True):
            torch.testing.assert_close(net(x), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"no gradient.*pack=False"):
        net(torch.zeros(1, 3, 8, 8, requires_grad=True))


def test_a_packed_model_is_for_inference(shipped: StraIT):
    packed = copy.deepcopy(shipped).pack()
    tokens = shipped.encode(torch.zeros(2, 3, 64, 64))
    images = packed.tokenizer.decoder(*(packed.tokenizer.codebook(0).embed(grid) for grid in tokens.levels))
    assert not images.requires_grad  # without no_grad, since nobody asks for a gradient
    made = packed.decode(tokens)
    assert made.is_contiguous()
    assert packed.generate(count=1).view(1, -1).shape == (1, 3 * 64 * 64)
    for attempt in (copy.deepcopy, pickle.dumps, lambda model: model.load_state_dict(shipped.state_dict())):
        with pytest.raises(RuntimeError, match="pack=False"):
            attempt(packed)


def test_attention_is_not_unrolled_where_it_is_compiled():
    """A few heads at a time would be as many copies of the code as there are pieces."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    query = torch.randn(1, 2, 70, 8).bfloat16()
    with torch.no_grad():
        found = torch.compile(attend, backend=keep)(query, query, query)
        torch.testing.assert_close(found, attend(query, query, query), atol=0.02, rtol=0.02)
    assert len(graphs) == 1
    assert "baddbmm" not in graphs[0].code


def test_a_packed_tokenizer_finds_the_same_tokens(shipped: StraIT):
    images = shipped.generate(count=4, seed=5)
    packed = copy.deepcopy(shipped).pack()
    tokens, found = shipped.encode(images), packed.encode(images)
    assert all(torch.equal(a, b) for a, b in zip(tokens.levels, found.levels, strict=True))
    torch.testing.assert_close(packed.decode(tokens), shipped.decode(tokens), atol=1e-4, rtol=0)


def test_packed_layers_refuse_what_they_cannot_do():
    layer = nn.Sequential(nn.Linear(3, 2))
    pack_layers(layer)
    with pytest.raises(RuntimeError, match=r"no gradient.*pack=False"):
        layer(torch.zeros(1, 3, requires_grad=True))
    with pytest.raises(RuntimeError, match=r"stay where they are"):
        layer.double()
    assert layer.to("cpu")(torch.zeros(1, 3)).shape == (1, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_layers_of_other_dtypes_stay_as_they_are(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """On processors that compute in bfloat16, too."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    layer = nn.Sequential(nn.Linear(3, 2, dtype=dtype))
    pack_layers(layer)
    assert type(layer[0]) is nn.Linear


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, dtype=torch.bfloat16),
    ],
)
def test_convolutions_of_other_kinds_stay_as_they_are(layer: nn.Conv2d):
    net = nn.Sequential(layer)
    pack_layers(net)
    assert net[0] is layer


def test_packing_keeps_hash_and_files(model: StraIT, tmp_path: Path):
    packed = copy.deepcopy(model).pack()
    assert packed.weights_hash() == model.weights_hash()
    packed.save_pretrained(tmp_path)
    again = StraIT.from_pretrained(tmp_path)
    assert again.weights_hash() == model.weights_hash()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators give memory back by themselves")
def test_packing_keeps_no_memory():
    """The allocator once kept freed weights of whole layers: a tenth of a model in float32, a third in bfloat16."""
    program = """
import dataclasses, torch
from pathlib import Path
from strait.config import config_path, read_config
from strait.model import unfilled_model
from strait.experiments.bench import fill_quickly

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

config = read_config(config_path("imagenet256"))
top, bottom = config.model.top, config.model.bottom
fewer = dataclasses.replace(
    config.model, top=dataclasses.replace(top, layers=4), bottom=dataclasses.replace(bottom, layers=2)
)
model = unfilled_model(fewer, [], config.decoding, torch.float32)
fill_quickly(model)
before = held()
model.pack()
print(held() - before)
"""
    grown = float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert grown < 40  # megabytes, where it was over 100


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=50))
def test_gelu_is_the_tanh_form(values: list[float]):
    x = torch.tensor(values)
    by_hand = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.double().tolist()]
    with torch.no_grad():
        assert gelu(x.clone()).tolist() == pytest.approx(by_hand, abs=2e-6, rel=2e-6)


def test_gelu_leaves_its_argument_alone_where_there_are_gradients():
    x = torch.randn(20, requires_grad=True)
    before = x.detach().clone()
    gelu(x).sum().backward()
    assert torch.equal(x.detach(), before)
    other = before.requires_grad_()
    F.gelu(other, approximate="tanh").sum().backward()
    assert torch.equal(x.grad, other.grad)  # type: ignore[arg-type]


def test_long_gelu_is_taken_in_pieces():
    x = torch.randn(3, 2**18 - 1)
    with torch.no_grad():
        torch.testing.assert_close(gelu(x.clone()), F.gelu(x, approximate="tanh"), atol=2e-6, rtol=2e-6)


@pytest.mark.skipif(not devices._has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_gelu_within_a_packed_product_is_rounded_once():
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 96).bfloat16(), torch.randn(3, 7, 64).bfloat16()
    exact = F.gelu(F.linear(x.double(), layer.weight.double(), layer.bias.double()), approximate="tanh")
    net = nn.Sequential(layer)
    pack_layers(net)
    with torch.no_grad():
        found = linear_gelu(net[0], x)
        after = gelu(net[0](x))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=2**-8)
    assert (found.double() - exact).abs().mean() < (after.double() - exact).abs().mean()


@pytest.mark.parametrize(
    ("queries", "keys", "pieces"), [(65, 65, 1), (7, 600, 1), (150, 150, 6), (260, 257, 12), (8, 8, 0)]
)
def test_attention_in_bfloat16_is_attention(monkeypatch: pytest.MonkeyPatch, queries: int, keys: int, pieces: int):
    """Beside a softmax in double precision, for an image by itself as among others."""
    monkeypatch.setattr("strait.nn.attention._PIECE", 2**16)
    torch.manual_seed(0)
    # As a projection leaves them: heads are not contiguous.
    query, key, value = (torch.randn(2, length, 6, 24).transpose(1, 2).bfloat16() for length in (queries, keys, keys))
    scores = query.double() @ key.double().mT / 24**0.5
    exact = (scores.softmax(-1) @ value.double()).transpose(1, 2).flatten(-2)
    products = []
    product = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *args, **options: products.append(1) or product(*args, **options))
    with torch.no_grad():
        found = attend(query, key, value)
        assert len(products) == pieces
        alone = [attend(query[i : i + 1], key[i : i + 1], value[i : i + 1]) for i in range(2)]
    assert found.dtype == torch.bfloat16
    assert found.shape == (2, queries, 144)
    torch.testing.assert_close(found.double(), exact, atol=0.02, rtol=0.02)
    assert torch.equal(torch.cat(alone), found)


@pytest.mark.skipif(not devices._has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_in_bfloat16_an_image_depends_on_itself_alone():
    half = StraIT.from_pretrained(dtype=torch.bfloat16)
    labels = torch.arange(9)
    together = final_tokens(half.decoding_steps(labels, seed=4)).levels
    for image in (0, 5, 8):
        alone = final_tokens(half.decoding_steps(labels[[image]], seed=4, indices=torch.tensor([image]))).levels
        assert all(torch.equal(grid[0], grids[image]) for grid, grids in zip(alone, together, strict=True))


def test_attention_in_bfloat16_has_its_gradient():
    query = torch.randn(1, 2, 70, 8).bfloat16().requires_grad_()
    attend(query, query.detach(), query.detach()).float().square().sum().backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0


def test_recomputing_changes_memory_and_nothing_else():
    block = nn.Sequential(nn.Linear(16, 256), Dropout(0.3), nn.GELU(), nn.Linear(256, 16))
    twin = copy.deepcopy(block)
    recompute_in_backward(twin)
    kept: dict[str, int] = {}
    gradients = []
    for name, one in (("all", block), ("inputs", twin)):
        kept[name] = 0

        def note(value: Tensor, name: str = name) -> Tensor:
            kept[name] += value.numel()
            return value

        x = torch.linspace(-1, 1, 32 * 16).view(32, 16).requires_grad_()
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            loss = one(x).square().sum()
        at_loss = kept[name]
        loss.backward()
        kept[name] = at_loss
        gradients.append([x.grad, *(value.grad for value in one.parameters())])
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
    monkeypatch.setattr("strait.model.free_bytes", lambda device: 10 * each)
    assert model.batch_size(None) == 8
    assert model.batch_size(8) == 8
    with pytest.raises(ValueError, match=r"^batch_size: 9 images at once need about .* GB .* 8 would fit$"):
        model.batch_size(9)
    with pytest.raises(ValueError, match=r"8 would fit"):
        model.generate([0] * 9, batch_size=9)
    assert len(model.generate([0, 1], batch_size=9)) == 2  # two are all there are


@pytest.mark.parametrize("wanted", [0, -1])
def test_a_batch_of_none_says_so(model: StraIT, wanted: int):
    with pytest.raises(ValueError, match=f"^batch_size: {wanted} must be at least 1$"):
        model.generate([0], batch_size=wanted)


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


def test_bfloat16_is_the_transformers_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "_has_bfloat16", lambda kind: True)
    half = StraIT.from_pretrained(dtype=torch.bfloat16)
    assert {value.dtype for value in half.tokenizer.parameters()} == {torch.float32}
    assert {value.dtype for value in half.top.parameters()} == {torch.bfloat16}
    images = half.generate(["teddy"], decoding=DecodingConfig((2, 1), (1.0, 1.0)))
    assert images.dtype == torch.float32
    assert images.isfinite().all()


# The bench


@pytest.fixture(scope="module")
def bench(model: StraIT) -> Bench:
    return Bench(copy.deepcopy(model).pack(), Machine(torch.device("cpu"), torch.float32), 2, 2, 0)


@pytest.mark.parametrize("part", PARTS)
def test_a_measurement_says_what_it_measured(bench: Bench, part: Any):
    report = bench.run(part, DecodingConfig((3, 2), (1.0, 1.0), guidance=0.5))
    cost = {name: entry["multiply_adds"] for name, entry in describe(CONFIG, 3)["parts"].items()}
    flops = {
        **{name: 4 * count for name, count in cost.items()},
        "generate": 8 * (3 * cost["top"] + 2 * cost["bottom"]),
        "train": 12 * cost["top"],
    }
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
    if part == "train":
        assert 0 < report["fraction_loader"] < 1


@pytest.mark.parametrize("config", [["--config", "smoke"], ["--config=smoke"]])
def test_the_command_prints_one_object(config: list[str]):
    words = ["bench", *config, "--part", "top", "--repeats", "1", "--warm-up", "0", "--json"]
    done = subprocess.run([sys.executable, "-m", "strait.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["part"], report["model"], report["batch"]) == ("top", "smoke", 1)
    model = read_config(config_path("smoke")).model
    assert report["flops"] == 2 * describe(model, 1000)["parts"]["top"]["multiply_adds"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part", "middle"], "--part: 'middle' is not one of tokenizer, top, bottom, generate, train"),
        (["--batch", "0"], "--batch: 0 must be at least 1"),
        (["--dtype", "float8"], "--dtype: 'float8' is not one of float32, bfloat16"),
        (["--batch", "100000000"], "images at once need about"),
        (["--config", "imagenette128-cpu", "--steps", "4+2+2+1"], "--steps: 4+2+2+1 must give 2 number(s)"),
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
    assert "--compile: no compiler for cpu was found here" in error
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
