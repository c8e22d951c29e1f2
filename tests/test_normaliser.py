"""Stain normalisation: known stains are found again, glass is no failure, real fields meet their target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from slides import write_tiff

from coverslip.errors import RequestError
from coverslip.tiling.dyes import H_E_REFERENCE, Dyes, chosen_pixels, stained_density
from coverslip.tiling.macenko import fit_macenko
from coverslip.tiling.normaliser import METHODS, StainSample, fit_stain, glass_colour
from coverslip.tiling.reinhard import LAB_REFERENCE, LabStatistics, LabTransfer, fit_reinhard
from coverslip.tiling.stain import H_E, StainVectors, stain_vectors
from coverslip.tiling.tissue import find_tissue
from coverslip.tiling.unfitted import Unfitted
from coverslip.tiling.vahadane import fit_vahadane
from coverslip.wsi import open_slide
from coverslip.wsi.colour import from_lab, light, optical_density, to_lab
from coverslip.wsi.pixels import Rgb

SIDE = 160
GLASS: Rgb = (244, 240, 246)


def mixed(truth: StainVectors, strong: tuple[float, float] = (0.9, 0.6), seed: int = 0) -> NDArray[np.uint8]:
    """A field of known stains, uint8 (160, 160, 3): an eighth of it glass, nuclei of the first stain alone,
    fibres of the second alone, and between them both."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.25, 1, (SIDE, SIDE, 2)) * strong
    row = np.arange(SIDE)[:, None] // 20 % 8 + np.zeros((1, SIDE), int)
    amounts[(row < 3), 1] *= 0.02
    amounts[(row >= 3) & (row < 6), 0] *= 0.02
    amounts[row == 7] = 0
    return light((amounts @ np.asarray(truth.rows[:2])).astype(np.float32), truth.background)


def degrees(one: Sequence[float] | NDArray, other: Sequence[float] | NDArray) -> float:
    return math.degrees(math.acos(min(1.0, float(np.dot(one, other)))))


def degrees_between(one: NDArray, other: NDArray) -> float:
    return degrees(one / np.linalg.norm(one), other / np.linalg.norm(other))


def picture(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB), np.uint8)


def stained_mean(rgb: NDArray[np.uint8], background: Rgb = (255, 255, 255)) -> NDArray[np.float64]:
    """Mean density (3,) of the pixels that are no glass."""
    density = optical_density(rgb, background).reshape(-1, 3)
    return density[density.mean(axis=1) > 0.065].mean(axis=0, dtype=np.float64)


STAINS = st.tuples(
    st.tuples(st.floats(0.55, 0.75), st.floats(0.62, 0.75), st.floats(0.2, 0.4)),
    st.tuples(st.floats(0.02, 0.2), st.floats(0.8, 0.99), st.floats(0.1, 0.5)),
    st.tuples(st.floats(0.6, 1.1), st.floats(0.4, 0.9)),
    st.tuples(*[st.integers(225, 255)] * 3),
    st.integers(0, 2**32 - 1),
)


@pytest.mark.parametrize(("fit", "within"), [(fit_macenko, 3.0), (fit_vahadane, 7.0)])
@settings(max_examples=25, deadline=None)
@given(case=STAINS)
def test_the_stains_of_a_mixture_are_found(fit, within, case):
    """Vahadane's penalty draws both colours towards each other: that is the method, and its tolerance."""
    first, second, strong, background, seed = case
    truth = stain_vectors(("haematoxylin", "eosin"), first, second, background=background)
    found = fit(mixed(truth, strong, seed), None, H_E.on(background))
    assert isinstance(found, Dyes), found.reason
    assert degrees(found.vectors.rows[0], truth.rows[0]) < within
    assert degrees(found.vectors.rows[1], truth.rows[1]) < within
    assert found.vectors.background == background
    assert found.strong == pytest.approx(strong, rel=0.04 if fit is fit_macenko else 0.25)


@pytest.mark.parametrize(("fit", "within"), [(fit_macenko, 4.0), (fit_vahadane, 8.0)])
@settings(max_examples=15, deadline=None)
@given(case=STAINS, other=STAINS)
def test_tissue_in_other_dyes_becomes_the_same_tissue(fit, within, case, other):
    """The same amounts painted twice: after normalisation they are one picture, to a few of 255 levels."""
    fields = []
    for first, second, strong, background, _ in (case, other):
        vectors = stain_vectors(("haematoxylin", "eosin"), first, second, background=background)
        fields.append((mixed(vectors, strong, case[4]), H_E.on(background)))
    (source, on_source), (target, on_target) = fields
    normaliser = fit(source, None, on_source).towards(fit(target, None, on_target))
    if normaliser.reason:  # stains so different in strength that they are refused
        assert "too little" in normaliser.reason
        return
    before = np.abs(source.astype(float) - target).mean()
    after = np.abs(normaliser.transform(source).astype(float) - target).mean()
    assert after < within
    assert after < before or before < within


@settings(max_examples=25, deadline=None)
@given(case=STAINS, other=STAINS)
def test_lab_statistics_become_exactly_the_targets(case, other):
    fits, fields = [], []
    for first, second, strong, background, seed in (case, other):
        vectors = stain_vectors(("haematoxylin", "eosin"), first, second, background=background)
        fields.append(mixed(vectors, strong, seed))
        fits.append(fit_reinhard(fields[-1], None, H_E.on(background)))
    source, target = fits
    transfer = source.towards(target)
    assert isinstance(transfer, LabTransfer), transfer.reason
    chosen = optical_density(fields[0], case[3]).mean(axis=-1) >= 0.15 / math.log(10)
    moved = transfer.moved(to_lab(fields[0]))[chosen].astype(np.float64)
    np.testing.assert_allclose(moved.mean(axis=0), target.mean, atol=1e-3)
    np.testing.assert_allclose(moved.std(axis=0), target.std, atol=1e-3)


def test_the_formula_of_the_transfer_is_that_of_the_amounts():
    """One pixel by hand: amounts by unmixing, times the ratio of strengths, in the target's colours."""
    source = replace(H_E_REFERENCE, vectors=H_E, strong=(1.0, 0.5))
    rgb = np.array([[[120, 80, 160]]], np.uint8)
    amounts = -np.log10(rgb[0, 0] / 255) @ H_E.inverse[:, :2] * np.array(H_E_REFERENCE.strong) / (1.0, 0.5)
    expected = 240 * 10 ** -(amounts @ np.asarray(H_E_REFERENCE.vectors.rows[:2]))
    transfer = source.towards()
    assert np.abs(transfer.transform(rgb)[0, 0] - expected).max() <= 0.5 + 1e-3


def test_the_published_reference_is_in_log10():
    assert H_E_REFERENCE.strong == pytest.approx((0.8558, 0.4477), abs=1e-4)


GLASSES = {
    "white": np.full((200, 200, 3), 255, np.uint8),
    "grey": np.full((200, 200, 3), 128, np.uint8),
    "black": np.zeros((200, 200, 3), np.uint8),
    "noise": np.random.default_rng(0).normal(243, 2, (200, 200, 3)).clip(0, 255).astype(np.uint8),
    "one colour": np.full((200, 200, 3), (150, 90, 160), np.uint8),
    "green": np.random.default_rng(0).integers(0, 40, (200, 200, 3), np.uint8) + np.uint8([0, 180, 0]),
    "nothing": np.zeros((0, 0, 3), np.uint8),
    "small": mixed(H_E)[:40, :40],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shown", sorted(set(GLASSES) - {"green"}))
def test_what_holds_no_two_stains_comes_back_unchanged_with_the_reason(method, shown):
    rgb = GLASSES[shown]
    found = METHODS[method](rgb)
    assert isinstance(found, Unfitted)
    assert found.reason
    assert found.towards().transform(rgb) is rgb
    assert found.towards(H_E_REFERENCE).reason == found.reason


@pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane])
def test_one_dye_is_not_torn_into_two(fit):
    amount = np.random.default_rng(0).uniform(0.2, 0.9, (200, 200, 1))
    rgb = light((amount * np.asarray(H_E.rows[0])).astype(np.float32))
    found = fit(rgb)
    assert isinstance(found, Unfitted)
    assert "one colour" in found.reason or "hardly any eosin" in found.reason


@pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane])
def test_green_is_no_stain(fit):
    assert isinstance(fit(GLASSES["green"]), Unfitted)


@pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), low=st.integers(0, 200))
def test_noise_never_fails(fit, seed, low):
    rgb = np.random.default_rng(seed).integers(low, 256, (120, 120, 3), np.uint8)
    result = fit(rgb).towards().transform(rgb)
    assert result.shape == rgb.shape
    assert result.dtype == np.uint8


def test_a_target_that_was_not_fitted_leaves_pixels_and_says_so():
    rgb = mixed(H_E)
    for method in METHODS.values():
        normaliser = method(rgb).towards(Unfitted("it is blank"))
        assert normaliser.reason is not None
        assert "target was not fitted: it is blank" in normaliser.reason
        assert normaliser.transform(rgb) is rgb


def test_a_stain_that_is_hardly_there_is_not_stretched_to_noise():
    found = fit_macenko(mixed(H_E))
    assert isinstance(found, Dyes)
    weak = replace(found, strong=(found.strong[0], H_E_REFERENCE.strong[1] / 7))
    reason = weak.towards().reason
    assert reason is not None
    assert "too little eosin" in reason


def test_a_target_of_another_method_is_refused():
    rgb = mixed(H_E)
    with pytest.raises(RequestError, match="the same way"):
        fit_macenko(rgb).towards(LAB_REFERENCE)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="the same way"):
        fit_reinhard(rgb).towards(H_E_REFERENCE)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_each_of_its_tiles_and_a_crop_the_crop(method):
    source, target = mixed(H_E.on(GLASS)), mixed(H_E_REFERENCE.vectors, (0.8, 0.4), 1)
    normaliser = METHODS[method](source, None, H_E.on(GLASS)).towards(METHODS[method](target))
    assert normaliser.reason is None
    whole = normaliser.transform(source)
    assert not np.array_equal(whole, source)
    tiles = source.reshape(2, 80, SIDE, 3)
    np.testing.assert_array_equal(normaliser.transform(tiles), whole.reshape(tiles.shape))
    np.testing.assert_array_equal(normaliser.transform(source[33:90, 7:121]), whole[33:90, 7:121])


@pytest.mark.parametrize("method", METHODS)
def test_only_pixels_of_the_mask_are_learnt_from(method):
    one, other = mixed(H_E, seed=1), mixed(H_E_REFERENCE.vectors, (0.5, 0.3), 2)
    both, mask = np.stack([one, other]), np.zeros((2, SIDE, SIDE), bool)
    mask[0] = True
    assert METHODS[method](both, mask) == METHODS[method](one)
    assert METHODS[method](both, mask) != METHODS[method](both)
    with pytest.raises(RequestError, match="does not fit"):
        METHODS[method](both, mask[0])
    with pytest.raises(RequestError, match="no RGB"):
        METHODS[method](both.astype(float))


def test_glass_stays_glass():
    """Reinhard's transfer of the whole picture would tint it; the dyes take it to the target's glass."""
    source, target = mixed(H_E.on(GLASS)), mixed(H_E_REFERENCE.vectors, (0.8, 0.4), 1)
    glass = np.full((4, 4, 3), GLASS, np.uint8)
    lab = fit_reinhard(source, None, H_E.on(GLASS)).towards(fit_reinhard(target))
    np.testing.assert_array_equal(lab.transform(glass), glass)
    there = fit_macenko(target, None, H_E.on((240, 240, 240)))
    dyes = fit_macenko(source, None, H_E.on(GLASS)).towards(there)
    np.testing.assert_array_equal(dyes.transform(glass), np.full_like(glass, 240))


def test_lab_is_there_and_back():
    rgb = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    np.testing.assert_allclose(from_lab(to_lab(rgb)), rgb, atol=1)
    np.testing.assert_allclose(to_lab(np.full((1, 1, 3), 255, np.uint8))[0, 0], (100, 0, 0), atol=0.02)


FIELDS = ("histology_1", "histology_3", "histology_4", "torchstain_source")
# Its magenta has no green left: the darkest pixels are not counted before, and are after.
SATURATED = {"histology_4": 0.75}


def torchstain_stains(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Macenko's two stains, (2, 3), as torchstain's numpy backend finds them, written from its formulas."""
    plane = np.linalg.eigh(np.cov(density.T))[1][:, 1:]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    angle = np.arctan2(*(density @ plane).T[::-1])
    ends = [plane @ (math.cos(a), math.sin(a)) for a in np.percentile(angle, [1, 99])]
    return np.array(ends if ends[0][0] > ends[1][0] else ends[::-1])


@pytest.mark.parametrize("field", [*FIELDS, "torchstain_target", "tiatoolbox_target_image"])
def test_of_the_same_pixels_macenko_finds_the_stains_torchstain_finds(shared, field):
    """Known difference: torchstain leaves out a pixel when any channel is paler than 0.15, and with it most
    of the eosin, which hardly absorbs blue; here the mean of the channels counts."""
    rgb = picture(shared / "stain" / f"{field}.png")
    density = stained_density(chosen_pixels(rgb, None))
    found, expected = fit_macenko(rgb), np.maximum(torchstain_stains(density), 0)
    assert isinstance(found, Dyes), found.reason
    for row, other in zip(found.vectors.rows, expected, strict=False):
        assert degrees(row, other / np.linalg.norm(other)) < 0.1


@pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane])
@pytest.mark.parametrize("field", FIELDS)
def test_real_fields_take_on_the_dyes_of_the_target(shared, fit, field):
    """Fitted again after normalisation to TIAToolbox's target, the dyes are the target's; and the mean hue of
    what is stained has come nearer. (How much is stained differs: the fields show different tissue.)"""
    source = picture(shared / "stain" / f"{field}.png")
    target = picture(shared / "stain/tiatoolbox_target_image.png")
    wanted = fit(target)
    moved = fit(source).towards(wanted).transform(source)
    found = fit(moved)
    assert isinstance(found, Dyes), found.reason
    assert degrees(found.vectors.rows[0], wanted.vectors.rows[0]) < 6
    assert degrees(found.vectors.rows[1], wanted.vectors.rows[1]) < 6
    assert found.strong == pytest.approx(wanted.strong, rel=SATURATED.get(field, 0.25))
    goal = stained_mean(target)
    before, after = (degrees_between(stained_mean(rgb), goal) for rgb in (source, moved))
    assert after < max(0.6 * before, 5)


@pytest.mark.parametrize("field", FIELDS)
def test_real_fields_take_on_the_mean_colour_of_the_target(shared, field):
    """Reinhard: after rounding and what sRGB cannot show, within 3 of L, a and b."""
    source = picture(shared / "stain" / f"{field}.png")
    wanted = fit_reinhard(picture(shared / "stain/tiatoolbox_target_image.png"))
    moved = fit_reinhard(source).towards(wanted).transform(source)
    stained = optical_density(source).mean(axis=-1) >= 0.15 / math.log(10)
    lab = to_lab(moved)[stained]
    np.testing.assert_allclose(lab.mean(axis=0), wanted.mean, atol=3)
    np.testing.assert_allclose(lab.std(axis=0), wanted.std, atol=3)


@pytest.mark.parametrize("method", METHODS)
def test_normalising_to_itself_changes_little(shared, method):
    rgb = picture(shared / "stain/tiatoolbox_target_image.png")[:300, :300]
    found = METHODS[method](rgb)
    off = np.abs(found.towards(found).transform(rgb).astype(float) - rgb).mean()
    assert off < (0.5 if method == "reinhard" else 6), "the dyes leave out what is neither of them"


@pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane])
def test_a_real_picture_in_one_dye_is_refused(shared, fit):
    """Purple nuclei on purple ground: torn apart by their shades, the nuclei would turn pale."""
    rgb = picture(shared / "nuclei/bbbc038/histology-colour/0bf33d3db428.png")
    assert fit(rgb).towards().reason is not None


def test_a_slide_is_fitted_from_a_few_tiles_the_same_each_time(tmp_path):
    truth = stain_vectors(("haematoxylin", "eosin"), (0.6, 0.7, 0.38), (0.15, 0.9, 0.4), background=GLASS)
    rgb = np.full((1536, 1536, 3), GLASS, np.uint8)
    rgb[256:1280, 256:1280] = np.tile(mixed(truth), (7, 7, 1))[:1024, :1024]
    slide = open_slide(write_tiff(tmp_path / "a.tif", rgb, 1.0, compression="deflate"))
    tissue = find_tissue(slide)
    assert glass_colour(slide, tissue) == GLASS
    found = fit_stain(slide, tissue)
    assert isinstance(found, Dyes), found.reason
    assert found == fit_stain(slide, tissue)
    assert degrees(found.vectors.rows[0], truth.rows[0]) < 3
    assert degrees(found.vectors.rows[1], truth.rows[1]) < 3
    assert found.vectors.background == GLASS
    assert isinstance(fit_stain(slide, tissue, "reinhard"), LabStatistics)
    few = fit_stain(slide, tissue, sample=StainSample(tiles=1, size=64))
    assert few.reason is not None
    assert "pixels are stained enough" in few.reason
    with pytest.raises(RequestError, match="macenko, vahadane, reinhard"):
        fit_stain(slide, tissue, "khan")  # type: ignore[arg-type]


def test_blank_glass_is_not_fitted_and_no_error(tmp_path):
    glass = np.random.default_rng(0).normal(243, 1.5, (512, 512, 3)).clip(0, 255).astype(np.uint8)
    slide = open_slide(write_tiff(tmp_path / "blank.tif", glass, 0.5))
    found = fit_stain(slide, find_tissue(slide))
    assert found == Unfitted("no tile holds enough tissue")


@pytest.mark.parametrize("wrong", [{"tiles": 0}, {"size": 0}, {"mpp": 0}, {"min_tissue": 2}])
def test_a_sample_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(RequestError):
        StainSample(**wrong)


def test_a_real_slide_is_fitted_in_seconds(shared):
    slide = open_slide(shared / "wsi/aperio-svs/CMU-1-Small-Region.svs")
    tissue = find_tissue(slide)
    for method in ("macenko", "vahadane", "reinhard"):
        found = fit_stain(slide, tissue, method)
        assert found.reason is None
        assert found.towards().reason is None
