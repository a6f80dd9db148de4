"""The tokenizer's shapes, its fusions, its gradients and its size, against closed forms and plain second versions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from strait.nn.convolution import ResidualBlock, downsample, group_norm, upsample
from strait.tokenizer.build import AnyTokenizer, build_tokenizer
from strait.tokenizer.config import TokenizerConfig, TokenizerKind
from strait.tokenizer.vqgan import VQGAN
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.types import StratifiedTokens, Tokens

TINY = TokenizerConfig(
    channels=8,
    multipliers=(1, 1, 2),
    res_blocks=1,
    stem_blocks=1,
    codebook_size=16,
    code_dim=4,
    zero_init_bottom=False,
)
PAIRS: list[TokenizerKind] = ["vqgan2-r", "vqgan2-c-deep", "vqgan2-c-shallow"]


def make(kind: TokenizerKind = "vqgan2-r", seed: int = 0, **changes: object) -> AnyTokenizer:
    torch.manual_seed(seed)
    return build_tokenizer(dataclasses.replace(TINY, kind=kind, **changes)).eval()


def make_pair(kind: TokenizerKind = "vqgan2-r", **changes: object) -> StratifiedTokenizer:
    tokenizer = make(kind, **changes)
    assert isinstance(tokenizer, StratifiedTokenizer)
    return tokenizer


def pictures(batch: int = 2, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(7)) * 2 - 1


@pytest.mark.parametrize("bottom_codes", [None, 5])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", PAIRS)
def test_two_levels_have_the_grids_and_ids_they_should(
    kind: TokenizerKind, normalize: bool, bottom_codes: int | None
) -> None:
    tokenizer = make_pair(kind, normalize_codes=normalize, bottom_codebook_size=bottom_codes)
    tokens = tokenizer.encode(pictures())
    assert tokens.top.shape == (2, 4, 6)
    assert tokens.bottom.shape == (2, 8, 12)
    for grid, size in zip(tokens.levels, (16, bottom_codes or 16), strict=True):
        assert 0 <= int(grid.min()) <= int(grid.max()) < size
    for levels in (None, 1, 2):
        decoded = tokenizer.decode(tokens, levels=levels)
        assert decoded.shape == (2, 3, 16, 24)
        assert float(decoded.abs().max()) <= 1


def test_one_level_has_the_grid_and_ids_it_should() -> None:
    tokenizer = make("vqgan")
    tokens = tokenizer.encode(pictures())
    assert [grid.shape for grid in tokens.levels] == [(2, 4, 6)]
    assert tokenizer.decode(tokens).shape == (2, 3, 16, 24)
    assert torch.equal(tokenizer.decode(tokens), tokenizer.decode(tokens, levels=1))
    with pytest.raises(ValueError, match="levels: 2 must be 1"):
        tokenizer.decode(tokens, levels=2)


@pytest.mark.parametrize(
    ("kind", "bottom_codes"), [*((kind, None) for kind in PAIRS), ("vqgan2-r", 5), ("vqgan", None)]
)
def test_a_training_pass_is_encode_then_decode(kind: TokenizerKind, bottom_codes: int | None) -> None:
    tokenizer, images = make(kind, bottom_codebook_size=bottom_codes), pictures()
    trained = tokenizer(images)
    tokens = tokenizer.encode(images)
    for level, grid in zip(trained.levels, tokens.levels, strict=True):
        assert torch.equal(level.ids, grid)
    torch.testing.assert_close(trained.images.clamp(-1, 1), tokenizer.decode(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PAIRS)
def test_each_level_has_its_part_in_the_image(kind: TokenizerKind) -> None:
    tokenizer = make_pair(kind)
    tokens = tokenizer.encode(pictures())
    whole = tokenizer.decode(tokens)
    other_top = tokenizer.decode(StratifiedTokens(((tokens.top + 1) % 16, tokens.bottom)))
    other_bottom = tokenizer.decode(StratifiedTokens((tokens.top, (tokens.bottom + 1) % 16)))
    assert not torch.allclose(whole, other_top, atol=1e-3)
    assert not torch.allclose(whole, other_bottom, atol=1e-3)


def test_a_fresh_residual_fusion_starts_from_the_top_alone() -> None:
    fresh = make_pair(zero_init_bottom=True)
    tokens = fresh.encode(pictures())
    assert torch.equal(fresh.decode(tokens), fresh.decode(tokens, levels=1))
    started = make_pair(zero_init_bottom=False)
    assert not torch.allclose(started.decode(tokens), started.decode(tokens, levels=1), atol=1e-3)


def test_the_zero_projection_learns() -> None:
    fresh, images = make_pair(zero_init_bottom=True), pictures()
    F.mse_loss(fresh(images).images, images).backward()
    assert float(fresh.decoder.fusion.bottom.weight.grad.abs().max()) > 0


def test_a_dropped_bottom_is_the_top_alone() -> None:
    tokenizer, images = make_pair(), pictures(3)
    assert tokenizer.decoder.fusion.bottom.bias is None
    trained = tokenizer(images, keep_bottom=torch.tensor([False, True, False])).images.clamp(-1, 1)
    tokens = tokenizer.encode(images)
    whole, alone = tokenizer.decode(tokens), tokenizer.decode(tokens, levels=1)
    torch.testing.assert_close(trained, torch.stack([alone[0], whole[1], alone[2]]), atol=1e-5, rtol=0)
    assert not torch.allclose(alone, whole, atol=1e-3)


def fused(kind: TokenizerKind, top: torch.Tensor, bottom: torch.Tensor) -> tuple[torch.nn.Module, torch.Tensor]:
    """The fusion that a tokenizer of a kind really has, in float64, and what it makes of codes."""
    fusion = make_pair(kind).decoder.fusion.double()
    return fusion, fusion(top, bottom)


def codes(seed: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_residual_fusion_adds_the_bottom_onto_the_upsampled_top() -> None:
    """The bottom's part is linear in its codes, and the same whatever the top; without it the stem stands alone."""
    top, other_top, bottom_codes, other_bottom = codes(0, 3, 4), codes(1, 3, 4), codes(2, 6, 8), codes(3, 6, 8)
    fusion, _ = fused("vqgan2-r", top, bottom_codes)
    nothing = torch.zeros_like(bottom_codes)

    def part(bottom: torch.Tensor, below: torch.Tensor = top) -> torch.Tensor:
        return fusion(below, bottom) - fusion(below, nothing)

    assert float(part(bottom_codes).abs().max()) > 0.1
    torch.testing.assert_close(
        part(2.0 * bottom_codes - 3.0 * other_bottom), 2.0 * part(bottom_codes) - 3.0 * part(other_bottom)
    )
    torch.testing.assert_close(part(bottom_codes, other_top), part(bottom_codes))
    # The stem, written out: a convolution, residual blocks, twice the size, a convolution; and nothing after the sum.
    conv_in, *blocks, raise_ = fusion.stem
    features = F.conv2d(top, conv_in.weight, conv_in.bias, padding=1)
    for residual in blocks:
        assert isinstance(residual, ResidualBlock)
        features = residual(features)
    doubled = features.repeat_interleave(2, 2).repeat_interleave(2, 3)
    raised = F.conv2d(doubled, raise_.conv.weight, raise_.conv.bias, padding=1)
    torch.testing.assert_close(fusion(top, nothing), raised)
    torch.testing.assert_close(
        fusion(top, bottom_codes), raised + F.conv2d(bottom_codes, fusion.bottom.weight, padding=1)
    )


def test_deep_concatenation_is_a_convolution_of_the_stem_beside_the_bottom() -> None:
    top, bottom = codes(0, 3, 4), codes(2, 6, 8)
    fusion, output = fused("vqgan2-c-deep", top, bottom)
    stem = fusion.stem(top)
    assert fusion.join.weight.shape == (16, 16 + 4, 3, 3)
    joined = F.conv2d(torch.cat([stem, bottom], 1), fusion.join.weight, fusion.join.bias, padding=1)
    torch.testing.assert_close(output, joined)
    # Unlike R, it does not leave the stem as it is where there is no bottom.
    assert not torch.allclose(fusion(top, torch.zeros_like(bottom)), stem, atol=0.05)


def test_shallow_concatenation_raises_the_codes_before_its_blocks() -> None:
    top, bottom = codes(0, 3, 4), codes(2, 6, 8)
    fusion, output = fused("vqgan2-c-shallow", top, bottom)
    assert fusion.join.weight.shape == (16, 4 + 4, 3, 3)
    raised = F.conv2d(top.repeat_interleave(2, 2).repeat_interleave(2, 3), fusion.up.weight, fusion.up.bias, padding=1)
    features = F.conv2d(torch.cat([raised, bottom], 1), fusion.join.weight, fusion.join.bias, padding=1)
    seen: list[torch.Size] = []
    for residual in fusion.blocks:
        seen.append(features.shape[2:])
        features = residual(features)
    torch.testing.assert_close(output, features)
    assert len(seen) > 0
    assert set(seen) == {(6, 8)}  # at the bottom's resolution
    # Its blocks come after the bottom: what that adds is no linear function of it.
    nothing, other_bottom = torch.zeros_like(bottom), codes(3, 6, 8)

    def part(some: torch.Tensor) -> torch.Tensor:
        return fusion(top, some) - fusion(top, nothing)

    assert not torch.allclose(part(bottom + other_bottom), part(bottom) + part(other_bottom), atol=0.01)


def test_fusions_differ_by_their_own_parameters_alone() -> None:
    """At the paper's size; all else is the same in R and in C."""

    def parts(kind: TokenizerKind) -> dict[str, torch.Size]:
        with torch.device("meta"):
            tokenizer = build_tokenizer(TokenizerConfig(kind=kind))
        return {name: value.shape for name, value in tokenizer.named_parameters()}

    r, deep, shallow = map(parts, PAIRS)
    assert {name: shape for name, shape in r.items() if name not in deep} == {
        "decoder.fusion.bottom.weight": (512, 32, 3, 3)
    }
    assert {name: shape for name, shape in deep.items() if name not in r} == {
        "decoder.fusion.join.weight": (512, 512 + 32, 3, 3),
        "decoder.fusion.join.bias": (512,),
    }
    assert shallow["decoder.fusion.join.weight"] == (512, 32 + 32, 3, 3)
    assert shallow["decoder.fusion.up.weight"] == (32, 32, 3, 3)
    outside = [
        {n: s for n, s in shapes.items() if not n.startswith("decoder.fusion")} for shapes in (r, deep, shallow)
    ]
    assert outside[0] == outside[1] == outside[2]


def test_levels_share_a_codebook_or_have_their_own() -> None:
    shared = make_pair()
    assert shared.codebook(0) is shared.codebook(1)
    assert [shared.codebook_index(level) for level in (0, 1)] == [0, 0]
    separate = make_pair(bottom_codebook_size=5)
    assert separate.codebook(0) is not separate.codebook(1)
    assert [separate.codebook_index(level) for level in (0, 1)] == [0, 1]
    assert separate.codebook(1).weight.shape == (5, 4)
    tokens = separate.encode(pictures())
    alone, whole = separate.decode(tokens, levels=1), separate.decode(tokens)
    with torch.no_grad():
        separate.codebook(1).weight.neg_()
    assert torch.equal(separate.decode(tokens, levels=1), alone)
    assert not torch.allclose(separate.decode(tokens), whole, atol=1e-3)


def gradients(tokenizer: AnyTokenizer, value: torch.Tensor) -> dict[str, torch.Tensor]:
    tokenizer.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in tokenizer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("level", [0, 1])
def test_the_encoder_learns_through_each_level_as_if_nothing_were_rounded(level: int) -> None:
    tokenizer, images = make_pair(), pictures()
    quantized = tokenizer.quantize(images)[level]
    weight = torch.randn(quantized.values.shape, generator=torch.Generator().manual_seed(1))
    through = gradients(tokenizer, (quantized.values * weight).sum())

    # The same network with the rounding written out: a constant added to the features.
    fine, coarse = tokenizer.encoder(images)
    features = coarse
    if level == 1:
        codes = tokenizer.codebook(0).embed(tokenizer.encode(images).top)
        features = tokenizer.latent(coarse + (codes - coarse).detach(), fine)
    expected = gradients(tokenizer, (features * weight).sum())

    assert through.keys() == expected.keys()
    assert float(through["encoder.conv_in.weight"].abs().max()) > 0
    assert float(through["encoder.conv_out.weight"].abs().max()) > 0
    assert not any(name.startswith("codebooks") for name in through)
    for name, value in expected.items():
        torch.testing.assert_close(through[name], value, msg=name)


def test_the_bottom_refines_from_the_fine_features_too() -> None:
    tokenizer = make_pair()
    torch.nn.init.zeros_(tokenizer.latent.conv_in.weight)  # it does not hear the top: what is left is fine
    _, bottom = tokenizer.quantize(pictures())
    gradient_by_name = gradients(tokenizer, bottom.values.square().sum())
    assert float(gradient_by_name["encoder.conv_in.weight"].abs().max()) > 0
    assert not gradient_by_name["encoder.conv_out.weight"].any()


@pytest.mark.parametrize("kind", [*PAIRS, "vqgan"])
def test_every_parameter_learns_from_a_training_pass(kind: TokenizerKind) -> None:
    tokenizer, images = make(kind), pictures()
    output = tokenizer(images)
    loss = F.mse_loss(output.images, images)
    for level in output.levels:
        loss = loss + level.codebook_loss() + level.commitment_loss()
    gradient_by_name = gradients(tokenizer, loss)
    assert gradient_by_name.keys() == dict(tokenizer.named_parameters()).keys()
    assert all(float(value.abs().max()) > 0 for value in gradient_by_name.values())


@pytest.mark.parametrize("kind", ["vqgan2-r", "vqgan"])
@pytest.mark.parametrize(("height", "width"), [(18, 16), (16, 18), (2, 4)])
def test_sizes_that_do_not_divide_are_refused(kind: TokenizerKind, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height}x{width} is not a multiple of the downsampling 4"):
        make(kind).encode(pictures(1, height, width))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 16, 16, 3)])
def test_what_is_no_batch_of_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[batch, 3, height, width\]"):
        make().encode(torch.zeros(shape))


def test_decode_refuses_levels_it_has_not() -> None:
    tokenizer = make_pair()
    tokens = tokenizer.encode(pictures())
    with pytest.raises(ValueError, match="levels: 3"):
        tokenizer.decode(tokens, levels=3)
    top = Tokens((tokens.top,))
    assert torch.equal(tokenizer.decode(top, levels=1), tokenizer.decode(tokens, levels=1))
    with pytest.raises(ValueError, match="two levels"):
        tokenizer.decode(top)


def test_the_wrong_class_for_a_kind_says_which_is_right() -> None:
    with pytest.raises(ValueError, match="use VQGAN"):
        StratifiedTokenizer(dataclasses.replace(TINY, kind="vqgan"))
    with pytest.raises(ValueError, match="use StratifiedTokenizer"):
        VQGAN(TINY)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(inputs: int, outputs: int, side: int = 3, bias: bool = True) -> int:
    return inputs * outputs * side**2 + outputs * bias


def block(inputs: int, outputs: int) -> int:
    shortcut = 0 if inputs == outputs else conv(inputs, outputs, 1, bias=False)
    return 2 * inputs + 2 * outputs + conv(inputs, outputs, bias=False) + conv(outputs, outputs, bias=False) + shortcut


def test_the_papers_size_is_the_papers() -> None:
    with torch.device("meta"):
        tokenizer = build_tokenizer(TokenizerConfig())
    assert isinstance(tokenizer, StratifiedTokenizer)
    assert count(tokenizer) == pytest.approx(72e6, rel=0.02)  # 863M less 499M less 292M
    assert count(tokenizer.encoder) == pytest.approx(23.7e6, rel=0.02)
    fusion = tokenizer.decoder.fusion
    assert count(fusion.bottom) == conv(32, 512, bias=False)
    assert count(tokenizer.decoder) - count(fusion.bottom) == pytest.approx(29.4e6, rel=0.02)
    assert count(tokenizer.codebooks) == 8192 * 32
    # The latent conditional layer, part by part.
    latent = conv(32, 512) + 3 * block(512, 512) + conv(512, 512) + conv(768, 256) + 2 * 256 + conv(256, 32, 1)
    assert count(tokenizer.latent) == latent
    tokens = tokenizer.encode(torch.empty(2, 3, 256, 256, device="meta"))
    assert tokens.top.shape == (2, 16, 16)
    assert tokens.bottom.shape == (2, 32, 32)


def test_a_separate_codebook_costs_its_codes() -> None:
    with torch.device("meta"):
        shared = build_tokenizer(TokenizerConfig())
        separate = build_tokenizer(TokenizerConfig(bottom_codebook_size=1024))
    assert count(separate) - count(shared) == 1024 * 32


@given(levels=st.integers(3, 6), side=st.integers(1, 9), kind=st.sampled_from([*PAIRS, "vqgan"]))
def test_a_configuration_knows_its_grids(levels: int, side: int, kind: TokenizerKind) -> None:
    config = TokenizerConfig(kind=kind, multipliers=(1,) * levels)
    f = 2 ** (levels - 1)
    assert config.downsampling == f
    grids = [(side, side), (2 * side, 2 * side)][: 1 if kind == "vqgan" else 2]
    assert list(config.grids(side * f)) == grids
    with pytest.raises(ValueError, match=f"image_size: {side * f + 1} .* {f}"):
        config.grids(side * f + 1)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"channels": 0}, "tokenizer.channels"),
        ({"codebook_size": 0}, "tokenizer.codebook_size"),
        ({"multipliers": (1, 2)}, "tokenizer.multipliers"),
        ({"multipliers": (1, 0, 2)}, "tokenizer.multipliers"),
        ({"kind": "vqgan", "bottom_codebook_size": 8}, "tokenizer.bottom_codebook_size"),
    ],
)
def test_a_configuration_that_cannot_be_names_the_setting(changes: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12)])
def test_a_residual_block_has_a_true_residual(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    residual, x = ResidualBlock(inputs, outputs), torch.randn(2, inputs, 5, 6)
    assert count(residual) == block(inputs, outputs)
    torch.nn.init.zeros_(residual.conv2.weight)  # the branch is silent: what is left is the input itself
    expected = x
    if inputs != outputs:
        expected = torch.einsum("oi,bihw->bohw", residual.shortcut.weight[:, :, 0, 0], x)
    torch.testing.assert_close(residual(x), expected, atol=1e-5, rtol=1e-5)


def swish(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def test_a_residual_block_is_norm_swish_convolution_twice() -> None:
    block = ResidualBlock(4, 6)
    x = torch.randn(2, 4, 5, 5) * 3
    hidden = block.conv1(swish(block.norm1(x)))
    expected = block.shortcut(x) + block.conv2(swish(block.norm2(hidden)))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("part", ["encoder", "decoder", "latent"])
def test_what_leaves_a_network_of_the_tokenizer_went_through_swish(part: str) -> None:
    """Each ends in norm, swish and a convolution: what its last norm gives decides what it gives."""
    tokenizer = StratifiedTokenizer(TINY)
    network = getattr(tokenizer, part)
    seen: dict[str, torch.Tensor] = {}
    network.norm_out.register_forward_hook(lambda _module, _inputs, output: seen.update(norm=output))
    network.conv_out.register_forward_hook(lambda _module, inputs, _output: seen.update(conv=inputs[0]))
    tokenizer(torch.rand(2, 3, 32, 32) * 2 - 1)
    torch.testing.assert_close(seen["conv"], swish(seen["norm"]))
    assert (seen["norm"] < -0.5).any()


def test_resampling_repeats_and_averages() -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    raised = upsample(x)
    assert torch.equal(raised, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    weight = torch.randn_like(raised)
    (gradient,) = torch.autograd.grad((raised * weight).sum(), x)
    torch.testing.assert_close(gradient, weight.reshape(2, 3, 4, 2, 6, 2).sum((3, 5)))
    torch.testing.assert_close(downsample(x), x.reshape(2, 3, 2, 2, 3, 2).mean((3, 5)))


@given(channels=st.integers(1, 160))
def test_group_norm_takes_the_most_groups_that_leave_four_channels(channels: int) -> None:
    fits = [2**power for power in range(6) if channels % 2**power == 0 and channels >= 4 * 2**power]
    assert group_norm(channels).num_groups == max(fits, default=1)


def test_brightness_passes_a_norm_of_narrow_layers() -> None:
    """With a group for each channel, images that differ in the strength of their channels would come out alike."""
    x = torch.rand(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    stronger = x * torch.arange(1, 17)[None, :, None, None]
    assert not torch.allclose(group_norm(16)(x), group_norm(16)(stronger), atol=0.1)
    alone = torch.nn.GroupNorm(16, 16, eps=1e-6)
    torch.testing.assert_close(alone(x), alone(stronger), atol=1e-3, rtol=0)
