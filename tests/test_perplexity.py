"""Equation 5 against closed forms, and the report against tokenizers of which it is known what each level carries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from strait.tokenizer.perplexity import perplexity, perplexity_error
from strait.tokenizer.stratification import Stratification, peak_signal_to_noise, stratification_report, thumbnail
from strait.types import Images, StratifiedTokens, Tokens

PERFECT = 10 * math.log10(4 / 1e-10)  # what an error of nothing is counted as, in dB
COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any)


@pytest.mark.parametrize("codes", [1, 2, 7, 8192])
def test_equal_use_of_all_codes_is_their_number(codes: int) -> None:
    assert float(perplexity(torch.full((codes,), 3))) == pytest.approx(codes)


def test_one_code_alone_is_one() -> None:
    assert float(perplexity(torch.tensor([0, 0, 12, 0]))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(5, 5, 2.0), (1, 3, 4 / 3**0.75), (9, 1, 10 / 9**0.9)],  # p^-p (1-p)^-(1-p)
)
def test_two_codes(first: int, second: int, expected: float) -> None:
    assert float(perplexity(torch.tensor([0, first, 0, second]))) == pytest.approx(expected)


@given(COUNTS)
def test_equation_5_term_by_term(counts: list[int]) -> None:
    shares = [count / sum(counts) for count in counts]
    expected = 2 ** -sum(share * math.log2(share) for share in shares if share > 0)
    value = float(perplexity(torch.tensor(counts)))
    assert value == pytest.approx(expected)
    assert 1 - 1e-9 <= value <= len(counts) + 1e-9
    # Neither the order of the codes, nor how often all of them were counted, nor codes without use change it.
    assert float(perplexity(torch.tensor([7 * count for count in reversed(counts)] + [0]))) == pytest.approx(expected)


# Counts, and what both forms of equation 5 give for them: 2 to so many bits.
BY_HAND = [
    ([1], 0.0),
    ([1, 1], 1.0),
    ([2, 1, 1], 1.5),  # 1/2 * 1 + 1/4 * 2 + 1/4 * 2
    ([4, 0, 2, 1, 1], 1.75),
    ([0, 3, 3, 0, 3, 3, 0], 2.0),
]


@pytest.mark.parametrize(("counts", "bits"), BY_HAND)
def test_equation_5_as_two_to_the_entropy(counts: list[int], bits: float) -> None:
    shares = [count / sum(counts) for count in counts if count]
    assert -sum(p * math.log2(p) for p in shares) == pytest.approx(bits)
    assert float(perplexity(torch.tensor(counts))) == pytest.approx(2**bits, rel=1e-12)


@pytest.mark.parametrize(("counts", "bits"), BY_HAND)
def test_equation_5_as_a_product(counts: list[int], bits: float) -> None:
    product = 1.0
    for count in counts:
        p = count / sum(counts)
        product *= p**-p if p else 1  # p^-p goes to 1 as p goes to 0
    assert product == pytest.approx(2**bits)
    assert float(perplexity(torch.tensor(counts))) == pytest.approx(product, rel=1e-12)


@given(COUNTS)
def test_both_forms_of_equation_5_are_one(counts: list[int]) -> None:
    shares = [count / sum(counts) for count in counts if count]
    value = float(perplexity(torch.tensor(counts)))
    assert value == pytest.approx(2 ** -sum(p * math.log2(p) for p in shares), rel=1e-9)
    assert value == pytest.approx(math.prod(p**-p for p in shares), rel=1e-9)


def test_each_row_has_its_own_perplexity() -> None:
    values = perplexity(torch.tensor([[1, 1, 1, 1], [2, 0, 0, 2]]))
    assert values.dtype == torch.float64
    assert values.tolist() == pytest.approx([4, 2])


@given(error=st.floats(0.001, 2))
def test_the_psnr_of_a_constant_error(error: float) -> None:
    images = torch.zeros(3, 3, 4, 5)
    others = images + torch.tensor([error, -error, 0.0])[:, None, None, None]
    decibels = 20 * math.log10(2 / error)
    assert peak_signal_to_noise(images, others).tolist() == pytest.approx([decibels, decibels, PERFECT], rel=1e-4)


def test_the_psnr_is_that_of_8_bit_pictures() -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (2, 3, 8, 8)).astype(np.float64)
    others = (pixels + draw.normal(0, 9, pixels.shape)).round().clip(0, 255)
    expected = [20 * math.log10(255 / math.sqrt(((a - b) ** 2).mean())) for a, b in zip(pixels, others, strict=True)]
    decibels = peak_signal_to_noise(torch.tensor(pixels / 127.5 - 1), torch.tensor(others / 127.5 - 1))
    assert decibels.tolist() == pytest.approx(expected)


def test_a_thumbnail_averages_each_cell() -> None:
    images = torch.rand(2, 3, 8, 12, dtype=torch.float64) * 2 - 1
    assert torch.equal(thumbnail(images, (8, 12)), images)  # a grid as fine as the image loses nothing
    whole = thumbnail(images, (1, 1))
    torch.testing.assert_close(whole, images.mean((2, 3), keepdim=True).expand_as(images))
    cells = images.reshape(2, 3, 4, 2, 4, 3).mean((3, 5))
    expected = F.interpolate(cells, size=(8, 12), mode="bicubic", align_corners=False).clamp(-1, 1)
    torch.testing.assert_close(thumbnail(images, (4, 4)), expected)


GREYS = 8


def flat_images(greys: list[int]) -> Images:
    """Images 8x8 of one grey each; ``greys`` count from 0 (black) to 7 (white)."""
    return (torch.tensor(greys, dtype=torch.float32) / (GREYS - 1) * 2 - 1)[:, None, None, None].expand(-1, 3, 8, 8)


def grey_ids(images: Images, side: int) -> torch.Tensor:
    cells = F.avg_pool2d(images[:, :1], images.shape[-1] // side)[:, 0]
    return ((cells + 1) / 2 * (GREYS - 1)).round().long()


def grey_pixels(ids: torch.Tensor, size: int = 8) -> Images:
    values = ids.float() / (GREYS - 1) * 2 - 1
    return (
        values.repeat_interleave(size // ids.shape[1], 1)
        .repeat_interleave(size // ids.shape[2], 2)[:, None]
        .expand(-1, 3, -1, -1)
    )


class TopCarriesAll:
    """The greys are in the top; the bottom is always code 5 and is not looked at."""

    levels = 2

    def encode(self, images: Images) -> Tokens:
        top = grey_ids(images, 2)
        return StratifiedTokens((top, torch.full((len(images), 4, 4), 5)))

    def decode(self, tokens: Tokens, levels: int | None = None) -> Images:
        return grey_pixels(tokens.levels[0])


class BottomCarriesAll:
    """The greys are in the bottom; the top is always code 5, and alone decodes to middle grey."""

    levels = 2

    def encode(self, images: Images) -> Tokens:
        return StratifiedTokens((torch.full((len(images), 2, 2), 5), grey_ids(images, 4)))

    def decode(self, tokens: Tokens, levels: int | None = None) -> Images:
        return torch.zeros(tokens.batch, 3, 8, 8) if levels == 1 else grey_pixels(tokens.levels[1])


class OneScale:
    levels = 1

    def encode(self, images: Images) -> Tokens:
        return Tokens((grey_ids(images, 2),))

    def decode(self, tokens: Tokens, levels: int | None = None) -> Images:
        return grey_pixels(tokens.levels[0])


def psnr_between(greys: list[int], others: list[float]) -> float:
    errors = [abs(a - b) / (GREYS - 1) * 2 for a, b in zip(greys, others, strict=True)]
    return sum(20 * math.log10(2 / error) if error else PERFECT for error in errors) / len(errors)


BATCHES = [[0, 2, 7, 1], [4, 0, 1]]
ALL = [grey for batch in BATCHES for grey in batch]
NEIGHBOURS = [float(grey) for batch in BATCHES for grey in (*batch[-1:], *batch[:-1])]


def used_greys() -> float:
    shares = [ALL.count(grey) / len(ALL) for grey in set(ALL)]
    return 2 ** -sum(share * math.log2(share) for share in shares)


def test_a_top_that_carries_everything() -> None:
    stratification = Stratification(TopCarriesAll(), (GREYS, 10), shared=False)
    for batch in BATCHES:
        images = flat_images(batch)
        decoded = stratification.add(images)
        assert decoded.top_alone is not None
        torch.testing.assert_close(decoded.images, images)
        torch.testing.assert_close(decoded.top_alone, images)
    report = stratification.report()
    assert report.pop("images") == 7
    assert {name: value for name, value in report.items() if not name.endswith("_error")} == pytest.approx(
        {
            "perplexity_top": used_greys(),
            "perplexity_bottom": 1,
            "usage_top": 5 / GREYS,
            "usage_bottom": 1 / 10,
            "tokens_counted_top": 7 * 4,
            "tokens_counted_bottom": 7 * 4,
            "tokens_per_code": 7 * 4 / 10,
            "psnr": PERFECT,
            "psnr_top_alone": PERFECT,
            "psnr_bottom_shuffled": PERFECT,
            "psnr_top_shuffled": psnr_between(ALL, NEIGHBOURS),
            "psnr_top_thumbnail": PERFECT,
            "psnr_bottom_thumbnail": PERFECT,
        },
        rel=1e-4,
    )


def test_a_bottom_that_carries_everything() -> None:
    batches = [flat_images(batch) for batch in BATCHES]
    report = stratification_report(BottomCarriesAll(), (GREYS, GREYS), batches, shared=True)
    assert report["perplexity_top"] == pytest.approx(1)
    assert report["perplexity_bottom"] == pytest.approx(used_greys())
    assert report["psnr"] == pytest.approx(PERFECT)
    assert report["psnr_top_shuffled"] == pytest.approx(PERFECT)
    assert report["psnr_top_alone"] == pytest.approx(psnr_between(ALL, [3.5] * len(ALL)), rel=1e-4)
    assert report["psnr_bottom_shuffled"] == pytest.approx(psnr_between(ALL, NEIGHBOURS), rel=1e-4)
    assert report["overlap"] == 0  # grey 5 is in no image


def test_the_overlap_is_the_share_of_used_codes_that_both_levels_use() -> None:
    batches = [flat_images([5, 6]), flat_images([0, 1])]
    report = stratification_report(BottomCarriesAll(), (GREYS, GREYS), batches, shared=True)
    assert report["overlap"] == pytest.approx(1 / 4)


def test_the_thumbnail_is_the_yardstick_of_its_grid() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    report = stratification_report(TopCarriesAll(), (GREYS, 10), [images], shared=False)
    for name, side in (("top", 2), ("bottom", 4)):
        psnr = peak_signal_to_noise(images, thumbnail(images, (side, side))).mean()
        assert report[f"psnr_{name}_thumbnail"] == pytest.approx(float(psnr), rel=1e-5)


def test_one_scale_has_no_levels_to_exchange() -> None:
    report = stratification_report(OneScale(), (GREYS,), [flat_images(batch) for batch in BATCHES], shared=True)
    assert set(report) == {
        *("images", "psnr", "perplexity_tokens", "usage_tokens"),
        *("tokens_counted_tokens", "tokens_per_code", "psnr_tokens_thumbnail"),
        *("psnr_error", "perplexity_tokens_error", "psnr_tokens_thumbnail_error"),
    }
    assert report["perplexity_tokens"] == pytest.approx(used_greys())


def test_the_bottom_is_counted_at_as_many_places_as_the_top_has_and_no_place_twice() -> None:
    class EveryPlaceItsCode(TopCarriesAll):
        def encode(self, images: Images) -> Tokens:
            places = torch.arange(16).reshape(1, 4, 4).expand(len(images), 4, 4)
            return StratifiedTokens((grey_ids(images, 2), places))

    report = stratification_report(EveryPlaceItsCode(), (GREYS, 16), [flat_images([1, 2, 3])], shared=False)
    assert report["tokens_counted_top"] == report["tokens_counted_bottom"] == 3 * 4
    assert report["perplexity_bottom"] == pytest.approx(4)
    assert report["usage_bottom"] == pytest.approx(4 / 16)


def test_no_images_are_no_report() -> None:
    with pytest.raises(ValueError, match="there are no images"):
        stratification_report(OneScale(), (GREYS,), [], shared=True)


# Sampling errors


def test_the_error_of_a_perplexity_is_its_spread_over_independent_draws() -> None:
    """Tokens of an image are alike, which an error that took them for independent would not see."""
    p = torch.softmax(torch.linspace(0, 3, 12), 0)

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        image_tokens = torch.multinomial(p, 400, replacement=True, generator=generator)[:, None].expand(-1, 8)
        others = torch.multinomial(p, 400 * 8, replacement=True, generator=generator).view(400, 8)
        return torch.where(torch.rand(400, 8, generator=generator) < 0.5, image_tokens, others)

    perplexities = [float(perplexity(torch.bincount(draw(seed).flatten(), minlength=12))) for seed in range(300)]
    errors = [perplexity_error(draw(seed), 12) for seed in range(10)]
    assert np.mean(errors) == pytest.approx(np.std(perplexities, ddof=1), rel=0.15)
    independent = [perplexity_error(draw(seed).view(-1, 1), 12) for seed in range(10)]
    assert np.mean(independent) < 0.75 * np.std(perplexities, ddof=1)


def test_a_report_has_the_error_of_each_psnr_and_perplexity() -> None:
    batches = [flat_images(batch) for batch in BATCHES]
    report = stratification_report(BottomCarriesAll(), (GREYS, GREYS), batches, shared=True)
    named = {name for name in report if name.startswith(("psnr", "perplexity")) and not name.endswith("_error")}
    assert {f"{name}_error" for name in named} == {name for name in report if name.endswith("_error")}
    # The top alone decodes to middle grey.
    each = np.array([psnr_between([grey], [(GREYS - 1) / 2]) for grey in ALL])
    assert report["psnr_top_alone"] == pytest.approx(each.mean(), rel=1e-5)
    assert report["psnr_top_alone_error"] == pytest.approx(each.std(ddof=1) / math.sqrt(len(each)), rel=1e-5)
    assert report["psnr_top_alone_error"] > 0.1
    alone = stratification_report(OneScale(), (GREYS,), [flat_images([1])], shared=True)
    assert not [name for name in alone if name.endswith("_error")], "one image has no spread"
