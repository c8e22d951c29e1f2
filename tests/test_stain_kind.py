"""Kinds of stain: named where only one looks so, excluded where clearly another, never for lack of DAB."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from slides import tissue

from coverslip.tiling.stain import H_DAB, separate, stain_vectors
from coverslip.tiling.stain_kind import StainEvidence, look_at_stain, stain_evidence, stain_kind
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
    # H&E with hardly any eosin, and of a violet that could be anything's: not told, not refused.
    "stain/torchstain_target.png": (None, set()),
    "stain/histology_4.png": (None, set()),
}
# Fields of many slides: what they are, and which kinds may be excluded.
SETS = {
    "histology-tiles/crc-val-he-7k-mini/*/*": ("H&E", {"IHC", "Papanicolaou"}),
    "histology-tiles/lc25000-lung/*/*": (None, set()),
    "cytology/comparisondetector-restricted/*/*.jpg": ("Papanicolaou", {"H&E"}),
    "cytology/cric-cervix-centred/*/*.jpg": (None, {"H&E"}),
    "cytology/mendeley-lbc-fields/*/*.jpg": (None, {"H&E"}),
    "blood/pbc-normal/*/*.jpg": (None, set()),
    "blood/bccd/JPEGImages/*": (None, set()),
}


def look(rgb: Rgb) -> StainEvidence:
    mask = detect_tissue(rgb, np.ones(rgb.shape[:2], bool), 1.0, TissueSettings()).mask
    return look_at_stain(rgb, mask)


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
