"""Scores against closed forms, naive loops and torchmetrics on the same features."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strait.evaluation.features import FeatureError, Features, open_features, weights_digest
from strait.evaluation.fidelity import (
    Summary,
    check_finite,
    fidelity,
    frechet_distance,
    frechet_error,
    inception_score,
    moments,
    precision_and_recall,
)
from strait.randomness import permutation


@pytest.fixture(scope="module", autouse=True)
def operators() -> Iterator[None]:
    """Where torchvision is installed beside a CPU build of torch, it lacks two operators, and fails at import."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    if importlib.util.find_spec("torchvision") is not None and not hasattr(torch.ops.torchvision, "nms"):
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield
    del library


def sample(count: int, width: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def with_moments(count: int, mean: torch.Tensor, root: torch.Tensor, seed: int) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly ``mean`` and ``root root^T``."""
    raw = sample(count, len(mean), seed).double()
    raw = raw - raw.mean(0)
    whitening = torch.linalg.inv(torch.linalg.cholesky(raw.T @ raw / (count - 1)))
    return raw @ whitening.T @ root.T + mean


def test_moments_are_numpys() -> None:
    values = sample(3000, 7, 1, 2.0, 5.0)
    mean, covariance = moments(values)
    np.testing.assert_allclose(mean.numpy(), values.double().numpy().mean(0), rtol=1e-12)
    expected = np.cov(values.double().numpy(), rowvar=False)
    np.testing.assert_allclose(covariance.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_gaussians_of_known_mean_and_covariance() -> None:
    """Diagonal covariances commute: the distance is |m1 - m2|^2 + sum (s1 - s2)^2."""
    first, second = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 0.5, 3.0]).double()
    ours = with_moments(500, torch.tensor([0.0, 1.0, -1.0]).double(), torch.diag(first), 1)
    theirs = with_moments(400, torch.tensor([2.0, 1.0, 0.0]).double(), torch.diag(second), 2)
    expected = 5.0 + float((first - second).square().sum())
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-9)


def test_gaussians_that_do_not_commute() -> None:
    """tr (C1 C2)^(1/2) from the eigenvalues of the product, a way that the code does not take."""
    generator = torch.Generator().manual_seed(3)
    roots = [torch.randn(5, 5, generator=generator).double() for _ in range(2)]
    ours, theirs = (with_moments(300, torch.zeros(5).double(), root, i) for i, root in enumerate(roots))
    products = [root @ root.T for root in roots]
    trace = np.sqrt(np.linalg.eigvals((products[0] @ products[1]).numpy()).real).sum()
    expected = float(products[0].trace() + products[1].trace()) - 2 * trace
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-8)


def test_identical_sets_have_no_distance_and_the_distance_is_symmetric() -> None:
    first, second = sample(200, 16, 1), sample(300, 16, 2, 1.5, 0.3)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-9)


def test_fewer_images_than_dimensions() -> None:
    """Covariances without full rank: moved apart by d, sets that are else the same lie d^2 apart."""
    values = sample(10, 64, 4)
    assert frechet_distance(values, values + 0.5) == pytest.approx(64 * 0.25, rel=1e-5)


def test_it_agrees_with_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    ours, theirs = sample(400, 32, 5), sample(500, 32, 6, 1.3, 0.2)

    class Identity(torch.nn.Module):
        num_features = 32

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values

    metric = fid.FrechetInceptionDistance(feature=Identity(), input_img_size=(1, 1, 1))
    metric.num_features = 32
    metric.update(theirs, real=True)
    metric.update(ours, real=False)
    assert frechet_distance(ours, theirs) == pytest.approx(float(metric.compute()), rel=1e-3)


def test_all_scores_agree_with_torch_fidelitys() -> None:
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import metric_fid, metric_isc, metric_prc

    ours, theirs = sample(600, 48, 5).abs(), sample(800, 48, 6, 1.1, 0.15).abs()
    logits = sample(607, 20, 7, 3.0)  # which ten does not divide
    ours = torch.cat([ours, ours[:7] + 0.01])
    scores = fidelity(Features(theirs, None), Features(ours, logits))

    first, second = (metric_fid.fid_features_to_statistics(values) for values in (ours, theirs))
    expected = metric_fid.fid_statistics_to_metric(first, second, False)
    assert scores["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)

    expected = metric_isc.isc_features_to_metric(logits, splits=1, shuffle=False)
    assert inception_score(logits, splits=1)[0] == pytest.approx(expected["inception_score_mean"], rel=1e-3)
    # Samples are shuffled in another order there: handed over in ours, its ten parts are ours too.
    shuffled = logits[permutation(len(logits), 0)]
    expected = metric_isc.isc_features_to_metric(shuffled, splits=10, shuffle=False)
    assert scores["inception_score"] == pytest.approx(expected["inception_score_mean"], rel=1e-3)
    assert scores["inception_score_std"] == pytest.approx(expected["inception_score_std"], rel=1e-3)
    expected = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=True)
    assert scores["inception_score"] == pytest.approx(expected["inception_score_mean"], rel=0.02)

    expected = metric_prc.prc_features_to_metric(ours, theirs, prc_neighborhood=3, verbose=False)
    assert 0.1 < expected["precision"] < 0.95
    assert scores["precision"] == pytest.approx(expected["precision"], rel=1e-3)
    assert scores["recall"] == pytest.approx(expected["recall"], rel=1e-3)


def test_inception_is_loaded_and_called_as_the_library_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are a download; here random ones stand in for them, and all else is as with the real ones."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    network = open_features("inception", torch.device("cpu"))
    features = network(torch.rand(2, 3, 40, 40) * 2 - 1)
    assert features.values.shape == (2, 2048)
    assert features.logits is not None
    assert features.logits.shape == (2, 1008)
    assert network.name == "inception-v3-compat"
    # Known by its weights, not by the library that brought them.
    torch.manual_seed(0)
    first = open_features("inception", torch.device("cpu")).digest
    torch.manual_seed(0)
    assert open_features("inception", torch.device("cpu")).digest == first
    assert network.digest != first

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no way out")

    monkeypatch.setattr(theirs, "load_state_dict_from_url", unreachable)
    with pytest.raises(FeatureError, match="the weights of inception could not be downloaded"):
        open_features("inception", torch.device("cpu"))


def test_the_error_of_the_distance_is_its_spread_over_independent_draws() -> None:
    theirs = sample(4000, 6, 1)
    scales = torch.tensor([0.5, 1.0, 1.5, 2.0, 0.7, 1.2])

    def ours(seed: int) -> torch.Tensor:
        return sample(600, 6, seed) * scales + 0.4

    spread = np.std([frechet_distance(ours(seed), theirs) for seed in range(10, 210)], ddof=1)
    errors = [frechet_error(ours(seed), theirs) for seed in range(10, 20)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)
    assert max(errors) < 1.3 * min(errors)


def test_the_error_is_a_number_with_fewer_images_than_dimensions() -> None:
    assert (
        0
        < frechet_error(sample(20, 64, 1), sample(400, 64, 2))
        < frechet_distance(sample(20, 64, 1), sample(400, 64, 2))
    )


def test_inception_score_of_sure_and_unsure_networks() -> None:
    classes = 10
    sure = 1000.0 * torch.eye(classes).repeat(100, 1)
    score, spread = inception_score(sure)
    # Each part holds about ten of every class, not exactly: the score lies just below the number of classes.
    assert 9.4 < score <= classes
    assert 0 < spread < 0.5
    assert inception_score(sure, splits=1) == (pytest.approx(classes, rel=1e-9), 0.0)
    assert inception_score(torch.zeros(100, classes)) == (pytest.approx(1.0), pytest.approx(0.0))


def test_inception_score_by_hand() -> None:
    p = torch.tensor([[7, 2, 1], [1, 1, 8], [3, 4, 3], [6, 3, 1]], dtype=torch.float64) / 10
    marginal = p.mean(0)
    divergence = sum(float(p[i, c]) * math.log(float(p[i, c] / marginal[c])) for i in range(4) for c in range(3)) / 4
    assert inception_score(p.log(), splits=1)[0] == pytest.approx(math.exp(divergence), rel=1e-9)


def test_samples_sorted_by_class_score_the_same() -> None:
    """Unshuffled, ten parts of one class each would score 1."""
    sorted_by_class = 20.0 * torch.eye(10).repeat_interleave(100, 0) + sample(1000, 10, 1)
    mixed = sorted_by_class[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    assert inception_score(sorted_by_class)[0] == pytest.approx(inception_score(mixed)[0], rel=0.02)
    assert inception_score(sorted_by_class)[0] > 9


def naive_coverage(points: np.ndarray, manifold: np.ndarray, k: int) -> float:
    inside = 0
    for point in points:
        for index, centre in enumerate(manifold):
            others = sorted(float(np.linalg.norm(centre - o)) for j, o in enumerate(manifold) if j != index)
            if float(np.linalg.norm(point - centre)) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@given(seed=st.integers(0, 1000), real=st.integers(5, 30), generated=st.integers(5, 30), k=st.integers(1, 4))
def test_precision_and_recall_equal_plain_loops(seed: int, real: int, generated: int, k: int) -> None:
    a, b = sample(real, 3, seed), sample(generated, 3, seed + 1, 1.5, 0.5)
    scores = precision_and_recall(a, b, k, piece=7)
    assert scores == (naive_coverage(b.numpy(), a.numpy(), k), naive_coverage(a.numpy(), b.numpy(), k))


def test_identical_and_disjoint_sets() -> None:
    values = sample(100, 8, 1)
    assert precision_and_recall(values, values) == (1.0, 1.0)
    assert precision_and_recall(values, values + 100) == (0.0, 0.0)
    # One place that is real: every generated image is near, and hardly any real one is.
    precision, recall = precision_and_recall(values, values[:1] + 1e-3 * sample(50, 8, 2))
    assert precision == 1.0
    assert recall < 0.2


def test_all_four_with_their_names_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    real, generated = Features(sample(50, 4, 1), sample(50, 10, 2)), Features(sample(40, 4, 3), sample(40, 10, 4))
    report = fidelity(real, generated)
    assert set(report) == {"fid", "inception_score", "inception_score_std", "precision", "recall", "samples"}
    assert report["samples"] == 40
    assert capsys.readouterr().err == ""
    few = fidelity(Features(sample(10, 64, 1), None), Features(sample(9, 64, 2), None))
    assert few["inception_score"] is None
    messages = capsys.readouterr().err
    assert "9 images are fewer than the 64 dimensions" in messages
    assert "no logits" in messages
    fidelity(Features(sample(10, 64, 1), None), Features(sample(9, 64, 2), None))
    assert capsys.readouterr().err == "", "each is said once"


def test_features_that_are_no_numbers_are_named() -> None:
    values = sample(20, 4, 1)
    values[7, 2] = math.nan
    with pytest.raises(FeatureError, match="those of generated image 7 are not finite"):
        fidelity(Features(sample(20, 4, 2), None), Features(values, None))
    logits = sample(20, 3, 1)
    logits[11, 0] = math.inf
    with pytest.raises(FeatureError, match="those of reference image 11"):
        check_finite(Features(sample(20, 4, 2), logits), "reference")
    with pytest.raises(FeatureError, match="4 dimensions, but the reference has 5"):
        fidelity(Features(sample(20, 5, 2), None), Features(sample(20, 4, 2), None))
    with pytest.raises(FeatureError, match="3 generated images are too few for k = 3"):
        precision_and_recall(sample(20, 4, 1), sample(3, 4, 1))


def test_the_image_is_named_by_its_number_in_the_source() -> None:
    """Of a reference that was sampled, permuted, or lost damaged files, positions say nothing."""
    values = sample(4, 3, 1)
    values[2, 0] = math.nan
    indices = torch.tensor([31, 4, 17, 9])
    with pytest.raises(FeatureError, match="those of reference image 17 are not finite"):
        check_finite(Features(values, None, indices), "reference")


def test_what_is_kept_of_a_reference_changes_no_score() -> None:
    reference = Summary(Features(sample(60, 5, 1), None))
    for seed in (2, 3):
        generated = Features(sample(50, 5, seed, 1.2, 0.1), sample(50, 4, seed))
        assert fidelity(reference, generated) == fidelity(Features(sample(60, 5, 1), None), Summary(generated))
        assert frechet_error(Summary(generated), reference) == frechet_error(generated.values, reference.values)


def test_a_digest_is_of_names_shapes_and_values() -> None:
    plain = {"a": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}
    others = [
        {**plain, "a": plain["a"].view(3, 2)},
        {**plain, "a": plain["a"] + torch.tensor([0, 0, 1e-6])},
        {"b": plain["a"], "count": plain["count"]},
        {**plain, "count": torch.tensor(4)},
    ]
    assert weights_digest(dict(reversed(plain.items()))) == weights_digest(plain)
    assert len({weights_digest(plain), *map(weights_digest, others)}) == 5
