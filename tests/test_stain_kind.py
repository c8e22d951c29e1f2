"""Kinds of stain: named where only one looks so, excluded where clearly another, never for lack of DAB."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from slides import tissue

from coverslip.tiling.glass import estimate_glass, optical_density
from coverslip.tiling.stain import H_DAB, separate, stain_vectors
from coverslip.tiling.stain_kind import StainEvidence, look_at_stain, stain_evidence, stain_kind
from coverslip.tiling.stained_parts import StainedParts, all_parts, parts_of, solid_share, spanning_share
from coverslip.tiling.tissue import TissueSettings, detect_tissue
from coverslip.wsi.colour import HAEMATOXYLIN, light

Rgb = NDArray[np.uint8]
# Haematoxylin from well blued to reddish: Ruifrok's, Macenko's reference, and one of a scanner.
HAEMATOXYLINS = {"ruifrok": HAEMATOXYLIN, "macenko": (0.5626, 0.7201, 0.4062), "blued": (0.75, 0.62, 0.22)}

# What each picture is called, and what it is said not to be.
PICTURES = {
    "ihc/skimage_ihc_FHL2.png": ("IHC", {"H&E"}),
    "ihc/deepliif-restricted/22_2.png": ("IHC", {"H&E", "Papanicolaou", "Romanowsky"}),
    "ihc/deepliif-restricted/6_2.png": (None, {"H&E"}),
    "registration/Rat-Kidney_PanCytokeratin.jpg": ("IHC", {"H&E"}),
    "registration/Rat-Kidney_HE.jpg": ("H&E", {"IHC", "Papanicolaou"}),
    "qc/tcga-lung-rgb.png": ("H&E", {"IHC", "Papanicolaou"}),
    "qc/tiles/tissue-level0-7352-11762-7864-12274.png": ("H&E", {"IHC", "Papanicolaou"}),
    "stain/tiatoolbox_target_image.png": ("H&E", {"IHC", "Papanicolaou"}),
    "stain/histology_1.png": ("H&E", {"IHC", "Papanicolaou"}),
    # H&E with hardly any eosin, and in a violet that could be anything's: not named, but its faint tissue is
    # pinker than its nuclei, as with haematoxylin alone it is not.
    "stain/torchstain_target.png": (None, {"IHC"}),
    "stain/histology_4.png": (None, {"IHC"}),
}
# Fields of many slides: what they are, and which kinds may be excluded.
SETS = {
    "histology-tiles/crc-val-he-7k-mini/*/*": ("H&E", {"IHC", "Papanicolaou"}),
    "histology-tiles/lc25000-lung/*/*": (None, {"IHC"}),
    "cytology/comparisondetector-restricted/*/*.jpg": ("Papanicolaou", {"H&E"}),
    "cytology/cric-cervix-centred/*/*.jpg": (None, {"H&E"}),
    "cytology/mendeley-lbc-fields/*/*.jpg": (None, {"H&E"}),
    "blood/pbc-normal/*/*.jpg": (None, set()),
    "blood/bccd/JPEGImages/*": (None, set()),
}


def look(rgb: Rgb) -> StainEvidence:
    mask = detect_tissue(rgb, np.ones(rgb.shape[:2], bool), 1.0, TissueSettings()).mask
    return look_at_stain(rgb, mask)


def lying(solid: float, spanning: float = 0.0, cover: float = 0.5) -> StainedParts:
    return StainedParts(
        10_000, round(cover * 10_000), round(solid * cover * 1e4), round(spanning * cover * 1e4)
    )


def read(path: Path, side: int | None = None) -> Rgb:
    image = Image.open(path).convert("RGB")
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BOX)
    elif max(image.size) > 400:
        image.thumbnail((400, 400), Image.Resampling.BOX)
    return np.asarray(image, np.uint8)


@pytest.mark.parametrize("name", PICTURES)
def test_real_pictures_are_named_or_not_told(shared: Path, name: str) -> None:
    if not (shared / name).exists():
        pytest.skip(f"{name} is not here")
    found = look(read(shared / name))
    assert (found.kind, set(found.excluded)) == PICTURES[name]


@pytest.mark.parametrize("pattern", SETS)
def test_fields_of_many_slides_are_not_taken_for_another_kind(shared: Path, pattern: str) -> None:
    paths = [path for path in sorted(shared.glob(pattern)) if path.suffix in {".jpg", ".jpeg", ".png"}]
    if not paths:
        pytest.skip(f"{pattern} is not here")
    chosen = random.Random(0).sample(paths, min(16, len(paths)))
    kind, excluded = SETS[pattern]
    found = look(np.concatenate([read(path, 128) for path in chosen]))
    assert found.kind == kind
    assert set(found.excluded) <= excluded


@pytest.mark.parametrize("name", HAEMATOXYLINS)
def test_haematoxylin_alone_is_never_refused_as_ihc(name: str) -> None:
    """A negative IHC slide: nuclei of real tissue, in the blue to reddish violet that laboratories get."""
    amounts = np.maximum(separate(tissue(512, 512), H_DAB)[..., 0], 0)
    vector = np.asarray(stain_vectors(("haematoxylin", "none"), HAEMATOXYLINS[name], (0, 0, 1)).rows[0])
    found = look(light(amounts[..., None] * vector))
    assert found.pixels > 2_000
    assert "IHC" not in found.excluded


def test_weak_dab_over_haematoxylin_is_never_refused_as_ihc() -> None:
    stains = np.maximum(separate(tissue(512, 512), H_DAB), 0)
    for strength in (0.1, 0.3):
        amounts = np.stack([stains[..., 0], strength * stains[..., 1]], axis=-1)
        found = look(light(amounts @ np.asarray(H_DAB.rows[:2])))
        assert "IHC" not in found.excluded


@pytest.mark.parametrize("red", [0.75, 0.5626, 0.5, 0.45])
@pytest.mark.parametrize(
    ("gamma", "saturation", "stray"), [(0.7, 1.0, 0.06), (1.4, 1.8, 0.0), (1.0, 1.4, 0.02)]
)
def test_one_dye_is_never_taken_for_two(red: float, gamma: float, saturation: float, stray: float) -> None:
    """The faint tissue of a section in haematoxylin only is as pink as its nuclei, whatever the camera."""
    amounts = np.maximum(separate(tissue(512, 512), H_DAB)[..., 0], 0).reshape(-1, 1)
    passed = (1 - stray) * 10 ** -(amounts * np.array([red, 0.75, 0.35])) + stray
    grey = passed.mean(axis=1, keepdims=True)
    seen = np.clip(grey + saturation * (passed - grey), 1 / 255, 1) ** gamma
    found = stain_evidence(-np.log10(np.maximum(np.round(255 * seen), 1) / 255))
    assert found.pixels > 2_000
    assert found.faint_red > 0.87 * found.dense_red
    assert not found._faint_is_pinker


def test_the_negative_part_of_real_ihc_is_not_refused(shared: Path) -> None:
    """Without what is brown a slide is as one whose marker is negative; the panel has haematoxylin only."""
    strip = shared / "ihc/deepliif-restricted/Bladder1_6panel.png"
    if not strip.exists():
        pytest.skip(f"{strip} is not here")
    panels = np.asarray(Image.open(strip).convert("RGB"), np.uint8)
    field = read(shared / "ihc/deepliif-restricted/22_2.png")
    for rgb in (panels[::2, 0:512:2], panels[::2, 512:1024:2], field):
        density = optical_density(rgb).reshape(-1, 3)
        density = np.maximum(density - np.percentile(density, 1, axis=0), 0)
        found = stain_evidence(density[density[:, 2] < 0.97 * density[:, 1]])
        assert found.pixels > 2_000
        assert found.brown == 0
        assert "IHC" not in found.excluded


@pytest.mark.parametrize("name", ["lung_n", "lung_aca"])
def test_h_and_e_with_little_eosin_is_not_ihc(shared: Path, name: str) -> None:
    paths = sorted((shared / "histology-tiles/lc25000-lung" / name).glob("*.jp*"))[::5]
    if not paths:
        pytest.skip("the lung tiles are not here")
    found = look(np.concatenate([read(path, 128) for path in paths]))
    assert found.eosin < 0.3
    assert "pinker" in found.excluded["IHC"]


def test_a_smear_is_told_by_yellower_red_cells_apart_on_glass(shared: Path) -> None:
    paths = sorted(shared.glob("blood/bccd/JPEGImages/*.jpg"))[::6]
    if not paths:
        pytest.skip("blood/bccd is not here")
    # 0.075 µm/px as stored: at 0.5 µm/px colours and outlines are those that slides are looked at with.
    small = [
        np.asarray(Image.open(path).convert("RGB").resize((96, 72), Image.Resampling.BOX)) for path in paths
    ]
    rgb = np.concatenate(small)
    density = optical_density(rgb) - np.percentile(optical_density(rgb), 5, axis=(0, 1))
    solid = solid_share(density.max(axis=2) >= 0.07, 0.5)
    assert solid < 0.05
    flat = density.reshape(-1, 3)
    assert stain_evidence(flat, lying(solid)).kind == "Romanowsky"
    assert set(stain_evidence(flat, lying(solid)).excluded) == {"H&E", "IHC", "Papanicolaou"}
    assert stain_evidence(flat, lying(0.5)).kind is None
    assert stain_evidence(flat).kind is None


def test_sections_are_no_smear_where_colours_and_width_say_so(shared: Path) -> None:
    rgb = read(shared / "stain/tiatoolbox_target_image.png")
    density = optical_density(rgb).reshape(-1, 3)
    assert "Romanowsky" in stain_evidence(density, lying(0.6)).excluded
    for parts in (lying(0.1), None):
        assert "Romanowsky" not in stain_evidence(density, parts).excluded


def field(shared: Path, pattern: str, number: int, size: tuple[int, int]) -> Rgb:
    """Pictures side by side, spread over a folder; `size`: width and height of each at 1 µm/px."""
    paths = [path for path in sorted(shared.glob(pattern)) if path.suffix in {".jpg", ".jpeg", ".png"}]
    if not paths:
        pytest.skip(f"{pattern} is not here")
    chosen = paths[:: max(1, len(paths) // number)][:number]
    small = [
        np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.BOX), np.uint8)
        for path in chosen
    ]
    side = round(number**0.5)
    return np.concatenate(
        [np.concatenate(small[row * side : row * side + side], axis=1) for row in range(side)]
    )


# Fields of slides, how many and how large, and what they are not like.
UNLIKE = {
    "cytology/mendeley-lbc-fields/NILM/*": (4, (342, 256), set()),
    "cytology/mendeley-lbc-fields/SCC/*": (4, (342, 256), set()),
    "cytology/cric-fields-with-cells/*": (1, (320, 240), set()),
    "blood/bccd/JPEGImages/*": (25, (48, 36), {"Papanicolaou"}),
    "histology-tiles/lc25000-lung/lung_n/*": (4, (157, 157), {"Papanicolaou", "Romanowsky"}),
    "histology-tiles/lc25000-lung/lung_scc/*": (4, (157, 157), {"Papanicolaou", "Romanowsky"}),
    "histology-tiles/crc-val-he-7k-mini/MUC/*": (4, (112, 112), {"Papanicolaou", "Romanowsky"}),
    "stain/torchstain_target.png": (1, (680, 512), {"Papanicolaou"}),
}


@pytest.mark.parametrize("pattern", UNLIKE)
def test_cytology_and_smears_and_sections_are_told_by_how_they_lie(shared: Path, pattern: str) -> None:
    number, size, expected = UNLIKE[pattern]
    rgb = field(shared, pattern, number, size)
    density = optical_density(rgb) - estimate_glass(rgb, np.ones(rgb.shape[:2], bool)).density
    stained = density.max(axis=2) >= 0.07
    cut = [
        np.s_[y : y + 256, x : x + 256] for y in range(0, len(rgb), 256) for x in range(0, rgb.shape[1], 256)
    ]
    parts = all_parts(parts_of(stained[at], np.ones_like(stained[at]), 1.0) for at in cut)
    found = stain_evidence(density[stained], parts)
    against = {**found.unlike, **found.excluded}
    assert {kind for kind in ("Papanicolaou", "Romanowsky") if kind in against} >= expected
    assert found.shows("Papanicolaou") == ("Papanicolaou" not in expected)
    if pattern.startswith("blood"):
        assert "Romanowsky" not in against
    if pattern.startswith("cytology"):
        assert "Romanowsky" in against


def test_what_is_wider_than_a_white_cell_is_solid() -> None:
    y, x = np.mgrid[:200, :200]
    cells = np.hypot(x % 25 - 12, y % 25 - 12) <= 5
    sheet = np.hypot(x - 100, y - 100) <= 60
    assert solid_share(cells, 1.0) == 0
    assert solid_share(sheet, 1.0) > 0.95
    assert solid_share(np.ones((40, 40), bool), 1.0) == 1
    assert solid_share(np.zeros((40, 40), bool), 1.0) == 0
    both = np.hstack([cells, sheet])
    assert solid_share(both, 1.0) == pytest.approx(sheet.sum() / both.sum(), abs=0.03)
    # The same cells seen at a quarter of a µm/px are 20 px wide, and no wider in µm.
    assert solid_share(np.kron(cells[:100, :100], np.ones((4, 4))).astype(bool), 0.25) == 0


def test_what_holds_together_over_the_field_spans_it() -> None:
    y, x = np.mgrid[:256, :256]
    cells = np.hypot(x % 64 - 32, y % 64 - 32) <= 20
    net = (x % 64 < 4) | (y % 64 < 4)
    torn = net & (y % 100 >= 2)
    assert spanning_share(cells, 1.0) == 0
    assert spanning_share(net, 1.0) == spanning_share(torn, 1.0) == 1
    assert spanning_share(net, 0.5) == 0, "128 µm wide"
    assert spanning_share(np.zeros((40, 40), bool), 1.0) == 0


def test_parts_of_several_fields_add_up_and_what_is_not_valid_is_not_seen() -> None:
    y, x = np.mgrid[:256, :256]
    net, valid = (x % 64 < 4) | (y % 64 < 4), x < 240
    one, none = parts_of(net, valid, 1.0), parts_of(net & False, valid, 1.0)
    assert one.seen == 240 * 256
    assert one.stained == one.spanning == (net & valid).sum()
    both = all_parts([one, none])
    assert both.cover == pytest.approx(one.cover / 2)
    assert both.spanning_share == one.spanning_share
    assert none.solid_share == none.spanning_share == 0


@pytest.mark.parametrize(
    ("solid", "spanning", "cover", "shown"),
    [(0.6, 0.1, 0.3, True), (0.6, 0.9, 0.3, False), (0.6, 0.1, 0.9, False), (0.1, 0.1, 0.3, False)],
)
def test_pink_cells_are_a_cytology_slide_only_where_they_are_wide_and_lie_apart(
    solid: float, spanning: float, cover: float, shown: bool
) -> None:
    """Superficial squamous cells are as pink as eosin, and were refused for it."""
    pink = np.tile(np.array([[0.1, 0.4, 0.25]], np.float32), (5_000, 1))
    found = stain_evidence(pink, lying(solid, spanning, cover))
    assert found.shows("Papanicolaou") == shown
    assert ("Papanicolaou" in found.unlike) == (found.kind == "H&E") == (not shown)
    assert ("Papanicolaou" in found.excluded) == (not (solid > 0.25 and cover < 0.65))
    assert not found.shows("IHC")


def test_eosin_is_told_by_the_red_that_passes() -> None:
    eosin = np.tile(np.array([[0.1, 0.4, 0.25]], np.float32), (5_000, 1))
    found = stain_evidence(eosin)
    assert found.eosin == 1.0
    assert "IHC" in found.excluded
    assert "eosin" in found.excluded["IHC"]


def test_few_or_pale_pixels_say_nothing() -> None:
    strong = np.tile(np.array([[0.1, 0.4, 0.25]], np.float32), (1_000, 1))
    for density in (np.zeros((0, 3), np.float32), strong, np.tile(strong / 10, (9, 1))):
        found = stain_evidence(density)
        assert found.kind is None
        assert not found.excluded


def test_the_kind_of_one_picture_is_that_of_its_evidence() -> None:
    rgb = tissue(512, 512)
    mask = rgb.min(axis=2) < 200
    assert stain_kind(rgb, mask) == look_at_stain(rgb, mask).kind == "IHC"
    assert stain_kind(np.full((64, 64, 3), 240, np.uint8), np.zeros((64, 64), bool)) is None
