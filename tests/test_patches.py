"""A tokenizer of patches: squares of pixels in, squares of pixels out, no seam between them at the start."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from strait.config import Config
from strait.tokenizer.build import build_tokenizer
from strait.tokenizer.config import TokenizerConfig, TokenizerKind
from strait.tokenizer.decoder import PixelHead
from strait.tokenizer.encoder import Encoder
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.config import AdversarialConfig, TokenizerTrainingConfig

PATCHED = TokenizerConfig(
    channels=8, multipliers=(1, 2, 2), patch=4, res_blocks=1, stem_blocks=1, codebook_size=16, code_dim=4
)


def pictures(height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(7)) * 2 - 1


@pytest.mark.parametrize("kind", ["vqgan2-r", "vqgan2-c-deep", "vqgan2-c-shallow", "cascade"])
def test_a_patch_multiplies_the_downsampling_of_both_levels(kind: TokenizerKind) -> None:
    tokenizer = build_tokenizer(dataclasses.replace(PATCHED, kind=kind)).eval()
    assert tokenizer.config.downsampling == 16
    assert tokenizer.config.grids(128) == ((8, 8), (16, 16))
    tokens = tokenizer.encode(pictures())
    assert [tuple(grid.shape) for grid in tokens.levels] == [(2, 2, 3), (2, 4, 6)]
    assert tokenizer.decode(tokens).shape == (2, 3, 32, 48)
    assert tokenizer.decode(tokens, levels=1).shape == (2, 3, 32, 48)


def test_the_first_layer_sees_each_square_of_pixels_as_channels() -> None:
    torch.manual_seed(0)
    encoder, images = Encoder(PATCHED), pictures()
    seen: list[torch.Tensor] = []
    encoder.conv_in.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(images)
    for row, column in ((0, 0), (3, 11), (7, 5)):
        square = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(seen[0][:, :, row, column], square.flatten(1))


def test_the_head_gives_every_pixel_of_a_plain_area_the_same_colour_at_first() -> None:
    """All four positions of a doubling start alike: a grid of the patches would show here."""
    torch.manual_seed(0)
    head = PixelHead(12, 4)
    pixels = head(torch.randn(1, 12, 1, 1).expand(1, 12, 9, 9))
    assert pixels.shape == (1, 3, 36, 36)
    inner = pixels[:, :, 12:-12, 12:-12]
    torch.testing.assert_close(inner, inner[:, :, :1, :1].expand_as(inner))


def test_the_head_learns_to_tell_pixels_of_a_patch_apart() -> None:
    torch.manual_seed(0)
    head = PixelHead(12, 2)
    goal = (torch.arange(8) % 2).float().expand(1, 3, 8, 8)
    x = torch.randn(1, 12, 4, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (head(x) - goal).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.01  # pyright: ignore[reportPossiblyUnboundVariable]


def test_the_decoder_alone_may_be_deeper() -> None:
    def blocks(tokenizer: torch.nn.Module) -> int:
        return sum(type(module).__name__ == "ResidualBlock" for module in tokenizer.modules())

    plain, deeper = build_tokenizer(PATCHED), build_tokenizer(dataclasses.replace(PATCHED, decoder_blocks=3))
    assert isinstance(plain, StratifiedTokenizer)
    assert isinstance(deeper, StratifiedTokenizer)
    assert blocks(plain.encoder) == blocks(deeper.encoder) == 4
    assert blocks(plain.decoder) == 2 * 1 + 2
    assert blocks(deeper.decoder) == 2 * 3 + 2 * 3


@pytest.mark.parametrize("changes", [{"patch": 3}, {"patch": 0}, {"decoder_blocks": 0}])
def test_what_cannot_be_is_named(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"tokenizer.{next(iter(changes))}"):
        dataclasses.replace(PATCHED, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("crop", [24, 144])
def test_a_crop_fits_the_tokenizer_and_the_image(crop: int) -> None:
    training = TokenizerTrainingConfig(crop=crop, adversarial=AdversarialConfig(weight=0.0))
    with pytest.raises(
        ValueError, match=rf"tokenizer_training\.crop: {crop} must be a multiple of the downsampling 16"
    ):
        Config(image_size=128, tokenizer=PATCHED, tokenizer_training=training)


def test_the_discriminator_sees_the_crop() -> None:
    """96 pixels are no size for it, a crop of 64 is; and the other way round."""
    cropped = TokenizerTrainingConfig(crop=64)
    Config(image_size=96, tokenizer=PATCHED, tokenizer_training=cropped)
    with pytest.raises(ValueError, match=r"tokenizer_training\.crop: 48 must be 4 times a power of two"):
        Config(image_size=64, tokenizer=PATCHED, tokenizer_training=dataclasses.replace(cropped, crop=48))


def test_the_tokens_of_a_crop_are_nearly_those_of_the_image() -> None:
    """What training on crops rests on: far from the edges a token depends on what is near it alone."""
    torch.manual_seed(0)
    encoder = Encoder(dataclasses.replace(PATCHED, multipliers=(1, 1, 1)))
    for module in encoder.modules():  # a norm sees the whole image; here only convolutions count
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # pyright: ignore
    images = pictures(256, 256)
    whole, cropped = encoder(images)[1], encoder(images[:, :, 32:224, 32:224])[1]
    assert np.allclose(whole[:, :, 7:9, 7:9].detach(), cropped[:, :, 5:7, 5:7].detach(), atol=1e-5)
