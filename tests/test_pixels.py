"""Compositing over the background, and making pixels smaller."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coverslip.wsi import Box, Pixels, Raw, Size
from coverslip.wsi.pixels import blank, composite, place
from coverslip.wsi.resample import reduce, resample

colours = st.tuples(*[st.integers(0, 255)] * 3)
seeds = st.integers(0, 2**32 - 1)


def pixels_of(rgb: np.ndarray, valid: np.ndarray | None = None) -> Pixels:
    whole = np.ones(rgb.shape[:2], bool) if valid is None else valid
    return Pixels(rgb, whole, ~whole)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(seeds, colours)
def test_transparency_is_blended_with_pillows_rounding(seed, background):
    rgb = noise(seed, 16, 16)
    alpha = np.random.default_rng(seed).permutation(256).astype(np.uint8).reshape(16, 16)
    canvas = Image.new("RGB", (16, 16), background)
    canvas.paste(Image.fromarray(rgb), mask=Image.fromarray(alpha))
    pixels = composite(Raw(rgb, alpha), background, sparse_by_design=False)
    assert (pixels.rgb == np.asarray(canvas)).all()
    assert (pixels.valid == (alpha >= 128)).all()


@given(colours, st.booleans())
def test_nothing_stored_is_all_background(background, sparse):
    raw = Raw(noise(1, 5, 7), np.zeros((5, 7), np.uint8))
    pixels = composite(raw, background, sparse_by_design=sparse)
    assert (pixels.rgb == background).all()
    assert not pixels.valid.any()
    assert pixels.damaged.all() == (not sparse)
    assert pixels.damaged.any() == (not sparse)


def test_what_was_never_scanned_is_no_damage_but_what_is_corrupt_is():
    alpha = np.array([[255, 0, 0]], np.uint8)
    corrupt = np.array([[False, False, True]])
    raw = Raw(np.zeros((1, 3, 3), np.uint8), alpha, corrupt)
    assert composite(raw, (9, 9, 9), sparse_by_design=True).damaged.tolist() == [[False, False, True]]
    assert composite(raw, (9, 9, 9), sparse_by_design=False).damaged.tolist() == [[False, True, True]]


def test_without_alpha_all_is_valid_and_untouched():
    rgb = noise(2, 4, 4)
    pixels = composite(Raw(rgb), (1, 2, 3), sparse_by_design=False)
    assert (pixels.rgb == rgb).all()
    assert pixels.valid.all()
    assert not pixels.damaged.any()


def test_pixels_are_placed_where_they_belong():
    box, at = Box(-2, 5, 10, 8), Box(0, 6, 3, 4)
    rgb = noise(3, 4, 3)
    whole = place(pixels_of(rgb), at, box, (7, 8, 9))
    assert (whole.rgb[1:5, 2:5] == rgb).all()
    assert whole.valid.sum() == 12
    assert (whole.rgb[~whole.valid] == (7, 8, 9)).all()
    assert not blank(box, (7, 8, 9)).damaged.any()


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_whole_factors_give_the_exact_area_mean(seed, across, down, width, height):
    rgb = noise(seed, height * down, width * across)
    mean = rgb.reshape(height, down, width, across, 3).mean(axis=(1, 3))
    small = reduce(pixels_of(rgb), Size(width, height)).rgb
    assert np.abs(small - mean).max() <= 0.5 + 1e-3


@given(seeds, st.integers(0, 5), st.integers(0, 5))
def test_whole_offsets_of_the_same_size_copy(seed, left, top):
    rgb = noise(seed, 20, 20)
    part = resample(pixels_of(rgb), (left, top, left + 10, top + 12), Size(10, 12))
    assert (part.rgb == rgb[top : top + 12, left : left + 10]).all()


@given(st.floats(0, 3.99), st.floats(0, 3.99), st.floats(0.5, 4), st.integers(4, 12))
def test_a_ramp_stays_where_it_is_at_any_offset_and_factor(left, top, factor, side):
    """A linear ramp is its own mean, so each pixel shows the position of its centre."""
    span = side * factor
    y, x = np.mgrid[0:64, 0:64]
    rgb = np.dstack([x * 4, y * 4, x * 0]).astype(np.uint8)
    window = (left, top, left + span, top + span)
    small = resample(pixels_of(rgb), window, Size(side, side)).rgb.astype(float) / 4
    centres = (np.arange(side) + 0.5) * factor - 0.5
    inner = slice(2, -2)
    assert np.abs(small[inner, inner, 0] - (left + centres)[inner]).max(initial=0) <= 0.5
    assert np.abs(small[inner, inner, 1] - (top + centres)[inner, None]).max(initial=0) <= 0.5


@pytest.mark.parametrize("factor", [2, 2.5])
def test_a_pixel_is_valid_when_most_of_it_is(factor):
    valid = np.zeros((20, 20), bool)
    valid[:, :10] = True
    rgb = np.zeros((20, 20, 3), np.uint8)
    small = resample(pixels_of(rgb, valid), (0, 0, 20, 20), Size(int(20 / factor), int(20 / factor)))
    half = int(10 / factor)
    assert small.valid[:, :half].all()
    assert not small.valid[:, half + 1 :].any()
    assert (small.damaged == ~small.valid)[:, [0, -1]].all()
