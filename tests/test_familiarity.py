"""Tiles unlike those of training are told: distances are those of other programs, and strange tiles far."""

from __future__ import annotations

import json

import numpy as np
import pytest
from networks import write_network
from pydantic import TypeAdapter, ValidationError
from scipy.spatial.distance import mahalanobis
from scipy.stats import chi2

from coverslip.models.document import Familiarity, OutOfDistribution
from coverslip.models.doubt import Energy, Mahalanobis
from coverslip.models.familiarity import (
    AXES,
    QUANTILE,
    feature_width,
    fit_familiarity,
    fit_mahalanobis,
    pack,
    ruler,
    shrinkage_of,
    unpack,
)

NO_LOGITS = np.zeros((0, 3), np.float32)
READER = TypeAdapter(Familiarity)


def clouds(n: int, features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around their own means, all of one skewed shape; (n, features), (n,)."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(99)
    mix = shape.normal(size=(features, features)) * np.geomspace(3, 0.3, features)
    means = 6 * shape.normal(size=(3, features))
    labels = rng.integers(3, size=n)
    return means[labels] + rng.normal(size=(n, features)) @ mix.T, labels


def shrunk(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class means and the shrunk covariance, written out."""
    means = np.stack([features[labels == number].mean(axis=0) for number in range(3)])
    rows = features - means[labels]
    covariance, share = rows.T @ rows / len(rows), shrinkage_of(rows)
    sphere = np.trace(covariance) / rows.shape[1] * np.eye(rows.shape[1])
    return means, (1 - share) * covariance + share * sphere


def test_with_all_axes_the_distance_is_that_of_scipy():
    features, labels = clouds(300)
    known = fit_mahalanobis(features, labels, axes=6)
    means, covariance = shrunk(features, labels)
    inverse = np.linalg.inv(covariance)
    new = clouds(20, seed=1)[0]
    expected = [min(mahalanobis(row, mean, inverse) for mean in means) / np.sqrt(6) for row in new]
    np.testing.assert_allclose(ruler(known)(new, NO_LOGITS), expected, rtol=1e-4)


def test_with_fewer_axes_the_other_directions_share_their_variance():
    features, labels = clouds(300)
    known = fit_mahalanobis(features, labels, axes=2)
    means, covariance = shrunk(features, labels)
    values, vectors = np.linalg.eigh(covariance)
    values[:-2] = values[:-2].mean()
    inverse = vectors @ np.diag(1 / values) @ vectors.T
    new = clouds(20, seed=1)[0]
    expected = [min(mahalanobis(row, mean, inverse) for mean in means) / np.sqrt(6) for row in new]
    np.testing.assert_allclose(ruler(known)(new, NO_LOGITS), expected, rtol=1e-4)
    assert (len(known.variances), known.features, feature_width(known)) == (2, 6, 6)


def test_squared_distances_of_normal_tiles_follow_chi_squared():
    features, labels = clouds(5000)
    distances = ruler(fit_mahalanobis(features, labels, axes=6))(clouds(5000, seed=1)[0], NO_LOGITS)
    for share in (0.1, 0.5, 0.9, 0.99):
        # The little shrinkage draws the shortest axis in.
        assert np.mean(6 * distances**2 < chi2.ppf(share, 6)) == pytest.approx(share, abs=0.03)


def test_the_shrinkage_is_that_of_the_formula_written_out():
    rows = clouds(40)[0]
    rows = rows - rows.mean(axis=0)
    n, width = rows.shape
    covariance = sum(np.outer(row, row) for row in rows) / n
    sphere = np.trace(covariance) / width * np.eye(width)
    noise = sum(((np.outer(row, row) - covariance) ** 2).sum() for row in rows) / n**2
    assert shrinkage_of(rows) == pytest.approx(min(1, noise / ((covariance - sphere) ** 2).sum()))


def test_few_tiles_are_shrunk_more_than_many_and_a_sphere_altogether():
    few, many = (shrinkage_of(clouds(n)[0] - clouds(n)[0].mean(axis=0)) for n in (10, 10_000))
    assert many < 0.01 < few < 1
    assert shrinkage_of(np.random.default_rng(0).normal(size=(30, 200))) > 0.9
    assert shrinkage_of(np.zeros((5, 3))) == 1


def test_more_features_than_tiles_give_distances_that_mean_something():
    """60 tiles of 200 features: without shrinkage there is no inverse at all."""
    features, labels = clouds(60, 200)
    known = fit_mahalanobis(features, labels)
    like, far = clouds(200, 200, seed=1)[0], clouds(200, 200, seed=1)[0] + 40
    assert len(known.variances) == AXES
    assert ruler(known)(like, NO_LOGITS).max() < ruler(known)(far, NO_LOGITS).min()


def test_features_that_never_vary_do_not_break_the_distance():
    still = np.ones((30, 4))
    known = fit_mahalanobis(still, np.arange(30) % 3)
    found = ruler(known)(np.vstack([still[:1], still[:1] + 1]), NO_LOGITS)
    assert np.isfinite(found).all()
    assert found[0] == 0 < found[1]


def test_what_correlates_is_not_far_where_it_goes_together():
    """The reason for it: (3, 3) lies along the cloud, (3, −3) across; standardised both are as far."""
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(2000, 1)) + 0.1 * rng.normal(size=(2000, 2))
    labels, new = np.arange(2000) % 2, np.array([[3.0, 3.0], [3.0, -3.0]])
    logits = np.zeros((2000, 2))
    one, other = (
        ruler(fit_familiarity(method, cloud, labels, cloud, logits))(new, logits[:2])
        for method in ("mahalanobis", "standardised")
    )
    assert one[1] > 8 * one[0]
    assert other[1] == pytest.approx(other[0], rel=0.05)


@pytest.mark.parametrize("method", ["mahalanobis", "standardised", "energy"])
def test_the_limit_is_what_99_of_100_validation_tiles_keep(method):
    (train, labels), (validation, _) = clouds(500), clouds(1000, seed=1)
    logits = np.random.default_rng(0).normal(size=(1000, 3))
    known = fit_familiarity(method, train, labels, validation, logits)
    assert known.method == method
    assert known.quantile == QUANTILE
    assert np.mean(ruler(known)(validation, logits) > known.limit) == pytest.approx(0.01, abs=0.001)
    again = READER.validate_json(READER.dump_json(known))
    assert again == known
    assert np.array_equal(ruler(again)(validation, logits), ruler(known)(validation, logits))


def test_energy_is_high_where_no_logit_is():
    known = Energy(limit=0, quantile=0.99)
    found = ruler(known)(np.zeros((2, 0)), np.array([[8.0, 0.0], [0.1, 0.0]]))
    assert found.tolist() == pytest.approx([-8.00034, -0.74444], abs=1e-4)
    assert feature_width(known) == 0


def test_packages_made_before_there_was_a_choice_still_load(tmp_path):
    old = json.loads('{"mean": [0.0, 1.0], "std": [1.0, 2.0], "limit": 1.5, "quantile": 0.99}')
    known = READER.validate_python(old)
    assert isinstance(known, OutOfDistribution)
    assert ruler(known)(np.array([[1.0, 3.0]]), NO_LOGITS) == pytest.approx([1.0])


def test_a_whole_package_keeps_its_statistics(tmp_path):
    pytest.importorskip("timm", reason="torch and timm are not installed")
    from networks import network_of

    from coverslip.models.package import load_package

    known = fit_mahalanobis(*clouds(100))
    package = write_network(tmp_path / "demo", network_of(), out_of_distribution=known)
    assert load_package(package.folder).document.out_of_distribution == known
    text = json.loads((package.folder / "model.json").read_text())
    for field in ("reliability", "prediction_sets"):
        del text[field]
    (package.folder / "model.json").write_text(json.dumps(text))
    older = load_package(package.folder).document
    assert (older.reliability, older.prediction_sets) == (None, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"centres": ""}, "a row of float32 per class"),
        ({"centres": pack(np.zeros((3, 5)))}, "a row of float32 per class"),
        ({"variances": (1.0,)}, "a row of float32 per class"),
        ({"centres": pack(np.full((3, 6), np.nan))}, "must be finite"),
        ({"axes": pack(np.full((6, 6), np.inf))}, "must be finite"),
        ({"centres": "!!"}, "centres"),
        ({"residual": 0}, "residual"),
        ({"method": "guess"}, "method"),
        ({"method": 7}, "method"),
    ],
)
def test_statistics_that_cannot_be_are_refused(change, said):
    good = fit_mahalanobis(*clouds(100)).model_dump()
    assert isinstance(READER.validate_python(good), Mahalanobis)
    with pytest.raises(ValidationError, match=said):
        READER.validate_python(good | change)


def test_packed_numbers_are_float32_row_by_row():
    rows = np.random.default_rng(0).normal(size=(3, 4))
    assert np.array_equal(unpack(pack(rows), 4), rows.astype(np.float32))
