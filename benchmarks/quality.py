"""How well artefacts are found: real tissue with artefacts of known place, and what is flagged without any.

    python -m benchmarks.quality [DATA] [PICTURES]

`DATA`: the folder of real slides and tiles (by default ../shared/data); `PICTURES`: a folder for pictures
of what was made and what was found. Recall and precision are of pixels, with the interval over repeats (2.5 %
to 97.5 % of 2000 resamplings of the pictures). The rules were set while looking at these same fields and
sections, so these are figures of fit, not of slides never seen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coverslip.tiling.bubbles import BubbleSettings, find_bubbles, grey_density
from coverslip.tiling.focus import FocusSettings, is_sharp
from coverslip.tiling.folds import FoldSettings, find_folds
from coverslip.tiling.glass import Density
from coverslip.tiling.quality import judge_quality
from coverslip.tiling.tissue import TissueSettings, detect_tissue, overview_of, tissue_in
from coverslip.wsi import Box, open_slide

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Paint = Callable[[Rgb, float, np.random.Generator], tuple[Rgb, Mask]]
GLASS = 245.0
# Pictures of whole sections and of a large part of one: file, µm/px.
SECTIONS = (
    ("registration/Rat-Kidney_HE.jpg", 5.0),
    ("registration/Rat-Kidney_PanCytokeratin.jpg", 5.0),
    ("qc/tiles/tissue-level2-3000-7666-7096-11763.png", 8.0),
)
SLIDES = (
    "wsi/aperio-svs/CMU-1-Small-Region.svs",
    "wsi/ome-tiff/OS-1-detail.ome.tif",
    "ihc/OS-2-ndpi_Ki67.ome.tif",
)
REPEATS = 6


def read(path: Path) -> Rgb:
    return np.asarray(Image.open(path).convert("RGB"), np.uint8)


def with_folds(rgb: Rgb, mpp: float, rng: np.random.Generator) -> tuple[Rgb, Mask]:
    """Five strips, 40 to 120 µm wide and 0.4 to 1.2 mm long, where the density of tissue beside is added."""
    density = -np.log10(np.maximum(rgb, 1) / GLASS)
    height, width = rgb.shape[:2]
    drawn = np.zeros((height, width), np.uint8)
    for _ in range(5):
        x, y, turn = rng.uniform(0.25, 0.75) * width, rng.uniform(0.25, 0.75) * height, rng.uniform(0, 6.3)
        line = []
        for _ in range(int(rng.uniform(400, 1200) / mpp)):
            line.append((x, y))
            x, y, turn = x + np.cos(turn), y + np.sin(turn), turn + rng.normal(0, 0.03)
        cv2.polylines(drawn, [np.array(line, np.int32)], False, 255, max(1, int(rng.uniform(40, 120) / mpp)))
    soft = cv2.GaussianBlur(drawn, (0, 0), 1)[..., None] / 255.0
    shifted = np.roll(density, (round(50 / mpp), round(40 / mpp)), (0, 1))
    folded = np.clip(GLASS * 10 ** -(density + shifted * soft), 0, 255).astype(np.uint8)
    return folded, drawn > 0


def with_bubbles(rgb: Rgb, mpp: float, rng: np.random.Generator) -> tuple[Rgb, Mask]:
    """Three nearly round bubbles, radius 250 to 500 µm, whose rim is 30 to 80 µm wide and grey."""
    height, width = rgb.shape[:2]
    y, x = np.mgrid[:height, :width]
    grey, inside = np.zeros((height, width)), np.zeros((height, width), bool)
    for number in range(3):
        radius, rim = rng.uniform(250, 500) / mpp, rng.uniform(30, 80) / mpp
        left, top = (0.2 + 0.3 * number) * width, rng.uniform(0.25, 0.75) * height
        long = rng.uniform(0.93, 1.07)
        away = np.hypot((x - left) * long, (y - top) / long) - radius
        grey = np.maximum(grey, rng.uniform(0.25, 0.6) * np.exp(-((away / (rim / 2)) ** 2)))
        inside |= away < rim / 2
    return np.clip(rgb * 10 ** -grey[..., None], 0, 255).astype(np.uint8), inside


def with_pen(rgb: Rgb, mpp: float, rng: np.random.Generator) -> tuple[Rgb, Mask]:
    """Two strokes of felt tip, 0.6 to 1 mm wide, in made-up densities of a green, a blue and a black ink."""
    inks = np.array([[0.9, 0.25, 0.4], [0.9, 0.6, 0.2], [0.8, 0.85, 0.8]])
    height, width = rgb.shape[:2]
    drawn, density = np.zeros((height, width), np.uint8), np.zeros((height, width, 3))
    for _ in range(2):
        stroke = np.zeros((height, width), np.uint8)
        ends = rng.uniform(0.1, 0.9, (3, 2)) * (width, height)
        cv2.polylines(stroke, [ends.astype(np.int32)], False, 255, int(rng.uniform(600, 1000) / mpp))
        soft = cv2.GaussianBlur(stroke, (0, 0), 20 / mpp)[..., None] / 255.0
        density = np.maximum(density, soft * inks[rng.integers(3)])
        drawn |= stroke
    return np.clip(rgb * 10**-density, 0, 255).astype(np.uint8), drawn > 0


def measure(paint: Paint, kind: str, data: Path, pictures: Path | None) -> None:
    """Recall and precision of one kind of artefact over all sections, several times each."""
    for name, mpp in SECTIONS:
        rows, rgb = [], read(data / name)
        clean = found_in(rgb, mpp, kind).mean()
        for repeat in range(REPEATS):
            painted, truth = paint(rgb, mpp, np.random.default_rng(repeat))
            tissue = detect_tissue(rgb, np.ones(rgb.shape[:2], bool), mpp, TissueSettings()).mask
            found, truth = found_in(painted, mpp, kind) & tissue, truth & tissue
            rows.append((found & truth).sum() / np.array([max(1, truth.sum()), max(1, found.sum())]))
            if pictures and repeat == 0:
                show(pictures / f"{kind}-{Path(name).stem}.png", painted, truth, found)
        recall, precision = np.array(rows).T
        said = f"recall {spread(recall)}  precision {spread(precision)}  of {len(rows)} pictures"
        print(f"{kind:8} {Path(name).stem:42} {said}; without any {clean:.2%} is flagged")


def found_in(rgb: Rgb, mpp: float, kind: str) -> Mask:
    detection = detect_tissue(rgb, np.ones(rgb.shape[:2], bool), mpp, TissueSettings())
    density = Density(rgb, detection.glass)
    if kind == "pen":
        return detection.pen
    if kind == "folds":
        return find_folds(density, detection.mask, mpp, FoldSettings())
    return find_bubbles(grey_density(density), mpp, BubbleSettings())


def spread(values: Sequence[float] | NDArray) -> str:
    rng, values = np.random.default_rng(0), np.asarray(values)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})"


def show(path: Path, painted: Rgb, truth: Mask, found: Mask) -> None:
    """What was made, and in it what was found (green), missed (blue) and wrongly found (yellow)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = painted.copy()
    for where, colour in ((found & truth, (0, 158, 115)), (truth & ~found, (0, 114, 178))):
        shown[where] = shown[where] // 2 + np.array(colour, np.uint8) // 2
    shown[found & ~truth] = (240, 228, 66)
    Image.fromarray(np.hstack([painted, shown])).save(path)


def fields(data: Path) -> list[tuple[str, Rgb, float]]:
    """Sharp fields of at least 112 µm a side, mostly tissue, of known µm/px."""
    found = []
    for name in SLIDES:
        with open_slide(str(data / name)) as slide:
            rgb, mpp = slide.read(0, Box(0, 0, slide.size.width, slide.size.height)).rgb, slide.mpp.x
        side = int(128 / mpp)
        for y in range(0, rgb.shape[0] - side + 1, side):
            for x in range(0, rgb.shape[1] - side + 1, side):
                part = rgb[y : y + side, x : x + side]
                if (part.min(axis=2) < 200).mean() > 0.3:
                    found.append((Path(name).stem, part, mpp))
    folder = data / "histology-tiles/crc-val-he-7k-mini"
    for path in sorted(path for path in folder.glob("*/*") if path.parent.name != "BACK"):
        found.append((f"crc {path.parent.name}", read(path), 0.5))
    return found


def measure_focus(data: Path) -> None:
    """Share of fields called blurred, by the blur they were given before they were made small."""
    looked = fields(data)
    print(f"focus: {len(looked)} fields; share called out of focus, by blur (standard deviation in µm):")
    for sigma in (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0):
        said = [called(rgb, mpp, sigma) for _, rgb, mpp in looked]
        judged = [one for one in said if one is not None]
        share = [1.0 - float(one) for one in judged]
        print(f"  {sigma:4.1f} µm  {spread(share)}   nothing to judge by: {len(said) - len(judged)}")


def called(rgb: Rgb, mpp: float, sigma: float) -> bool | None:
    soft = cv2.GaussianBlur(rgb, (0, 0), sigma / mpp) if sigma else rgb
    size = round(rgb.shape[1] * mpp), round(rgb.shape[0] * mpp)
    small = cv2.resize(soft, size, interpolation=cv2.INTER_AREA)
    stored = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    return is_sharp(np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR), np.uint8), FocusSettings())


def measure_cost(data: Path) -> None:
    for name in SLIDES:
        with open_slide(str(data / name)) as slide:
            overview = overview_of(slide, TissueSettings())
            tissue = tissue_in(slide, overview, TissueSettings())
            started = time.process_time()
            quality = judge_quality(slide, overview, tissue)
            spent = time.process_time() - started
        print(f"{Path(name).name}: {spent:.2f} s of CPU for {quality.fields} fields, {quality.artefacts}")


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    pictures = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    for paint, kind in ((with_pen, "pen"), (with_folds, "folds"), (with_bubbles, "bubbles")):
        measure(paint, kind, data, pictures)
    measure_focus(data)
    measure_cost(data)


if __name__ == "__main__":
    main()
