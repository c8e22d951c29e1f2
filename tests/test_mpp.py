"""Which µm/px holds: what is given, else what the file says if it can be true; never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slides import tissue, write_svs, write_tiff

from coverslip.errors import SlideInformationError
from coverslip.wsi import Mpp, open_slide
from coverslip.wsi.mpp import PLAUSIBLE_UM, parse_mpp, resolve_mpp

plausible = st.floats(*PLAUSIBLE_UM)


@given(plausible, plausible)
def test_what_is_given_wins_over_the_file(declared, given_um):
    given_mpp = parse_mpp(given_um, "given")
    assert resolve_mpp("a.svs", Mpp(declared, declared, "tiff"), given_mpp) == given_mpp


@given(plausible, plausible)
def test_what_the_file_says_is_taken_as_it_is(x, y):
    assert resolve_mpp("a.svs", Mpp(x, y, "tiff"), None) == Mpp(x, y, "tiff")


@given(st.floats(1e-6, 1e6).filter(lambda um: not PLAUSIBLE_UM[0] <= um <= PLAUSIBLE_UM[1]), st.booleans())
def test_the_implausible_is_refused_whoever_says_it(um, from_user):
    mpp = Mpp(um, 0.5, "somewhere")
    with pytest.raises(SlideInformationError, match=r"somewhere.*implausible"):
        resolve_mpp("a.svs", None if from_user else mpp, mpp if from_user else None)


def test_a_missing_resolution_names_the_three_ways_to_give_it():
    with pytest.raises(SlideInformationError) as caught:
        resolve_mpp("a.svs", None, None)
    for way in ("--slide-mpp", "--slides", "open_slide(path, mpp=X)"):
        assert way in caught.value.remedy


@pytest.mark.parametrize("value", [0.3, (0.3, 0.3), Mpp(0.3, 0.3, "a list")])
def test_it_can_be_given_in_three_forms(tmp_path, value):
    path = write_tiff(tmp_path / "a.tiff", tissue(256, 256), None)
    with open_slide(path, mpp=value) as slide:
        assert (slide.mpp.x, slide.mpp.y) == (0.3, 0.3)
        assert slide.mpp.source == (value.source if isinstance(value, Mpp) else "given")


def test_a_slide_without_a_resolution_can_be_opened_and_looked_at(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(256, 256), None)
    with open_slide(path) as slide:
        assert slide.thumbnail(64).shape == (64, 64, 3)
        with pytest.raises(SlideInformationError):
            _ = slide.mpp


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_the_resolution_has_its_source(tmp_path, reader):
    svs = write_svs(tmp_path / "a.svs", tissue(512, 512), 0.2271, 40)
    tiff = write_tiff(tmp_path / "a.tiff", tissue(256, 256), (0.5, 0.25))
    with open_slide(svs, reader=reader) as slide:
        assert (slide.mpp, slide.facts.objective) == (Mpp(0.2271, 0.2271, "aperio.MPP"), 40)
    with open_slide(tiff, reader=reader) as slide:
        assert (slide.mpp.x, slide.mpp.y) == (pytest.approx(0.5), pytest.approx(0.25))
        assert slide.mpp.source == "tiff.XResolution"
