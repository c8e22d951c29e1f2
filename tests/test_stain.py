"""Stain separation: the golden values of QuPath's formula, and estimates that never fail."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from coverslip.errors import RequestError
from coverslip.tiling.stain import (
    H_DAB,
    H_E,
    StainVectors,
    estimate_background,
    estimate_vectors,
    separate,
    stain_vectors,
)
from coverslip.wsi.colour import optical_density

IMAGES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6).map(lambda s: (*s, 3)))


def amounts(rgb: tuple[int, int, int], vectors: StainVectors) -> np.ndarray:
    return separate(np.array([[rgb]], np.uint8), vectors)[0, 0]


def angle(one: tuple, other: tuple) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(one, other), -1, 1))))


def test_h_dab_matrix_and_its_inverse_are_the_published_ones():
    np.testing.assert_allclose(
        H_DAB.rows,
        [[0.65111, 0.70119, 0.29049], [0.26917, 0.56824, 0.77759], [0.63304, -0.71286, 0.30181]],
        atol=1e-5,
    )
    np.testing.assert_allclose(
        H_DAB.inverse,
        [[1.20859, -0.69721, 0.63304], [0.68440, 0.02100, -0.71286], [-0.91850, 1.51201, 0.30181]],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("vectors", "rgb", "expected"),
    [
        (H_DAB, (255, 255, 255), (0, 0, 0)),
        (H_DAB, (100, 110, 170), (0.5795, -0.0095, 0.0502)),
        (H_DAB, (139, 90, 43), (-0.0820, 0.9947, 0.0777)),
        (H_DAB, (90, 60, 40), (0.2378, 0.9142, 0.0812)),
        (H_E, (110, 70, 150), (0.5152, 0.2119, -0.0509)),
        (H_E, (230, 150, 190), (-0.0069, 0.2716, -0.0296)),
    ],
)
def test_separate_gives_the_golden_amounts(vectors, rgb, expected):
    np.testing.assert_allclose(amounts(rgb, vectors), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("density", "rgb", "back"),
    [(0.2, (225, 196, 178), 0.2006), (0.4, (199, 151, 125), 0.3979), (0.6, (176, 116, 87), 0.6011)],
)
def test_pure_dab_becomes_a_colour_and_comes_back(density, rgb, back):
    colour = np.round(255 * 10 ** (-density * np.asarray(H_DAB.rows[1])))
    assert tuple(int(value) for value in colour) == rgb
    assert amounts(rgb, H_DAB)[1] == pytest.approx(back, abs=1e-3)


def test_residual_is_at_right_angles_to_both_stains():
    for vectors in (H_DAB, H_E):
        one, two, residual = np.asarray(vectors.rows)
        assert residual @ one == pytest.approx(0, abs=1e-12)
        assert residual @ two == pytest.approx(0, abs=1e-12)


@given(IMAGES, st.tuples(*[st.integers(1, 255)] * 3))
def test_density_equals_the_formula(rgb, background):
    expected = np.maximum(0, -np.log10(np.maximum(rgb, 1) / np.asarray(background, float)))
    result = optical_density(rgb, background)
    assert result.dtype == np.float32
    assert result.shape == rgb.shape
    np.testing.assert_allclose(result, expected, atol=1e-6)


@given(IMAGES)
def test_amounts_times_vectors_give_the_density_back(rgb):
    result = separate(rgb, H_DAB)
    assert result.shape == rgb.shape
    np.testing.assert_allclose(result @ np.asarray(H_DAB.rows), optical_density(rgb), atol=1e-5)


def test_separate_reads_a_view_like_its_copy():
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    np.testing.assert_array_equal(separate(rgb[5:30, 7:50], H_DAB), separate(rgb, H_DAB)[5:30, 7:50])


def test_glass_of_another_colour_holds_no_stain():
    rgb = np.full((2, 2, 3), (226, 224, 235), np.uint8)
    assert separate(rgb, H_DAB).max() > 0.02
    np.testing.assert_array_equal(separate(rgb, H_DAB.on((226, 224, 235))), 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 0, 0), (1, 1, 0)), ((1, 0, 0), (1, 0.01, 0)), ((1, -1, 0), (0, 1, 0)), ((np.nan, 1, 0), (0, 1, 0))],
)
def test_vectors_that_are_no_two_stains_are_refused(first, second):
    with pytest.raises(RequestError):
        stain_vectors(("a", "b"), first, second)


def test_vectors_that_are_not_of_unit_length_or_not_log10_are_refused():
    with pytest.raises(RequestError, match="unit length"):
        StainVectors(("a", "b", "c"), ((2, 0, 0), (0, 1, 0), (0, 0, 1)), "given")
    with pytest.raises(RequestError, match="natural"):
        StainVectors(H_DAB.names, H_DAB.rows, "given", convention="natural")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3)), np.zeros((2, 2, 4), np.uint8)]
)
def test_what_is_no_rgb_image_is_refused(array):
    with pytest.raises(RequestError, match="no RGB image"):
        separate(array, H_DAB)


def test_background_is_the_commonest_bright_colour_and_ignores_missing_pixels():
    rgb = np.full((100, 100, 3), (120, 60, 140), np.uint8)
    rgb[:20], rgb[20:60] = (240, 238, 242), 255
    valid = np.ones((100, 100), bool)
    valid[20:60] = False
    assert estimate_background(rgb, valid) == (240, 238, 242)


def test_background_is_not_guessed_without_glass():
    tissue = np.full((50, 50, 3), (230, 150, 190), np.uint8)
    assert estimate_background(tissue, np.ones((50, 50), bool)) is None
    assert estimate_background(tissue, np.zeros((50, 50), bool)) is None


def painted(vectors: StainVectors, seed: int = 0) -> np.ndarray:
    """A field of 200 × 200 pixels, each of one stain with a little of the other."""
    rng = np.random.default_rng(seed)
    main, trace = rng.uniform(0.3, 0.7, (200, 200)), rng.uniform(0, 0.02, (200, 200))
    first = np.broadcast_to((np.arange(200) // 40 % 2 == 0)[:, None], (200, 200))
    share = np.stack([np.where(first, main, trace), np.where(first, trace, main)], axis=-1)
    # smooth amounts, so that the estimate's own smoothing changes little
    share = cv2.blur(share, (1, 9))
    density = share @ np.asarray(vectors.rows[:2])
    return np.round(np.asarray(vectors.background) * 10**-density).astype(np.uint8)


@pytest.mark.parametrize(
    ("default", "first", "second"),
    [
        (H_DAB, (0.75, 0.60, 0.28), (0.35, 0.53, 0.77)),
        (H_E, (0.58, 0.76, 0.30), (0.15, 0.85, 0.50)),
    ],
)
def test_estimate_finds_the_stains_a_picture_was_painted_with(default, first, second):
    truth = stain_vectors(default.names[:2], first, second)
    rgb = painted(truth)
    found = estimate_vectors(rgb, np.ones(rgb.shape[:2], bool), default)
    assert found.reason is None
    assert found.vectors.source == "estimated"
    assert angle(found.vectors.rows[0], truth.rows[0]) < 2.5
    assert angle(found.vectors.rows[1], truth.rows[1]) < 2.5


def test_estimate_with_one_stain_only_falls_back_and_says_why():
    density = np.random.default_rng(1).uniform(0.2, 0.8, (200, 200, 1)) * np.asarray(H_DAB.rows[0])
    rgb = np.round(255 * 10**-density).astype(np.uint8)
    found = estimate_vectors(rgb, np.ones((200, 200), bool), H_DAB)
    assert found.vectors is H_DAB
    assert found.reason is not None
    assert "between the two stains" in found.reason


@pytest.mark.parametrize("value", [0, 1, 128, 245, 255])
def test_estimate_is_total_on_flat_fields(value):
    rgb = np.full((120, 120, 3), value, np.uint8)
    found = estimate_vectors(rgb, np.ones((120, 120), bool), H_E)
    assert found.vectors is H_E
    assert found.reason is not None
    assert "0 pixels" in found.reason


@given(st.integers(0, 2**32 - 1), st.sampled_from([(0, 0), (1, 1), (90, 90)]))
def test_estimate_never_fails_on_noise(seed, shape):
    rgb = np.random.default_rng(seed).integers(60, 256, (*shape, 3), np.uint8)
    found = estimate_vectors(rgb, np.ones(shape, bool), H_DAB)
    assert (found.reason is None) == (found.vectors.source == "estimated")
    assert np.isfinite(found.vectors.inverse).all()


def test_estimate_on_a_real_ki67_field_stays_near_the_defaults(shared):
    rgb = tifffile.imread(shared / "ihc/OS-2-ndpi_Ki67.ome.tif")[:1100, :1100]
    valid = np.ones(rgb.shape[:2], bool)
    background = estimate_background(rgb, valid)
    assert background is not None
    assert min(background) > 210
    found = estimate_vectors(rgb, valid, H_DAB)
    assert found == estimate_vectors(rgb, valid, H_DAB)
    assert found.reason is None
    assert angle(found.vectors.rows[0], H_DAB.rows[0]) < 19
    assert angle(found.vectors.rows[1], H_DAB.rows[1]) < 19


def test_estimate_refuses_a_picture_in_one_dye(shared):
    path = shared / "nuclei/bbbc038/histology-colour/2246874c8b5b.png"
    rgb = cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB)
    found = estimate_vectors(np.asarray(rgb, np.uint8), np.ones(rgb.shape[:2], bool), H_E)
    assert found.vectors is H_E
