"""Noise is a pure function of its key: proven against Python integers, the published splitmix64, and statistics."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strait.randomness import as_seed, gumbel, image_seeds, key, permutation, uniform, uniform_ids

INT64 = st.integers(-(2**63), 2**63 - 1)
EVERY = settings(max_examples=60)


def naive_key(*parts: int) -> int:
    """splitmix64's finaliser over each part in turn, in unsigned Python integers: 0 .. 2^64 - 1."""
    state = 0
    for part in parts:
        state = ((state ^ (part % 2**64)) + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state


def naive_uniform(hashed: int) -> float:
    """The highest 23 bits of 64, and half a unit, so that neither 0 nor 1 comes out."""
    return ((hashed >> 41) + 0.5) / 2**23


def naive_uniform_id(hashed: int, index: int) -> float:
    """One of the many numbers of a key: a 32-bit hash of the id, the key's low half, then its high half."""
    low, high = hashed % 2**32, hashed >> 32
    x = (index * 0x9E3779B9 + low) % 2**32
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = ((x ^ (x >> 15)) * 0x2C1B3C6D + high) % 2**32
    x = (x ^ (x >> 16)) * 0xC2B2AE35 % 2**32
    x ^= x >> 15
    return ((x >> 9) + 0.5) / 2**23


def naive_gumbel(u: float) -> float:
    return -math.log(-math.log(u))


def signed(hashed: int) -> int:
    return hashed - 2**64 if hashed >= 2**63 else hashed


def unsigned(keys: torch.Tensor) -> list[int]:
    return [value % 2**64 for value in keys.flatten().tolist()]


# The hash


def test_key_is_the_published_splitmix64():
    # The first outputs of the reference generator from state 0: its n-th hashes n times the golden ratio, and here
    # the golden ratio is added once by key() itself.
    golden = 0x9E3779B97F4A7C15
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    states = torch.tensor([signed(count * golden % 2**64) for count in range(4)])
    assert unsigned(key(states)) == published


@EVERY
@given(st.lists(INT64, min_size=1, max_size=6))
def test_key_equals_python_integers(parts: list[int]):
    assert int(key(*parts)) == signed(naive_key(*parts))
    assert int(key(*(torch.tensor(part) for part in parts))) == signed(naive_key(*parts))


def test_key_broadcasts_integers_and_tensors():
    rows, columns = torch.tensor([3, -1, 2**62]), torch.arange(4, dtype=torch.int32)
    keys = key(7, rows[:, None], 2, columns)
    assert keys.shape == (3, 4)
    assert keys.dtype == torch.int64
    for i, j in itertools.product(range(3), range(4)):
        assert int(keys[i, j]) == signed(naive_key(7, int(rows[i]), 2, j))


def test_key_depends_on_the_order_and_the_number_of_parts():
    assert len({int(key(*parts)) for parts in ((1, 2, 3), (3, 2, 1), (1, 2), (1, 2, 0), (0, 1, 2, 3), (2, 1, 3))}) == 6


def test_every_bit_of_a_part_changes_half_of_the_key():
    bases = torch.arange(200)
    for bit in range(64):
        flipped = bases ^ torch.tensor(signed(1 << bit))
        changes = [
            (a ^ b).bit_count()
            for part in (lambda value: key(5, value), lambda value: key(value, 5))
            for a, b in zip(unsigned(part(bases)), unsigned(part(flipped)), strict=True)
        ]
        # A sum of 400 x 64 fair coins: standard deviation of the mean 0.2.
        assert abs(sum(changes) / len(changes) - 32) < 1.2, bit


def test_neighbours_never_share_a_key():
    seeds, images, levels, steps, positions = (torch.arange(count) for count in (4, 8, 4, 24, 64))
    per_image = image_seeds(0, images)
    keys = key(
        key(seeds[:, None], per_image)[:, :, None, None, None],
        levels[:, None, None],
        steps[:, None],
        positions,
    )
    assert keys.numel() == 4 * 8 * 4 * 24 * 64
    assert keys.unique().numel() == keys.numel()


# Numbers in (0, 1)


@EVERY
@given(INT64)
def test_uniform_equals_python(hashed: int):
    number = uniform(torch.tensor(hashed))
    assert number.dtype == torch.float32
    assert float(number) == naive_uniform(hashed % 2**64)


@EVERY
@given(INT64, st.integers(1, 40))
def test_uniform_ids_equals_python(hashed: int, count: int):
    numbers = uniform_ids(torch.tensor([hashed]), count)
    assert numbers.dtype == torch.float32
    assert numbers.tolist() == [[naive_uniform_id(hashed % 2**64, index) for index in range(count)]]


def test_uniform_ids_of_far_ids_equals_python():
    numbers = uniform_ids(key(torch.arange(2)), 8192)
    for row, index in itertools.product(range(2), (0, 1, 4095, 8191)):
        assert float(numbers[row, index]) == naive_uniform_id(naive_key(row), index)


NUMBERS = {
    "uniform": lambda: uniform(key(1, torch.arange(2**18))),
    "uniform_ids": lambda: uniform_ids(key(2, torch.arange(2**9)), 2**9).flatten(),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_uniform_in_distribution(name: str):
    numbers = NUMBERS[name]().double()
    count = numbers.numel()
    assert numbers.min() > 0
    assert numbers.max() < 1
    # Five standard deviations of the mean, of the variance, and Kolmogorov and Smirnov's distance at 1e-6.
    assert abs(numbers.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / count)
    assert abs(numbers.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / count)
    expected = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    assert (numbers.sort().values - expected).abs().max() < math.sqrt(math.log(2 / 1e-6) / 2 / count) + 1 / count


def _noise(seed: int, level: int, step: int) -> torch.Tensor:
    """[positions, ids]"""
    return uniform_ids(key(key(seed), level, 1, step, torch.arange(128)), 256)


def test_neighbouring_noise_is_uncorrelated():
    base = _noise(0, 0, 0)
    pairs = {
        "seed": (base, _noise(1, 0, 0)),
        "level": (base, _noise(0, 1, 0)),
        "step": (base, _noise(0, 0, 1)),
        "position": (base[:-1], base[1:]),
        "id": (base[:, :-1], base[:, 1:]),
        "position and id": (base[:-1, 1:], base[1:, :-1]),
    }
    for name, (noise, neighbour) in pairs.items():
        correlation = torch.corrcoef(torch.stack([noise.flatten(), neighbour.flatten()]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(noise.numel()), name


def test_noise_of_a_row_does_not_depend_on_the_batch():
    seeds = image_seeds(3, torch.arange(6))

    def noise(some: torch.Tensor) -> torch.Tensor:
        return uniform_ids(key(some[:, None], 0, 1, 2, torch.arange(5)), 9)

    together = noise(seeds)
    for row in range(6):
        assert torch.equal(noise(seeds[row : row + 1])[0], together[row])
    order = torch.tensor([4, 0, 4, 5])
    assert torch.equal(noise(seeds[order]), together[order])


def test_a_longer_row_of_ids_begins_like_a_shorter_one():
    keys = key(4, torch.arange(10))
    assert torch.equal(uniform_ids(keys, 100)[:, :30], uniform_ids(keys, 30))


# Gumbel noise


def test_gumbel_is_finite_at_both_ends():
    ends = uniform(torch.tensor([0, -1]))  # no bit set and every bit set
    assert ends.tolist() == [2.0**-24, 1 - 2.0**-24]
    assert gumbel(ends).tolist() == pytest.approx([naive_gumbel(2.0**-24), naive_gumbel(1 - 2.0**-24)], rel=1e-5)


def test_gumbel_in_distribution():
    noise = gumbel(NUMBERS["uniform_ids"]()).double()
    assert noise.isfinite().all()
    # Euler's constant and pi^2 / 6; the fourth central moment is 27/5 of the squared variance.
    variance, count = math.pi**2 / 6, noise.numel()
    assert abs(noise.mean() - 0.5772156649) < 5 * math.sqrt(variance / count)
    assert abs(noise.var() - variance) < 5 * variance * math.sqrt(4.4 / count)


@pytest.mark.parametrize("logits", [[0.0] * 6, [2.0, 1.0, 0.0, -1.0, -2.0, 3.0], [0.0, 8.0, 1.5]])
def test_gumbel_max_draws_follow_the_softmax(logits: list[float]):
    count = 40_000
    row = torch.tensor(logits)
    drawn = (row + gumbel(uniform_ids(key(11, torch.arange(count)), len(logits)))).argmax(-1)
    total = sum(math.exp(value) for value in logits)
    statistic = 0.0
    for index, value in enumerate(logits):
        expected = count * math.exp(value) / total
        statistic += (int((drawn == index).sum()) - expected) ** 2 / expected
    assert statistic < 36  # chi-square: one in a million even with 5 degrees of freedom


# Seeds and orders


def test_image_seeds():
    indices = torch.tensor([0, 1, 2, 1000, 7])
    seeds = image_seeds(42, indices)
    assert seeds.tolist() == [signed(naive_key(42, int(index))) for index in indices]
    assert torch.equal(image_seeds(42, indices[2:3]), seeds[2:3])
    assert image_seeds(42, torch.arange(1000)).unique().numel() == 1000
    assert not set(seeds.tolist()) & set(image_seeds(43, indices).tolist())


@EVERY
@given(st.integers(0, 200), st.integers(0, 2**31), st.integers(0, 50))
def test_permutation_sorts_by_hash(length: int, seed: int, epoch: int):
    order = permutation(length, seed, epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(length))
    state = signed(naive_key(seed, epoch))
    assert order.tolist() == sorted(range(length), key=lambda index: signed(naive_key(state, index)))


def test_permutations_differ_by_epoch():
    orders = [permutation(64, 0, epoch) for epoch in range(20)]
    assert len({tuple(order.tolist()) for order in orders}) == 20
    assert torch.equal(permutation(64, 0, 3), orders[3])


def test_permutation_sends_every_element_everywhere():
    length, count = 8, 4000
    places = torch.stack([permutation(length, 1, epoch) for epoch in range(count)])
    expected = count / length
    for place in range(length):
        counts = torch.bincount(places[:, place], minlength=length)
        assert (counts - expected).abs().max() < 5 * math.sqrt(expected), place


@EVERY
@given(st.lists(INT64, min_size=1, max_size=3))
def test_as_seed_is_the_key_without_its_sign(parts: list[int]):
    assert as_seed(*parts) == naive_key(*parts) % 2**63
