"""python -m benchmarks.blood DATA TOOLS: how the workflow blood does on cells that nothing was chosen on.

DATA: the folder with `blood/bccd` and `blood/pbc-normal`; TOOLS: that of `make_slide.py`. Fields of BCCD that
the shipped finder never saw: white cells, red cells and platelets found, against their boxes. Smears composed
of cells of PBC that the shipped classifier did not learn from, each at most once: which are found, what they
are called, and whether the differential holds the composed shares in its intervals.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial import KDTree

from coverslip.models.dataset import read_tiles
from coverslip.models.detection import IOU, box_iou, f1, match
from coverslip.models.objects import Finder
from coverslip.models.pictures import Picture, read_pictures
from coverslip.models.split import split_groups
from coverslip.workflows.finders import open_finder

ROOT = Path(__file__).resolve().parents[1]
FINDERS = ("smear-cells", "white-cells+smear-cells")
CLASSES = ("Platelets", "RBC", "WBC")
SMEAR_MPP = 0.1
# Pixels a composed cell takes; its pictures are up to 369.
SLOT = 384
# Of the radius of a cell: a place further off is another cell.
NEAR_UM = 4.0
REPORTED = {
    "neutrophil": "neutrophils",
    "lymphocyte": "lymphocytes",
    "monocyte": "monocytes",
    "eosinophil": "eosinophils",
    "basophil": "basophils",
    "ig": "immature granulocytes",
    "erythroblast": "erythroblasts",
    "platelet": "platelets",
}
# (parts of the classifier's data, composition). An interval is of cells drawn independently: a picture used
# ten times over, called wrongly, is one mistake and not ten. The test part was looked at for nothing; by the
# validation part the last epoch and the calibration were chosen.
SMEARS = (
    (("test",), ",".join(f"{name}=13" for name in sorted(REPORTED))),
    (("validation", "test"), ",".join(f"{name}=25" for name in sorted(REPORTED))),
    (("validation", "test"), "neutrophil=25,lymphocyte=25,monocyte=25,eosinophil=20,basophil=10,ig=12"),
    (("validation", "test"), "neutrophil=25,lymphocyte=13,monocyte=4,eosinophil=2,basophil=1,platelet=6"),
)


def recipes() -> ModuleType:
    """tools/train_model.py, which no package holds."""
    spec = importlib.util.spec_from_file_location("train_model", ROOT / "tools" / "train_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_model"] = module
    spec.loader.exec_module(module)
    return module


def unseen_fields(data: Path, scratch: Path) -> list[Picture]:
    """Pictures of BCCD's test part, at the finder's scale."""
    made = recipes()
    recipe = made.RECIPES["smear-cells"]
    labels = made.write_labels(recipe.rows, data / "blood/bccd", scratch)
    marked = read_pictures(labels, scale=recipe.settings.scale, called=recipe.settings.called)
    one = np.zeros(len(marked.pictures), np.intp)
    split = split_groups(one, marked.groups, recipe.settings.shares, recipe.settings.seed, ("picture",))
    return [marked.pictures[row] for row in split.test]


def unseen_cells(data: Path, scratch: Path, parts: Sequence[str]) -> Path:
    """A labels file of these parts of PBC; `scratch`: an empty folder."""
    made = recipes()
    recipe = made.RECIPES["blood-cells"]
    labels, chosen = made.write_labels(recipe.rows, data / "blood/pbc-normal", scratch), recipe.settings
    (scratch / "pixels").mkdir()
    tiles = read_tiles(labels, chosen.size, scratch / "pixels", "group", chosen.middle)
    split = split_groups(tiles.labels, tiles.groups, chosen.shares, chosen.seed, tiles.classes)
    with labels.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    path = scratch / "unseen.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        held = sorted(row for part in parts for row in getattr(split, part).tolist())
        writer.writerows([rows[row]["file"], rows[row]["label"]] for row in held)
    return path


def matched(picture: Picture, finder: Finder) -> NDArray[np.int64]:
    """(there, found, matched) of each class, (classes, 3); boxes of the found objects' outlines."""
    found = finder.find(picture.rgb)
    boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in found.outlines], np.float32).reshape(-1, 4)
    kinds = np.array([CLASSES.index(finder.classes[kind]) for kind in found.kind], np.intp)
    counts = []
    for number in range(len(CLASSES)):
        there, here = picture.boxes[picture.kinds == number], boxes[kinds == number]
        pairs = match(box_iou(there, here), IOU) if len(there) and len(here) else np.zeros(0)
        counts.append((len(there), len(here), int((np.asarray(pairs) >= 0).sum())))
    return np.array(counts, np.int64)


def finding(data: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        pictures = unseen_fields(data, Path(scratch))
    said: dict[str, Any] = {}
    for name in FINDERS:
        finder = open_finder(name)
        counts = np.stack([matched(picture, finder) for picture in pictures])
        draws = np.random.default_rng(0).integers(0, len(counts), (2000, len(counts)))
        bounds = np.nanquantile(f1(counts[draws].sum(axis=1)), [0.025, 0.975], axis=0)
        total = counts.sum(axis=0)
        for number, kind in enumerate(CLASSES):
            there, here, both = total[number].tolist()
            error = np.abs(counts[:, number, 1] - counts[:, number, 0]).sum() / there
            figures = [float(f1(total[number])), *bounds[:, number].tolist()]
            said[f"{name} {kind}"] = {
                "there": there,
                "found": here,
                "matched": both,
                "F1": [round(figure, 3) for figure in figures],
                "count error per field": round(float(error), 3),
                "total error": round((here - there) / there, 3),
            }
    return said


def composed(labels: Path, tools: Path, out: Path, classes: str, seed: int) -> list[dict[str, str]]:
    """A smear and its truth, x, y, w, h, label. Raises ValueError where a cell would come twice."""
    with labels.open(newline="", encoding="utf-8") as file:
        there = Counter(row["label"] for row in csv.DictReader(file))
    wanted = {name: int(count) for name, _, count in (part.partition("=") for part in classes.split(","))}
    if any(count > there[name] for name, count in wanted.items()):
        raise ValueError(f"{classes}: more than there are, {dict(there)}")
    number = sum(wanted.values())
    side = int(np.ceil(np.sqrt(number))) * SLOT
    words = ["cells", labels, out, "--classes", classes, "--mpp", SMEAR_MPP, "--seed", seed]
    words += ["--size", f"{side}x{side}"]
    subprocess.run([sys.executable, tools / "make_slide.py", *map(str, words)], check=True)
    with out.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def calls(truth: Sequence[dict[str, str]], home: Path) -> Iterator[tuple[str, str]]:
    """(what a composed cell is, what was said of it): "missed" where none was found, or a call."""
    cells = pq.read_table(home / "cells.parquet")
    rows = [row for row in cells.select(["x", "y", "call"]).to_pylist() if row["call"]]
    tree = KDTree([(row["x"], row["y"]) for row in rows])
    for cell in truth:
        middle = [float(cell[at]) + float(cell[side]) / 2 for at, side in (("x", "w"), ("y", "h"))]
        distance, nearest = tree.query(middle)
        said = rows[int(nearest)]["call"] if distance * SMEAR_MPP < NEAR_UM else "missed"
        yield REPORTED[cell["label"]], said


def differential(
    labels: Path, tools: Path, scratch: Path, classes: str, seed: int, finder: str
) -> dict[str, Any]:
    import coverslip
    from coverslip.workflows.blood.workflow import BloodSettings, blood
    from coverslip.workflows.rules.differential import Counting

    slide = scratch / f"smear-{seed}.svs"
    truth = composed(labels, tools, slide, classes, seed)
    choices = BloodSettings(finder=finder, counting=Counting(least_cells=40))
    report = coverslip.run([str(slide)], scratch / f"out-{seed}-{finder}", blood(choices), workers=1)
    if report.failures:
        raise RuntimeError(str(report.failures[0]))
    result = report.results[0]
    said = Counter(calls(truth, scratch / f"out-{seed}-{finder}" / "slides" / slide.name))
    there = Counter(REPORTED[row["label"]] for row in truth)
    white = sum(count for name, count in there.items() if name not in ("erythroblasts", "platelets"))
    parts = {}
    for measured in result.measurements:
        if measured.interval is not None and measured.name in REPORTED.values():
            share, inside = 100 * there[measured.name] / white, measured.interval
            parts[measured.name] = {
                "composed": round(share, 1),
                "measured": [round(n, 1) for n in (measured.value or 0, inside.low, inside.high)],
                "inside": inside.low <= share <= inside.high,
            }
    numbers = {m.name: m.value for m in result.measurements}
    return {
        "classes": classes,
        "cells": len(truth),
        "missed": sum(count for (_, call), count in said.items() if call == "missed"),
        "unsure": sum(count for (_, call), count in said.items() if call == "unsure"),
        "wrong": {f"{name} as {call}": n for (name, call), n in sorted(said.items()) if _wrong(name, call)},
        "right": sum(count for (name, call), count in said.items() if name == call),
        "white cells found": numbers["white cells found"],
        "parts": parts,
        "category": result.call.category if result.call else None,
    }


def _wrong(name: str, call: str) -> bool:
    return call not in (name, "missed", "unsure")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blood", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("tools", type=Path)
    parser.add_argument("--only", choices=("finding", "differential"))
    parser.add_argument("--finder", default="classical", help="of the composed smears")
    asked = parser.parse_args()
    said: dict[str, Any] = {}
    if asked.only != "differential":
        said["finding"] = finding(asked.data)
        print(json.dumps(said, indent=1), flush=True)
    if asked.only != "finding":
        with tempfile.TemporaryDirectory() as folder:
            for seed, (parts, classes) in enumerate(SMEARS):
                scratch = Path(folder) / str(seed)
                scratch.mkdir()
                labels = unseen_cells(asked.data, scratch, parts)
                found = differential(labels, asked.tools, scratch, classes, seed, asked.finder)
                print(
                    json.dumps({"parts of the data": parts, **found}, indent=1, ensure_ascii=False),
                    flush=True,
                )


if __name__ == "__main__":
    main()
