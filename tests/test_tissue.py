"""Tissue against glass, marker and dust: on pictures made here, then on real ones of every stain."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coverslip.errors import NotBrightfieldError, RequestError
from coverslip.tiling.brightfield import is_brightfield
from coverslip.tiling.glass import estimate_glass
from coverslip.tiling.regions import close, dilate, drop_small, fill_small
from coverslip.tiling.tissue import Detection, TissueSettings, detect_tissue, find_tissue
from coverslip.wsi.slide import open_slide

GLASS = ((240, 240, 240), (255, 255, 255), (252, 225, 195), (215, 225, 228), (190, 205, 212))


def detect(rgb: np.ndarray, mpp: float, valid: np.ndarray | None = None) -> Detection:
    valid = np.ones(rgb.shape[:2], bool) if valid is None else valid
    return detect_tissue(rgb, valid, mpp, TissueSettings())


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def glass(colour: tuple[int, int, int], grain: float, fade: float, side: int = 400) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    lit = np.array(colour) * (1 - fade * (x * x + y * y) / 2)[..., None]
    noisy = lit + np.random.default_rng(7).normal(0, grain, (side, side, 3))
    return np.clip(noisy.round(), 0, 255).astype(np.uint8)


# ---- blank glass


@given(
    st.sampled_from(GLASS),
    st.sampled_from([0.0, 1.0, 4.0, 8.0]),
    st.sampled_from([0.0, 0.1, 0.2]),
    st.sampled_from([0.1, 0.5, 2.0, 8.0]),
)
@settings(max_examples=40, deadline=None)
def test_blank_glass_holds_no_tissue_whatever_its_tint_grain_and_vignetting(colour, grain, fade, mpp):
    assert not detect(glass(colour, grain, fade), mpp).mask.any()


def test_jpeg_grain_of_blank_glass_is_no_tissue():
    coded = cv2.imencode(".jpg", glass((240, 240, 240), 6, 0.1), [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    assert not detect(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)), 8.0).mask.any()


def test_dust_alone_is_no_tissue_and_beside_tissue_it_stays_small():
    rgb = glass((240, 240, 240), 1, 0)
    rgb[50:53, 60:62] = rgb[300:302, 200:203] = 120
    assert not detect(rgb, 0.5).mask.any()
    rgb[100:200, 100:200] = (200, 120, 170)
    assert 10_000 <= detect(rgb, 0.5).mask.sum() < 11_000


def test_pixels_the_file_does_not_hold_are_neither_tissue_nor_glass():
    rgb = glass((240, 240, 240), 1, 0)
    rgb[100:200, 100:200] = (200, 120, 170)
    valid = np.ones(rgb.shape[:2], bool)
    valid[:, 150:] = False
    rgb[:, 250:] = 0
    found = detect(rgb, 8.0, valid)
    assert not found.mask[:, 150:].any()
    assert found.mask[105:195, 105:145].all()
    assert found.glass.rgb == pytest.approx((240, 240, 240), abs=2)


def test_nothing_valid_gives_an_empty_mask():
    rgb = np.zeros((20, 30, 3), np.uint8)
    assert not detect(rgb, 8.0, np.zeros((20, 30), bool)).mask.any()


# ---- colours made here


@pytest.mark.parametrize("colour", [(222, 232, 228), (214, 204, 218), (236, 222, 232), (205, 190, 170)])
def test_pale_stain_is_tissue(colour):
    rgb = glass((242, 242, 242), 2, 0)
    rgb[100:300, 100:300] = colour
    found = detect(rgb, 8.0).mask
    assert found[105:295, 105:295].mean() > 0.95
    assert found[:90].sum() == 0


@pytest.mark.parametrize("mpp", [0.25, 1.0, 8.0])
def test_a_picture_all_of_tissue_is_all_tissue(mpp):
    rgb = np.clip(np.array((213, 160, 190)) + np.random.default_rng(1).normal(0, 12, (300, 300, 3)), 0, 255)
    found = detect(rgb.astype(np.uint8), mpp)
    assert found.mask.mean() > 0.97
    assert not found.glass.found


@pytest.mark.parametrize("fill", [255, 0])
def test_white_that_a_program_filled_in_does_not_pass_for_the_glass(fill):
    rgb = glass((228, 228, 226), 1, 0)
    rgb[:, 200:] = fill
    rgb[50:100, 50:100] = (190, 110, 160)
    found = detect(rgb, 8.0)
    assert found.glass.rgb == pytest.approx((228, 228, 226), abs=2)
    assert found.mask[:, :195].sum() == pytest.approx(2500, rel=0.1)


@pytest.mark.parametrize(
    "ink", [(40, 60, 170), (45, 160, 140), (210, 25, 35), (35, 35, 38)], ids=["blue", "green", "red", "black"]
)
def test_a_marker_stroke_is_pen_and_not_tissue(ink):
    rgb = glass((240, 240, 240), 1, 0)
    rgb[40:160, 40:360] = (205, 140, 180)
    stroke = np.zeros(rgb.shape[:2], np.uint8)
    cv2.line(stroke, (60, 300), (340, 260), 1, 50)
    soft = cv2.GaussianBlur(stroke.astype(np.float32), (0, 0), 3)[..., None]
    rgb = (rgb * (1 - soft) + np.array(ink) * soft).astype(np.uint8)
    found = detect(rgb, 8.0)
    assert found.pen[stroke.astype(bool)].mean() > 0.95
    assert found.mask[stroke.astype(bool)].mean() < 0.02
    assert found.mask[50:150, 50:350].mean() > 0.99
    assert not (found.mask & found.pen).any()


@pytest.mark.parametrize(
    "stain",
    [(110, 65, 35), (100, 120, 170), (225, 130, 170), (80, 40, 150), (150, 185, 190), (230, 150, 80)],
    ids=["DAB", "haematoxylin", "eosin", "MGG", "Pap blue-green", "Pap orange"],
)
def test_no_stain_is_taken_for_pen(stain):
    rgb = glass((240, 240, 240), 1, 0)
    rgb[100:300, 100:300] = stain
    found = detect(rgb, 8.0)
    assert not found.pen.any()
    assert found.mask[105:295, 105:295].all()


def test_pen_may_be_kept():
    rgb = glass((240, 240, 240), 1, 0)
    rgb[100:300, 100:300] = (45, 160, 140)
    found = detect_tissue(rgb, np.ones(rgb.shape[:2], bool), 8.0, TissueSettings(pen=None))
    assert not found.pen.any()
    assert found.mask[105:295, 105:295].all()


@pytest.mark.parametrize("wrong", [{"mpp": 0.0}, {"floor_density": -1.0}, {"ceiling_density": 0.01}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(RequestError):
        TissueSettings(**wrong)


# ---- shapes


@given(st.integers(0, 2**31), st.floats(1, 6))
@settings(max_examples=30, deadline=None)
def test_closing_only_adds_and_is_the_same_again(seed, radius):
    mask = np.random.default_rng(seed).random((40, 50)) > 0.8
    closed = close(mask, radius)
    assert not (mask & ~closed).any()
    assert np.array_equal(close(closed, radius), closed)


def test_dilation_is_a_disc():
    mask = np.zeros((21, 21), bool)
    mask[10, 10] = True
    y, x = np.mgrid[-10:11, -10:11]
    assert np.array_equal(dilate(mask, 5.0), x * x + y * y <= 25)


def test_small_parts_go_and_small_holes_fill_but_not_at_the_edge():
    mask = np.zeros((30, 30), bool)
    mask[5:20, 5:20], mask[8:10, 8:10], mask[25, 25] = True, False, True
    mask[0:5, 10], mask[0, 10] = True, False
    assert not drop_small(mask, 2)[25, 25]
    filled = fill_small(mask, 10)
    assert filled[8:10, 8:10].all()
    assert not filled[0, 10]


# ---- real pictures: coverage


@pytest.mark.parametrize("name", ["almost-white-1", "no-tissue"])
def test_blank_tiles_are_empty(shared, name):
    assert not detect(read(shared / f"qc/tiles/{name}.png"), 0.5).mask.any()


@pytest.mark.parametrize(("name", "most"), [("almost-white-2", 0.06), ("no-tissue2", 0.03)])
def test_nearly_blank_tiles_are_nearly_empty(shared, name, most):
    assert detect(read(shared / f"qc/tiles/{name}.png"), 0.5).mask.mean() < most


@pytest.mark.parametrize(
    ("name", "mpp", "least", "most"),
    [
        ("tissue-level0-4302-10273-4814-10785", 0.5, 0.6, 0.9),
        ("tissue-level0-7352-11762-7864-12274", 0.5, 0.8, 0.93),
        ("tissue-level2-3000-7666-7096-11763", 4.0, 0.6, 0.85),
        ("medium-nuclei-score-level1", 2.0, 0.55, 0.8),
        ("low-nuclei-score-level0", 0.5, 0.2, 0.5),
        ("very-low-nuclei-score-level0", 0.5, 0.99, 1.0),
    ],
)
def test_tissue_tiles_hold_the_share_seen_by_eye(shared, name, mpp, least, most):
    found = detect(read(shared / f"qc/tiles/{name}.png"), mpp)
    assert least <= found.mask.mean() <= most
    assert not found.pen.any()


@pytest.mark.parametrize(("name", "pen"), [("green", 0.7), ("red", 0.6)])
def test_tiles_of_marker_hold_little_but_marker(shared, name, pen):
    found = detect(read(shared / f"qc/tiles/no-tissue-{name}-pen.png"), 2.0)
    assert found.pen.mean() > pen
    assert found.mask.mean() < 0.15


def test_a_slide_drawn_over_with_three_markers_keeps_its_tissue(shared):
    rgb = read(shared / "qc/diagnostic-slide-thumb-rgb.png")
    found = detect(rgb, 40.0)
    hue, saturation, value = (np.asarray(v, int) for v in cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)))
    green = (hue > 70) & (hue < 100) & (saturation > 110)
    red = ((hue < 6) | (hue > 174)) & (saturation > 190)
    lilac = (hue > 135) & (hue < 165) & (saturation > 25) & (saturation < 80) & (value > 150)
    assert found.pen[green].mean() > 0.9
    assert found.pen[red].mean() > 0.9
    assert found.pen[rgb.max(axis=2) < 60].mean() > 0.9
    assert found.mask[lilac].mean() > 0.95
    assert found.pen[lilac].mean() < 0.03


def test_every_annotated_pap_cell_lies_in_the_mask(shared):
    folder = shared / "cytology/cric-fields-with-cells"
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    for mpp in (0.12, 0.25, 0.5):
        masks = {name: detect(read(folder / name), mpp).mask for name in {row["file"] for row in rows}}
        inside = [masks[row["file"]][round(float(row["y"])), round(float(row["x"]))] for row in rows]
        assert np.mean(inside) == 1.0
        assert all(0.15 < mask.mean() < 0.5 for mask in masks.values())


def boxes(path: Path) -> list[tuple[str, slice, slice]]:
    found = []
    for item in ElementTree.parse(path).iter("object"):  # noqa: S314 (a file of our own test data)
        left, top, right, bottom = (
            int(item.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        found.append((item.findtext("name") or "", slice(top, bottom), slice(left, right)))
    return found


def test_blood_cells_are_in_the_mask_and_glass_is_not(shared):
    covered, white, shares = [], [], []
    for path in sorted((shared / "blood/bccd/JPEGImages").glob("*.jpg"))[::4]:
        mask = detect(read(path), 0.08).mask
        shares.append(mask.mean())
        for name, down, across in boxes(shared / f"blood/bccd/Annotations/{path.stem}.xml"):
            share = mask[down, across].mean()
            if name == "RBC":
                covered.append(share > 0.5)
            elif name == "WBC":
                white.append(share)
    assert np.mean(covered) > 0.92
    assert np.mean(np.array(white) > 0.6) > 0.95
    assert 0.3 < np.mean(shares) < 0.7


def test_single_blood_cells_are_in_the_mask_on_tinted_glass(shared):
    found = []
    for path in sorted((shared / "blood/pbc-normal").glob("*/*.jpg"))[::12]:
        mask = detect(read(path), 0.1).mask
        y, x = mask.shape[0] // 2, mask.shape[1] // 2
        found.append((mask[y - 20 : y + 20, x - 20 : x + 20].mean() > 0.5, mask.mean()))
    assert all(centre for centre, _ in found)
    assert max(share for _, share in found) < 0.97


@pytest.mark.parametrize(
    ("kind", "mpp", "least", "most"),
    [("histology-colour", 0.25, 0.98, 0.8), ("cervical-gray", 0.5, 0.999, 0.4)],
)
def test_annotated_nuclei_are_in_the_mask(shared, kind, mpp, least, most):
    inside, shares = [], []
    for path in sorted((shared / f"nuclei/bbbc038/{kind}").glob("*_label.png"))[::4]:
        mask = detect(read(path.with_name(path.name.replace("_label", ""))), mpp).mask
        inside.append(mask[np.asarray(Image.open(path)) > 0].mean())
        shares.append(mask.mean())
    assert np.mean(inside) > least
    assert np.mean(shares) < most


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("TUM", 0.9, 1.0), ("STR", 0.9, 1.0), ("LYM", 0.8, 1.0), ("MUC", 0.85, 1.0), ("ADI", 0.05, 0.6)],
)
def test_colorectal_tiles_are_tissue_and_fat_is_mostly_not(shared, kind, least, most):
    folder = shared / "histology-tiles/crc-val-he-7k-mini" / kind
    found = [detect(read(path), 0.5) for path in sorted(folder.iterdir())]
    assert least <= np.mean([one.mask.mean() for one in found]) <= most
    assert not any(one.pen.any() for one in found)


@pytest.mark.parametrize("kind", ["NILM", "LSIL", "HSIL", "SCC"])
def test_cytology_fields_hold_cells_and_glass_and_no_pen(shared, kind):
    for path in sorted((shared / "cytology/mendeley-lbc-fields" / kind).glob("*.jpg"))[::5]:
        found = detect(read(path), 0.5)
        assert 0.08 < found.mask.mean() < 0.8
        assert not found.pen.any()


def test_nuclei_of_a_pale_ki67_slide_are_in_the_mask(shared):
    rgb = np.asarray(tifffile.imread(shared / "ihc/OS-2-ndpi_Ki67.ome.tif"))[::2, ::2]
    found = detect(rgb, 0.4542)
    stained = cv2.GaussianBlur(rgb, (0, 0), 2).min(axis=2) < 150
    assert found.mask[stained].mean() > 0.98
    assert 0.4 < found.mask.mean() < 0.85
    assert not found.pen.any()


# ---- whole slides


def test_the_mask_of_a_real_slide_lies_in_its_frame(shared):
    with open_slide(shared / "wsi/aperio-svs/CMU-1-Small-Region.svs") as slide:
        found = find_tissue(slide)
        assert max(found.mask.shape) >= 1024
        assert found.scale_x * found.mask.shape[1] == pytest.approx(slide.size.width, abs=found.scale_x)
        assert found.mpp.x == pytest.approx(slide.mpp.x * found.scale_x)
        assert 0.3 < found.fraction < 0.8
        assert found.area_mm2 == pytest.approx(found.fraction * 2220 * 2967 * 0.499**2 / 1e6, rel=0.01)
        assert found.damaged_fraction == 0
        assert all(
            box.right <= slide.size.width + 8 and box.bottom <= slide.size.height + 8 for box in found.boxes
        )


def test_a_blank_slide_gives_an_empty_mask(shared):
    with open_slide(shared / "malformed/derived/all_white.tif", mpp=0.5) as slide:
        found = find_tissue(slide)
    assert found.is_empty
    assert found.area_mm2 == 0
    assert found.boxes == ()


def test_fluorescence_slides_are_refused(shared):
    with (
        open_slide(shared / "wsi/hamamatsu-ndpi/test3-DAPI-2-(387).ndpi") as slide,
        pytest.raises(NotBrightfieldError, match="fluorescence"),
    ):
        find_tissue(slide)


def test_pictures_on_a_dark_ground_are_told_from_stained_ones(shared):
    def verdicts(paths):
        return {bool(is_brightfield(rgb, np.ones(rgb.shape[:2], bool))) for rgb in map(read, paths)}

    fluorescent = [
        p for p in (shared / "nuclei/bbbc038/fluorescence").glob("*.png") if "_label" not in p.name
    ]
    assert len(fluorescent) == 12
    assert verdicts(fluorescent) == {False}
    folders = ["qc", "ihc", "cytology", "blood", "histology-tiles", "nuclei/bbbc038/histology-colour"]
    stained = [
        path
        for folder in folders
        for path in sorted((shared / folder).rglob("*"))
        if path.suffix in {".png", ".jpg", ".jpeg"} and not path.stem.endswith(("_label", "_gt"))
    ]
    dark = [path for path in stained if "HSIL" in path.parts or "qc" in path.parts or "ihc" in path.parts]
    assert verdicts(dark + stained[::10]) == {True}


def test_the_dapi_slide_is_dark_even_were_it_not_declared(shared):
    with open_slide(shared / "wsi/hamamatsu-ndpi/test3-DAPI-2-(387).ndpi") as slide:
        rgb = slide.thumbnail(512)
    assert not is_brightfield(rgb, np.ones(rgb.shape[:2], bool))


def test_glass_of_a_vignetted_photograph_is_followed_and_not_its_cells(shared):
    rgb = read(shared / "cytology/mendeley-lbc-fields/NILM/NL_14_-3.jpg")
    found = estimate_glass(rgb, np.ones(rgb.shape[:2], bool))
    assert found.rgb == pytest.approx((139, 155, 168), abs=6)
    assert found.fade is not None
    assert np.abs(found.fade.rows(rgb.shape[:2], 0, len(rgb))).max() <= 0.12
