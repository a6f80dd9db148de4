"""Blocks that are faster on a CPU than torch's own are the same blocks: packed layers, GELU, attention in bfloat16."""

from __future__ import annotations

import copy
import math
import pickle
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.model.strait import StraIT
from strait.nn.attention import attend
from strait.nn.gelu import gelu, linear_gelu
from strait.nn.packed import PackedConvolution, PackedLinear, pack_layers
from strait.runtime import devices

QUICK = DecodingConfig((6, 3), (3.0, 3.0), guidance=1.0)


@pytest.fixture(scope="module")
def shipped() -> StraIT:
    return StraIT.from_pretrained(pack=False)


def assert_same_weights(after: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_packed_layers_are_the_same_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(33, 70), nn.ModuleDict({"inner": nn.Linear(70, 5, bias=False)})["inner"])
    before, x = {name: value.clone() for name, value in net.state_dict().items()}, torch.randn(3, 9, 33)
    expected = net(x)
    pack_layers(net)
    assert all(isinstance(layer, PackedLinear) for layer in net)
    assert_same_weights(net.state_dict(), before)
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
    assert_same_weights(net.state_dict(), before)
    with torch.no_grad():
        for x, reference in zip(pictures, expected, strict=True):
            torch.testing.assert_close(net(x), reference, atol=1e-5, rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"no gradient.*pack=False"):
        net(torch.zeros(1, 3, 8, 8, requires_grad=True))


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX2", reason="the layouts of other processors have not been looked at"
)
def test_weights_of_a_packed_convolution_are_not_rearranged_at_every_call(capfd: pytest.CaptureFixture[str]):
    """oneDNN's own log. With AVX2, rearranging took up to thirty times as long as the convolution."""
    torch.manual_seed(0)
    for channels in (96, 160, 176, 256):
        packed = PackedConvolution(nn.Conv2d(channels, channels, 3, padding=1))
        for side in (8, 16, 32, 8):
            x = torch.randn(1, channels, side, side)
            with torch.no_grad():
                packed(x)
                capfd.readouterr()
                with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                    packed(x)
            lines = capfd.readouterr().out.splitlines()
            assert any(",convolution," in line for line in lines)
            rearranged = [line for line in lines if ",reorder," in line and f"{channels}x{channels}x3x3" in line]
            assert not rearranged, (channels, side)


def test_a_packed_model_is_for_inference(shipped: StraIT):
    packed = copy.deepcopy(shipped).pack()
    tokens = shipped.encode(torch.zeros(2, 3, 128, 128))
    images = packed.tokenizer.decoder(*(packed.tokenizer.codebook(0).embed(grid) for grid in tokens.levels))
    assert not images.requires_grad  # without no_grad, since nobody asks for a gradient
    pixels = packed.decode(tokens)
    assert pixels.is_contiguous()
    assert packed.generate(count=1, decoding=QUICK).view(1, -1).shape == (1, 3 * 128 * 128)
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
        output = torch.compile(attend, backend=keep)(query, query, query)
        torch.testing.assert_close(output, attend(query, query, query), atol=0.02, rtol=0.02)
    assert len(graphs) == 1
    assert "baddbmm" not in graphs[0].code


def test_a_packed_tokenizer_finds_the_same_tokens(shipped: StraIT):
    images = shipped.generate(count=4, seed=5, decoding=QUICK)
    packed = copy.deepcopy(shipped).pack()
    tokens, packed_tokens = shipped.encode(images), packed.encode(images)
    assert all(torch.equal(a, b) for a, b in zip(tokens.levels, packed_tokens.levels, strict=True))
    torch.testing.assert_close(packed.decode(tokens), shipped.decode(tokens), atol=1e-4, rtol=0)


def test_packed_layers_refuse_what_they_cannot_do():
    layer = nn.Sequential(nn.Linear(3, 2))
    pack_layers(layer)
    with pytest.raises(RuntimeError, match=r"no gradient.*pack=False"):
        layer(torch.zeros(1, 3, requires_grad=True))
    with pytest.raises(RuntimeError, match=r"cannot be moved"):
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


def test_packing_keeps_hash_and_files(shipped: StraIT, tmp_path: Path):
    packed = copy.deepcopy(shipped).pack()
    assert packed.weights_hash() == shipped.weights_hash()
    packed.save_pretrained(tmp_path)
    again = StraIT.from_pretrained(tmp_path)
    assert again.weights_hash() == shipped.weights_hash()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators give memory back by themselves")
def test_packing_keeps_no_memory():
    """The allocator once kept freed weights of whole layers: a tenth of a model in float32, a third in bfloat16."""
    program = """
import dataclasses, torch
from pathlib import Path
from strait.config import config_path, read_config
from strait.model.sharing import unfilled
from strait.model.strait import StraIT
from strait.runs.bench import fill_quickly

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

config = read_config(config_path("imagenet256"))
top, bottom = config.model.top, config.model.bottom
fewer = dataclasses.replace(
    config.model, top=dataclasses.replace(top, layers=4), bottom=dataclasses.replace(bottom, layers=2)
)
model = unfilled(StraIT, fewer, [], config.decoding, torch.float32)
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
    reference = before.requires_grad_()
    F.gelu(reference, approximate="tanh").sum().backward()
    assert torch.equal(x.grad, reference.grad)  # type: ignore[arg-type]


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
        output = linear_gelu(net[0], x)
        after = gelu(net[0](x))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), exact, atol=1e-3, rtol=2**-8)
    assert (output.double() - exact).abs().mean() < (after.double() - exact).abs().mean()


@pytest.mark.parametrize(
    ("queries", "keys", "pieces"), [(65, 65, 1), (7, 600, 1), (150, 150, 6), (260, 257, 12), (8, 8, 0)]
)
@pytest.mark.parametrize("amx", [False, True])
def test_attention_in_bfloat16_is_attention(
    monkeypatch: pytest.MonkeyPatch, queries: int, keys: int, pieces: int, amx: bool
):
    """Beside a softmax in double precision, for an image by itself as among others; torch's own where there is AMX."""
    monkeypatch.setattr("strait.nn.attention._PIECE", 2**16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    torch.manual_seed(0)
    # As a projection leaves them: heads are not contiguous.
    query, key, value = (torch.randn(2, length, 6, 24).transpose(1, 2).bfloat16() for length in (queries, keys, keys))
    scores = query.double() @ key.double().mT / 24**0.5
    exact = (scores.softmax(-1) @ value.double()).transpose(1, 2).flatten(-2)
    products = []
    product = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *args, **options: products.append(1) or product(*args, **options))
    with torch.no_grad():
        output = attend(query, key, value)
        assert len(products) == (0 if amx else pieces)
        alone = [attend(query[i : i + 1], key[i : i + 1], value[i : i + 1]) for i in range(2)]
    assert output.dtype == torch.bfloat16
    assert output.shape == (2, queries, 144)
    torch.testing.assert_close(output.double(), exact, atol=0.02, rtol=0.02)
    assert torch.equal(torch.cat(alone), output)


@pytest.mark.skipif(not devices._has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_in_bfloat16_an_image_depends_on_itself_alone():
    half = StraIT.from_pretrained(dtype=torch.bfloat16)
    labels = torch.arange(9)
    together = final_tokens(half.decoding_steps(labels, seed=4, decoding=QUICK)).levels
    for image in (0, 5, 8):
        steps = half.decoding_steps(labels[[image]], seed=4, indices=torch.tensor([image]), decoding=QUICK)
        alone = final_tokens(steps).levels
        assert all(torch.equal(grid[0], grids[image]) for grid, grids in zip(alone, together, strict=True))


@pytest.mark.skipif(not devices._has_bfloat16("cpu"), reason="this processor has no bfloat16, so nothing packs it")
@pytest.mark.parametrize("width", [168, 300, 384, 512, 640, 1000, 3072])
def test_a_row_of_a_bfloat16_product_does_not_depend_on_the_number_of_rows(width: int):
    """Processors with AMX take the terms of a long sum in another order for another number of rows."""
    torch.manual_seed(0)
    linear = nn.Linear(width, 256).to(torch.bfloat16)
    packed = PackedLinear(linear)
    x = torch.randn(1024, width).to(torch.bfloat16)
    exact = x.double() @ linear.weight.double().T + linear.bias.double()
    for then, expected in (("none", exact), ("gelu", F.gelu(exact, approximate="tanh"))):
        together = packed(x, then)
        assert torch.allclose(together.double(), expected, rtol=2**-6, atol=2**-6)
        for rows in (1, 7, 31, 48, 64, 100, 128, 255, 384):
            assert torch.equal(packed(x[:rows], then), together[:rows])
    packed_state = packed.state_dict()
    assert all(torch.equal(packed_state[name], value) for name, value in linear.state_dict().items())


def test_attention_in_bfloat16_has_its_gradient():
    query = torch.randn(1, 2, 70, 8).bfloat16().requires_grad_()
    attend(query, query.detach(), query.detach()).float().square().sum().backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
