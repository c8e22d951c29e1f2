"""Real pictures of known stain and kind of slide, by source, as slides are made of them for measuring.

Sources hold whole fields, single cells or small tiles. Fields and tiles of one source, where possible of one
slide, are laid side by side; single cells lie apart on glass, as `make_slide.py cells` puts them. What states
no µm/px is given the one that its cells or nuclei are of ordinary size at.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]
Item = TypeVar("Item")
SUFFIXES = {".jpg", ".jpeg", ".png"}
PAP, BLOOD, HE, IHC, BLUE = "Papanicolaou", "blood smear", "H&E", "IHC", "haematoxylin only"


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A slide made of real pictures. `source`: laboratory or collection; `rgb`: uint8 (h, w, 3)."""

    kind: str
    source: str
    name: str
    rgb: Rgb
    mpp: float


def all_pictures(data: Path, tools: Path) -> Iterator[Made]:
    """All of them, by kind and source, always in the same order."""
    yield from _cytology(data / "cytology", tools)
    yield from _blood(data / "blood", tools)
    yield from _sections(data)
    yield from _immuno(data)


def read(path: Path, factor: float = 1.0, size: tuple[int, int] | None = None) -> Rgb:
    """One picture, `factor` times as large, or of `size` (width, height)."""
    if path.suffix in {".svs", ".tif"}:
        return np.ascontiguousarray(tifffile.imread(path, key=0)[..., :3])
    image = Image.open(path).convert("RGB")
    if size is None and factor != 1:
        size = round(image.width * factor), round(image.height * factor)
    return np.asarray(image if size is None else image.resize(size, Image.Resampling.BOX), np.uint8)


def side_by_side(pictures: Sequence[Rgb]) -> Rgb:
    """Nearly square; all of the same size; what is left over is filled by the first ones again."""
    columns = int(np.ceil(np.sqrt(len(pictures))))
    rows = -(-len(pictures) // columns)
    filled = [pictures[n % len(pictures)] for n in range(rows * columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in batched(filled, columns)])


def on_glass(files: Sequence[Path], tools: Path, mpp: float, side: int, seed: int) -> Rgb:
    """Single cells apart on glass, at least `side` pixels wide and high."""
    sizes = [Image.open(file).size for file in files]
    slots = int(np.ceil(np.sqrt(len(files))))
    side = max(side, slots * (max(max(size) for size in sizes) + 8))
    with tempfile.TemporaryDirectory() as scratch:
        labels, out = Path(scratch) / "labels.csv", Path(scratch) / "out.svs"
        labels.write_text("file,label\n" + "".join(f"{file.resolve()},cell\n" for file in files))
        words = ["cells", labels, out, "--size", f"{side}x{side}", "--mpp", mpp, "--seed", seed]
        command = [sys.executable, str(tools / "make_slide.py"), *map(str, words)]
        subprocess.run(command, check=True, capture_output=True)
        return read(out)


def listed(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix in SUFFIXES)


def batched(items: Sequence[Item], number: int) -> Iterator[Sequence[Item]]:
    """In turn `number` of them; the last ones may be fewer."""
    return (items[start : start + number] for start in range(0, len(items), number))


def spread(files: Sequence[Path], number: int) -> list[list[Path]]:
    """In groups of about `number`, each from all parts of the list."""
    groups = max(1, len(files) // number)
    return [list(files[start::groups]) for start in range(groups)]


def _cytology(folder: Path, tools: Path) -> Iterator[Made]:
    by_field: dict[str, list[Path]] = {}
    for row in _rows(folder / "cric-cervix-centred/labels.csv"):
        by_field.setdefault(row["group"], []).append(folder / "cric-cervix-centred" / row["file"])
    cells = [file for group in sorted(by_field) for file in by_field[group]]
    for number, some in enumerate(batched(cells, 60)):
        yield Made(PAP, "CRIC cells on glass", f"{number}", on_glass(some, tools, 0.25, 2048, number), 0.25)
    for file in listed(folder, "cric-fields-with-cells/*"):
        yield Made(PAP, "CRIC fields", file.stem, read(file), 0.25)
    by_slide: dict[str, list[Path]] = {}
    for row in _rows(folder / "mendeley-lbc-fields/labels.csv"):
        slide = f"{row['label']} {row['slide_group']}"
        by_slide.setdefault(slide, []).append(folder / "mendeley-lbc-fields" / row["file"])
    for slide, files in sorted(by_slide.items()):
        fields = [read(file, size=(683, 512)) for file in files]
        yield Made(PAP, "Mendeley LBC", slide, side_by_side(fields), 0.5)
    crops = listed(folder, "comparisondetector-restricted/*/*")
    for number, some in enumerate(spread(crops, 35)):
        rgb = on_glass(some, tools, 0.25, 4096, number)
        yield Made(PAP, "ComparisonDetector cells on glass", f"{number}", rgb, 0.25)


def _blood(folder: Path, tools: Path) -> Iterator[Made]:
    for number, some in enumerate(spread(listed(folder, "pbc-normal/*/*"), 36)):
        yield Made(BLOOD, "PBC cells on glass", f"{number}", on_glass(some, tools, 0.1, 2560, number), 0.1)
    fields = listed(folder, "bccd/JPEGImages/*")
    for number, some in enumerate(batched(fields, 12)):
        yield Made(BLOOD, "BCCD", f"{number}", side_by_side([read(file) for file in some]), 0.075)
    without = [part for file in fields for part in _without_white(file)]
    for number, some in enumerate(batched(without, 36)):
        yield Made(BLOOD, "BCCD, no white cells", f"{number}", side_by_side(some), 0.075)


def _without_white(field: Path) -> list[Rgb]:
    """The largest parts, 200 px wide and high, that no box of a white cell touches: at most four."""
    boxes = []
    marks = field.parents[1] / "Annotations" / f"{field.stem}.xml"
    for found in ElementTree.parse(marks).iter("object"):  # noqa: S314  ours, and expat bounds entities
        if found.findtext("name") == "WBC":
            at = [int(found.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")]
            boxes.append(at)
    if not boxes:
        return []
    rgb = read(field)
    return [
        rgb[y : y + 200, x : x + 200]
        for y in (0, 280)
        for x in (0, 440)
        if not any(
            x < right + 20 and left - 20 < x + 200 and y < low + 20 and top - 20 < y + 200
            for left, top, right, low in boxes
        )
    ]


def _sections(data: Path) -> Iterator[Made]:
    yield Made(HE, "CMU-1", "CMU-1", read(data / "wsi/aperio-svs/CMU-1-Small-Region.svs"), 0.499)
    yield Made(HE, "OS-1", "OS-1", read(data / "wsi/ome-tiff/OS-1-detail.ome.tif"), 0.2271)
    for name in ("ADI", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"):
        tiles = [read(file) for file in listed(data, f"histology-tiles/crc-val-he-7k-mini/{name}/*")]
        yield Made(HE, "CRC tiles", name, side_by_side(tiles), 0.5)
    for name in ("lung_n", "lung_aca", "lung_scc"):
        files = listed(data, f"histology-tiles/lc25000-lung/{name}/*")
        for number, some in enumerate(batched(files, 16)):
            rgb = side_by_side([read(file) for file in some])
            yield Made(HE, "LC25000 lung", f"{name} {number}", rgb, 0.7)
    fields = [file for file in listed(data, "nuclei/bbbc038/histology-colour/*") if "label" not in file.stem]
    fields.sort(key=lambda file: tuple(np.percentile(read(file), 90, axis=(0, 1)).round(-1)))
    for number, some in enumerate(batched(fields, 6)):
        rgb = side_by_side([read(file, size=(320, 256)) for file in some])
        yield Made(HE, "BBBC038 (purple)", f"{number}", rgb, 0.25)
    for name in ("histology_1", "histology_3", "histology_4"):
        yield Made(HE, "photographs", name, read(data / f"stain/{name}.png"), 0.5)
    yield Made(HE, "TIAToolbox", "target", read(data / "stain/tiatoolbox_target_image.png"), 0.25)
    for name in ("source", "target"):
        yield Made(HE, "torchstain", name, read(data / f"stain/torchstain_{name}.png"), 0.5)
    yield Made(HE, "TCGA, GTEx", "lung", read(data / "qc/tcga-lung-rgb.png"), 0.25)
    for file in listed(data, "qc/tiles/*-level[01]*.png"):
        if "pen" not in file.stem:
            yield Made(HE, "TCGA, GTEx", file.stem, read(file), 0.5 if "level0" in file.stem else 2.0)
    yield Made(HE, "Rat kidney", "H&E", read(data / "registration/Rat-Kidney_HE.jpg"), 5.0)


def _immuno(data: Path) -> Iterator[Made]:
    yield Made(IHC, "OS-2", "OS-2", read(data / "ihc/OS-2-ndpi_Ki67.ome.tif"), 0.2271)
    yield Made(IHC, "scikit-image", "FHL2", read(data / "ihc/skimage_ihc_FHL2.png"), 0.5)
    restricted = data / "ihc/deepliif-restricted"
    for name in ("22_2", "6_2"):
        yield Made(IHC, "DeepLIIF", name, read(restricted / f"{name}.png"), 0.25)
    panels = read(restricted / "Bladder1_6panel.png")
    yield Made(IHC, "DeepLIIF", "Bladder1", panels[:, :512], 0.25)
    yield Made(BLUE, "DeepLIIF", "Bladder1", panels[:, 512:1024], 0.25)
    yield Made(
        IHC, "Rat kidney", "cytokeratin", read(data / "registration/Rat-Kidney_PanCytokeratin.jpg"), 5.0
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
