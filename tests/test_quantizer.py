"""Lookup, straight-through gradients, losses and the care of the codebook, against plain second versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strait.randomness import key
from strait.tokenizer import quantizer
from strait.tokenizer.codebook_health import CodebookHealth
from strait.tokenizer.quantizer import Codebook, Quantized, codebook_entropy_loss


def make(codebook_size: int = 9, code_dim: int = 4, normalize: bool = False, seed: int = 0) -> Codebook:
    torch.manual_seed(seed)
    return Codebook(codebook_size, code_dim, normalize)


def make_features(batch: int = 2, code_dim: int = 4, height: int = 3, width: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, code_dim, height, width, generator=torch.Generator().manual_seed(seed))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def distances(rows: torch.Tensor, codebook: Codebook) -> np.ndarray:
    """Every squared distance, row by row, in double precision."""
    left, right = rows.detach().double().numpy(), codebook.weight.detach().double().numpy()
    if codebook.normalize:
        left, right = unit(left), unit(right)
    return np.stack([((row - right) ** 2).sum(-1) for row in left])


@pytest.mark.parametrize("normalize", [False, True])
@given(codes=st.integers(1, 30), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_nearest_code_is_the_nearest(normalize: bool, codes: int, width: int, seed: int) -> None:
    codebook, features = make(codes, width, normalize, seed), make_features(2, width, 3, 5, seed + 1)
    ids = codebook(features).ids
    assert ids.shape == (2, 3, 5)
    for row in range(2):
        for down in range(3):
            for right in range(5):
                (all_of_them,) = distances(features[row, :, down, right][None], codebook)
                assert all_of_them[ids[row, down, right]] <= all_of_them.min() + 1e-5


@pytest.mark.parametrize("codes", [6, 2048, 2**14])
@pytest.mark.parametrize(("pieces", "more"), [(1, -1), (1, 1), (2, 77)])
def test_more_rows_than_one_piece(codes: int, pieces: int, more: int) -> None:
    rows = pieces * max(128, quantizer._CACHED // codes) + more
    codebook = make(codes, 3)
    features = torch.randn(rows, 3, generator=torch.Generator().manual_seed(2))
    ids, all_distances = codebook.nearest(features), distances(features, codebook)
    assert ids.shape == (rows,)
    assert (all_distances[np.arange(rows), ids.numpy()] <= all_distances.min(1) + 1e-5).all()


@pytest.mark.parametrize("normalize", [False, True])
def test_the_values_are_the_codes(normalize: bool) -> None:
    codebook, features = make(normalize=normalize), make_features()
    quantized = codebook(features)
    weight = codebook.weight.detach().numpy()
    codes = torch.from_numpy((unit(weight) if normalize else weight)[quantized.ids.numpy()]).permute(0, 3, 1, 2)
    torch.testing.assert_close(quantized.values, codes, atol=1e-6, rtol=0)
    torch.testing.assert_close(quantized.codes, codes, atol=1e-6, rtol=0)
    torch.testing.assert_close(codebook.embed(quantized.ids), codes, atol=1e-6, rtol=0)
    lengths = quantized.features.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths) if normalize else features.norm(dim=1))


def test_the_gradient_passes_straight_through() -> None:
    codebook, features = make(), make_features().requires_grad_()
    weight = make_features(seed=9)
    (codebook(features).values * weight).sum().backward()
    assert torch.equal(features.grad, weight)
    assert codebook.weight.grad is None


def test_the_gradient_passes_through_the_normalisation() -> None:
    codebook, features = make(normalize=True), make_features().requires_grad_()
    weight = make_features(seed=9)
    (codebook(features).values * weight).sum().backward()
    # d(z/|z|)/dz = (I - z z^T / |z|^2) / |z|, written out for every position.
    length = features.detach().norm(dim=1, keepdim=True)
    direction = features.detach() / length
    gradient = (weight - direction * (direction * weight).sum(1, keepdim=True)) / length
    torch.testing.assert_close(features.grad, gradient, atol=1e-5, rtol=1e-5)


def test_a_bypassed_codebook_lets_features_pass() -> None:
    codebook, features = make(), make_features()
    ids = codebook(features).ids
    codebook.bypass = True
    passed = codebook(features)
    assert torch.equal(passed.values, features)
    assert torch.equal(passed.ids, ids)


@pytest.mark.parametrize("normalize", [False, True])
def test_autocast_changes_no_id(normalize: bool) -> None:
    codebook, features = make(64, 8, normalize), make_features(4, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = codebook(features)
    assert quantized.values.dtype == torch.float32
    assert torch.equal(quantized.ids, codebook(features).ids)


def test_losses_by_hand() -> None:
    # One position of two channels: z = (1, 2), e = (4, 0); squares 9 and 4, mean 6.5.
    codebook = make(1, 2)
    codebook.weight.data = torch.tensor([[4.0, 0.0]])
    features = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1).requires_grad_()
    quantized = codebook(features)
    assert float(quantized.codebook_loss().detach()) == pytest.approx(6.5)
    assert float(quantized.commitment_loss().detach()) == pytest.approx(6.5)

    quantized.codebook_loss().backward()
    assert features.grad is None
    assert codebook.weight.grad.tolist() == [[3.0, -2.0]]  # d/de of the mean of (z - e)^2 is e - z

    codebook.weight.grad = None
    codebook(features).commitment_loss().backward()
    assert codebook.weight.grad is None
    assert features.grad.flatten().tolist() == [-3.0, 2.0]


def test_codes_follow_the_features_that_chose_them() -> None:
    codebook, features = make(5, 4), make_features()
    quantized = codebook(features)
    quantized.codebook_loss().backward()
    ids, rows = quantized.ids.flatten(), features.movedim(1, -1).reshape(-1, 4)
    for code in range(5):
        mine = rows[ids == code]
        gradient = 2 * (codebook.weight[code].detach() * len(mine) - mine.sum(0)) / rows.numel()
        torch.testing.assert_close(codebook.weight.grad[code], gradient)


def test_usage_is_a_running_average_of_each_levels_shares() -> None:
    health = CodebookHealth(2, 4, 0.1, decay=0.75)
    assert health.usage.tolist() == [[0.25] * 4] * 2
    health.update([torch.tensor([[[0, 0], [1, 3]]]), torch.tensor([2, 2, 2, 2, 2, 2, 2, 2])])
    top = [0.75 * 0.25 + 0.25 * share for share in (0.5, 0.25, 0, 0.25)]
    bottom = [0.75 * 0.25 + 0.25 * share for share in (0, 0, 1, 0)]
    np.testing.assert_allclose(health.usage, [top, bottom], rtol=1e-6)
    health.update([torch.tensor([3]), torch.tensor([0])])
    top = [0.75 * value + 0.25 * share for value, share in zip(top, (0, 0, 0, 1), strict=True)]
    bottom = [0.75 * value + 0.25 * share for value, share in zip(bottom, (1, 0, 0, 0), strict=True)]
    np.testing.assert_allclose(health.usage, [top, bottom], rtol=1e-6)


def marked_features(levels: int, code_dim: int = 3) -> list[torch.Tensor]:
    """Features that tell where they come from: the first channel is the level's number, hundredfold."""
    grids = []
    for level in range(levels):
        grid = make_features(2, code_dim, 4 * (level + 1), 4, seed=level)
        grid[:, 0] = 100 * (level + 1)
        grids.append(grid)
    return grids


@given(dead=st.sets(st.integers(0, 15)), levels=st.integers(1, 3), draw=st.integers(0, 99))
def test_dead_codes_are_replaced_in_equal_shares(dead: set[int], levels: int, draw: int) -> None:
    codebook, features = make(16, 3), marked_features(levels)
    before = codebook.weight.detach().clone()
    health = CodebookHealth(levels, 16, dead_below=0.5)
    for code in range(16):
        # A live code is one that any level uses; a dead one is used a little by all.
        health.usage[:, code] = 0.4 / 16
        if code not in dead:
            health.usage[code % levels, code] = 0.6 / 16
    usage = health.usage.clone()
    restarted = health.restart(codebook, features, key(draw))
    assert set(restarted.nonzero().flatten().tolist()) == dead
    shares = [0] * levels
    for code in range(16):
        if code not in dead:
            assert torch.equal(codebook.weight[code], before[code])
            assert torch.equal(health.usage[:, code], usage[:, code])
            continue
        level = round(float(codebook.weight[code, 0].detach()) / 100) - 1
        shares[level] += 1
        rows = features[level].movedim(1, -1).reshape(-1, 3)
        assert bool((rows == codebook.weight[code]).all(1).any())
        assert float(health.usage[level, code]) == pytest.approx(1 / 16)
    assert max(shares) - min(shares) <= 1
    # What was just restarted is given time.
    assert not health.restart(codebook, features, key(draw)).any()


def test_a_restart_depends_on_its_key_alone() -> None:
    weights = []
    for draw in (5, 5, 6):
        codebook, health = make(32, 3), CodebookHealth(2, 32, 0.5)
        health.usage.zero_()
        health.restart(codebook, marked_features(2), key(draw))
        weights.append(codebook.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_restarts_take_features_from_all_over_the_batch() -> None:
    features = [torch.arange(40.0).reshape(5, 1, 2, 4)]
    codebook, health = make(400, 1), CodebookHealth(1, 400, 0.5)
    health.usage.zero_()
    health.restart(codebook, features, key(1))
    assert set(codebook.weight.detach().flatten().tolist()) == set(range(40))


def test_nothing_is_restarted_below_zero() -> None:
    codebook, health = make(8, 3), CodebookHealth(2, 8, dead_below=0.0)
    before = codebook.weight.detach().clone()
    health.usage.zero_()
    assert not health.restart(codebook, marked_features(2), key(0)).any()
    assert torch.equal(codebook.weight, before)


@pytest.mark.parametrize("dead_below", [0.0, 0.03, 1.0])
def test_the_codebook_starts_from_data(dead_below: float) -> None:
    codebook, features = make(16, 3), marked_features(2)
    health = CodebookHealth(2, 16, dead_below)
    health.initialise(codebook, features, key(3))
    rows = [grid.movedim(1, -1).reshape(-1, 3) for grid in features]
    from_level = [sum(bool((level == code).all(1).any()) for code in codebook.weight) for level in rows]
    assert from_level == [8, 8]
    assert health.usage.tolist() == [[1 / 16] * 16] * 2


def naive_entropy_loss(rows: np.ndarray, codes: np.ndarray, temperature: float) -> float:
    soft = []
    for row in rows.astype(np.float64):
        energy = [-float(((row - code) ** 2).sum()) / temperature for code in codes.astype(np.float64)]
        weights = [math.exp(value - max(energy)) for value in energy]
        soft.append([weight / sum(weights) for weight in weights])
    each = [-sum(p * math.log(p) for p in row if p > 0) for row in soft]
    mean = np.mean(soft, axis=0)
    return float(np.mean(each)) + sum(float(p) * math.log(p) for p in mean if p > 0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_entropy_term_by_hand(temperature: float, normalize: bool) -> None:
    codebook = make(7, 4, normalize)
    quantized = codebook(make_features())
    rows = quantized.features.movedim(1, -1).reshape(-1, 4).numpy()
    expected = naive_entropy_loss(rows, codebook.codes.detach().numpy(), temperature)
    loss = codebook_entropy_loss(quantized, codebook, temperature)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    loss.backward()
    assert float(codebook.weight.grad.abs().max()) > 0


def test_the_entropy_term_is_lowest_when_all_codes_are_used_and_each_choice_is_sure() -> None:
    codebook = make(4, 4)
    codebook.weight.data = torch.eye(4)

    def loss(features: torch.Tensor) -> float:
        grid = features.T.reshape(1, 4, 1, -1)
        ids = torch.zeros(1, 1, grid.shape[-1], dtype=torch.int64)
        return float(codebook_entropy_loss(Quantized(grid, ids, grid, grid), codebook).detach())

    assert loss(torch.eye(4)) == pytest.approx(-math.log(4), abs=1e-5)  # sure, and all used
    assert loss(torch.eye(4)[[2, 2, 2, 2]]) == pytest.approx(0, abs=1e-5)  # sure, but one code for all
    assert loss(torch.zeros(4, 4)) == pytest.approx(0, abs=1e-5)  # undecided everywhere
