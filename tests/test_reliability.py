"""Calibration: the figures are those counted by hand, and those of models whose truth is known."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import NORMALISATION

from coverslip.models.caveat import of_reliability
from coverslip.models.diagram import draw_reliability
from coverslip.models.document import Architecture, ModelDocument, TileFit
from coverslip.models.metrics import interval_of_mean
from coverslip.models.reliability import (
    BINS,
    bin_numbers,
    brier_scores,
    error_by_chance,
    error_interval,
    expected_error,
    measure_reliability,
    reliability_bins,
)
from coverslip.ruo import RUO


def drawn(n: int, gap: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences from 0.5 to 1, and whether each is right: less often than it says by `gap`."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1, n)
    return confidence, rng.random(n) < confidence - gap


def test_the_error_is_that_counted_by_hand():
    """Bin (0.8, 0.867]: 4 rows, mean 0.85, 2 right. Bin (0.933, 1]: 6 rows, mean 0.95, 6 right."""
    confidence = np.array([0.84, 0.84, 0.86, 0.86] + [0.94, 0.96] * 3)
    right = np.array([True, False, True, False] + [True] * 6)
    assert expected_error(confidence, right) == pytest.approx(0.4 * 0.35 + 0.6 * 0.05)
    bins = reliability_bins(confidence, right)
    assert [(number, one.n) for number, one in enumerate(bins) if one.n] == [(12, 4), (14, 6)]
    assert (bins[12].confidence, bins[12].accuracy) == (pytest.approx(0.85), 0.5)
    assert (bins[0].n, bins[0].confidence, bins[0].accuracy) == (0, None, None)


def test_errors_of_opposite_sign_cancel_within_a_bin_and_not_between_bins():
    one = expected_error(np.array([0.95, 0.95]), np.array([True, False]))
    assert one == pytest.approx(0.45)
    two = expected_error(np.array([0.95, 0.55]), np.array([True, False]))
    assert two == pytest.approx((0.05 + 0.55) / 2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_bins_are_closed_on_the_right_and_cover_everything(confidence):
    values = np.array(confidence)
    number = bin_numbers(values)
    assert ((number >= 0) & (number < BINS)).all()
    assert (values <= (number + 1) / BINS + 1e-12).all()
    assert (values[values > 0] >= number[values > 0] / BINS - 1e-12).all()


@pytest.mark.parametrize("gap", [0.1, 0.25])
def test_a_known_gap_is_found(gap):
    assert expected_error(*drawn(40_000, gap, 0)) == pytest.approx(gap, abs=0.01)


def test_what_chance_alone_shows_is_what_calibrated_models_show():
    """The mean error of 200 calibrated models with 60 rows, which is far from 0."""
    confidence, _ = drawn(60, 0, 1)
    rng = np.random.default_rng(2)
    shown = np.mean([expected_error(confidence, rng.random(60) < confidence) for _ in range(200)])
    assert shown > 0.05
    assert error_by_chance(confidence) == pytest.approx(shown, abs=0.01)


def test_the_interval_of_the_error_holds_the_truth_about_as_often_as_said():
    """It says 95 %; bootstrap intervals of so few rows hold it somewhat less often."""
    found = [error_interval(*drawn(300, 0.15, seed), np.arange(300)) for seed in range(50)]
    assert 40 <= sum(low <= 0.15 <= high for low, high in found) <= 50
    assert all(high - low < 0.15 for low, high in found)


def test_tiles_of_one_group_widen_the_interval():
    confidence, right = np.full(400, 0.9), np.repeat(np.arange(20) < 16, 20)
    alike = error_interval(confidence, right, np.repeat(np.arange(20), 20))
    alone = error_interval(confidence, right, np.arange(400))
    assert alike[1] - alike[0] > 2 * (alone[1] - alone[0])


def test_the_brier_score_is_the_squared_distance_and_its_interval_that_of_a_mean():
    scores = brier_scores(np.array([[0.7, 0.2, 0.1]]), np.array([1]))
    assert scores[0] == pytest.approx(0.7**2 + 0.8**2 + 0.1**2)
    values = np.random.default_rng(0).random(400)
    low, high = interval_of_mean(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert (low, high) == (
        pytest.approx(values.mean() - half, abs=0.004),
        pytest.approx(values.mean() + half, abs=0.004),
    )


def spoilt(temperature: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a model that would be calibrated at this temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (n, 3))
    odds = np.exp(logits)
    labels = ((odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return logits * temperature, labels


def test_the_right_temperature_mends_what_was_spoilt():
    logits, labels = spoilt(3.0)
    found = measure_reliability(logits, labels, np.arange(len(labels)), 3.0)
    assert found.before.ece > 0.1
    assert found.before.ece_interval[0] > 0.1
    assert found.after.ece < 0.03
    assert found.after.brier < found.before.brier
    assert found.after.ece_interval[0] <= found.by_chance <= 0.03
    assert (found.n, found.groups, len(found.after.bins)) == (4000, 4000, BINS)
    assert sum(one.n for one in found.after.bins) == 4000


def document() -> ModelDocument:
    logits, labels = spoilt(2.0, 300)
    return ModelDocument(
        name="demo",
        version="1",
        classes=("a", "b", "c"),
        tile=TileFit(size=32, mpp=0.5, tolerance=0.1),
        stain=None,
        normalisation=NORMALISATION,
        architecture=Architecture(name="test_resnet"),
        licence="Apache-2.0",
        intended_use="research",
        training=None,
        metrics=None,
        calibration=None,
        reliability=measure_reliability(logits, labels, np.arange(300) // 3, 2.0),
        out_of_distribution=None,
        weights_sha256="0" * 64,
        created_with={},
    )


def test_the_diagram_is_svg_whose_bars_are_the_bins():
    made = document()
    assert made.reliability is not None
    text = draw_reliability(made, made.reliability)
    root = ET.fromstring(text)  # noqa: S314 - our own text
    space = "{http://www.w3.org/2000/svg}"
    bars = [rect for rect in root.iter(f"{space}rect") if rect.find(f"{space}title") is not None]
    for panel, colour in ((made.reliability.before, "#d55e00"), (made.reliability.after, "#0072b2")):
        heights = [float(rect.get("height", "")) for rect in bars if rect.get("fill") == colour]
        shares = [one.accuracy for one in panel.bins if one.accuracy is not None]
        assert heights == pytest.approx([320 * share for share in shares], abs=0.06)
    said = " ".join(root.itertext())
    assert RUO in said
    assert f"ECE {made.reliability.after.ece:.3f}" in said
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_name_cannot_break_out_of_the_diagram():
    made = document()
    assert made.reliability is not None
    text = draw_reliability(made.model_copy(update={"name": "<script>x</script>&"}), made.reliability)
    assert "<script" not in text
    ET.fromstring(text)  # noqa: S314 - our own text


def test_the_card_says_how_far_probabilities_are_off():
    made = document()
    found = made.reliability
    assert found is not None
    said = "\n".join(of_reliability(found))
    for figure in (found.before.ece, found.after.ece, found.after.brier, found.by_chance):
        assert f"{figure:.3f}" in said
    assert "300 test tiles of 100 groups" in said
    assert list(of_reliability(None)) == [
        "- How far its probabilities are from what happens was not measured."
    ]
