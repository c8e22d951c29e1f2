"""python -m benchmarks.cytology: the cytology workflow on slides composed from real cells, by hand.

    cells DATA                 how single cells of a part (--part) that it did not learn from are called,
                               with bootstrap intervals over fields; --model names another model
    calibrate DATA TOOL        operating points of the shipped model, from its validation part, as YAML
    measure DATA TOOL -o JSON  detection, category, triage on slides composed from its test part
    draw DATA TOOL             category, triage on many slides drawn from that part's cells, each looked at
                               once: rows of tables put together, not pixels
    fields DATA                detection of annotated nuclei on CRIC's whole fields

DATA is the folder `cytology`, TOOL `make_slide.py`. Cells come back from slide to slide: a part has few. So
intervals say how far slides scatter, not how far laboratories do; every figure is of one laboratory's
conventional smears, and of crops with soft edges on drawn glass.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from PIL import Image

from coverslip.models.cell_caller import open_caller
from coverslip.models.dataset import LabelledTiles
from coverslip.models.metrics import balanced_accuracy, resampled
from coverslip.models.pap_finder import NUCLEUS, PapFinder
from coverslip.models.split import Split
from coverslip.tiling.plan import plan_tiles
from coverslip.tiling.tissue import find_tissue
from coverslip.workflows.cytology.calls import call_of, read_cells
from coverslip.workflows.cytology.cells import cells_of
from coverslip.workflows.cytology.points import at_least, points_of
from coverslip.workflows.cytology.workflow import Cytology, CytologySettings, cytology
from coverslip.workflows.evaluation.roc import Ranking, area
from coverslip.workflows.result import Call
from coverslip.workflows.rules.bethesda import chain_of, severity
from coverslip.workflows.rules.guideline import FOLDER, load_guideline
from coverslip.workflows.scores import wilson
from coverslip.workflows.workflow import Conclusion, grounds_of
from coverslip.wsi import Mpp, open_slide

ROOT = Path(__file__).resolve().parents[1]
CRIC = "cric-cervix-centred"
MODEL = "cervical-cells"
PARTS = ("train", "validation", "test")
# Normal, low grade, high grade.
GRADES = {"NILM": 0, "ASC-US": 1, "LSIL": 1, "ASC-H": 2, "HSIL": 2, "SCC": 2}
CROP = 128
MPP = 0.25
# An object is a cell when their centres lie nearer: half of a small nucleus's width.
NEAR_UM = 4.0
CELLS = 150
# Share of abnormal cells, and slides of each; of those that are not 0, as many of each class.
SLIDES = ((0.0, 17), (0.01, 15), (0.02, 15), (0.05, 15))
THRESHOLDS = (*np.arange(0.3, 0.96, 0.05).round(2).tolist(), 0.98, 0.99)
# Of normal objects, so many may count towards a category; fewer cells of it make no operating point.
NORMAL_SHARE, LEAST_FOUND = 0.01, 10


@dataclass(frozen=True, slots=True)
class Slide:
    """One composed slide: what was put on it, what came out."""

    kind: str
    share: float
    cells: int
    found: int
    found_as_nucleus: int
    nuclei: int
    on_glass: int
    category: str | None
    confidence: float | None
    triage: float


def parts(data: Path, scratch: Path) -> tuple[list[dict[str, str]], dict[str, list[int]]]:
    """Rows of the labels file, and which of them the shipped model's parts hold."""
    labels, _, split = read_cells_of(data, scratch)
    with labels.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    held = {name: sorted(getattr(split, name).tolist()) for name in PARTS}
    return rows, held


def read_cells_of(data: Path, scratch: Path) -> tuple[Path, LabelledTiles, Split]:
    """The labels file written to `scratch`, its tiles, and the parts as in the training of the model."""
    from coverslip.models.dataset import read_tiles
    from coverslip.models.split import split_groups

    spec = importlib.util.spec_from_file_location("train_model", ROOT / "tools" / "train_model.py")
    assert spec is not None
    assert spec.loader is not None
    recipes = importlib.util.module_from_spec(spec)
    sys.modules["train_model"] = recipes
    spec.loader.exec_module(recipes)
    recipe = recipes.RECIPES[MODEL]
    labels = recipes.write_labels(recipe.rows, (data / CRIC).resolve(), scratch)
    (scratch / "pixels").mkdir()
    chosen = recipe.settings
    tiles = read_tiles(labels, chosen.size, scratch / "pixels", "group", chosen.middle)
    split = split_groups(tiles.labels, tiles.groups, chosen.shares, chosen.seed, tiles.classes)
    return labels, tiles, split


def call_cells(data: Path, model: str, part: str, scratch: Path) -> dict[str, str]:
    """Figures of the cells of one part with 95 % intervals: whole fields drawn 2,000 times, since cells of
    one field are alike. A draw without high grade has no area and counts for nothing there."""
    from coverslip.models.engine import Engine
    from coverslip.models.library import find_model

    _, tiles, split = read_cells_of(data, scratch)
    rows = getattr(split, part)
    p = Engine(find_model(model), threads=1).predict(np.asarray(tiles.pixels[rows]))
    true, fields = tiles.labels[rows], np.unique(tiles.groups[rows], return_inverse=True)[1]
    grade = np.array([GRADES[name] for name in tiles.classes])
    by_grade = np.stack([p[:, grade == each].sum(axis=1) for each in range(3)], axis=1)
    abnormal = Ranking.of(1 - by_grade[:, 0], grade[true] > 0)
    high = Ranking.of(by_grade[:, 2], grade[true] == 2)

    def figure(weights: NDArray[np.intp]) -> list[float]:
        three = np.zeros((3, 3))
        np.add.at(three, (grade[true], by_grade.argmax(axis=1)), weights)
        six = np.zeros((len(grade), len(grade)))
        np.add.at(six, (true, p.argmax(axis=1)), weights)
        ranked = [area(abnormal, weights), area(high, weights)]
        return [*ranked, balanced_accuracy(three), balanced_accuracy(six)]

    found = figure(np.ones(len(rows), np.intp))
    drawn = np.array([figure(times[fields]) for times in resampled(int(fields.max()) + 1, seed=0)])
    low, high_end = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    names = ("abnormal AUC", "high grade AUC", "normal, low, high grade", "six classes")
    said = {
        name: f"{value:.3f} ({a:.3f} to {b:.3f})"
        for name, value, a, b in zip(names, found, low, high_end, strict=True)
    }
    of_high = len(np.unique(fields[grade[true] == 2]))
    return said | {"of": f"{len(rows)} cells of {fields.max() + 1} fields, {of_high} of them with high grade"}


def compose(tool: Path, labels: Path, out: Path, counts: dict[str, int], seed: int) -> NDArray[np.float64]:
    """A slide of so many cells per class; gives their centres (n, 2) in level-0 pixels."""
    side = CROP + 8
    across = int(np.ceil(np.sqrt(sum(counts.values()) * 1.1))) + 1
    size = -(-across * side // 256) * 256
    wanted = ",".join(f"{name}={count}" for name, count in counts.items())
    command = [sys.executable, str(tool), "cells", str(labels), str(out), "--classes", wanted]
    command += ["--size", f"{size}x{size}", "--seed", str(seed), "--mpp", str(MPP)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with out.with_suffix(".csv").open(encoding="utf-8") as file:
        return np.array([[int(row["x"]), int(row["y"])] for row in csv.DictReader(file)]) + CROP / 2


def look(path: Path, workflow: Cytology) -> tuple[pa.Table, Conclusion]:
    with open_slide(path) as slide:
        tissue, grid = find_tissue(slide), workflow.grid
        plan = plan_tiles(slide, tissue, mpp=grid.mpp, size=grid.size, min_tissue=grid.min_tissue)
        scored = workflow.score(slide, plan, tissue, range(len(plan)))
        return scored.table, workflow.conclude(grounds_of(workflow, slide, plan, tissue), scored.table)


def matched(table: pa.Table, truth: NDArray[np.float64]) -> tuple[NDArray[np.intp], int, int]:
    """The row of the nucleus at each true centre that has one; cells found as anything; objects on glass."""
    place = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    nuclei = np.flatnonzero(np.asarray(table["kind"].to_pylist()) == NUCLEUS)
    off = np.abs(place[None] - truth[:, None])
    apart = np.hypot(off[..., 0], off[..., 1]) * MPP
    found = int((apart.min(axis=1) < NEAR_UM).sum())
    close = apart[:, nuclei].min(axis=1) < NEAR_UM
    rows = nuclei[apart[:, nuclei].argmin(axis=1)[close]]
    on_glass = int((off[:, nuclei].max(axis=2).min(axis=0) > CROP / 2).sum())
    return rows, found, on_glass


def write_labels(rows: Sequence[dict[str, str]], which: Sequence[int], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[number] for number in which)


def calibrate(data: Path, tool: Path, scratch: Path) -> str:
    """Each class of the validation part on its own slide; normal are all nuclei found on that of NILM."""
    rows, held = parts(data, scratch)
    write_labels(rows, held["validation"], scratch / "validation.csv")
    workflow, guideline = cytology(MODEL, CytologySettings()), load_guideline("bethesda-2014")
    seen: dict[str, NDArray[np.float64]] = {}
    for name in workflow.classes:
        count = sum(rows[number]["label"] == name for number in held["validation"])
        out = scratch / f"validation-{name}.svs"
        truth = compose(tool, scratch / "validation.csv", out, {name: count}, seed=1)
        table, _ = look(out, workflow)
        keep = ~np.asarray(table["strange"].to_numpy(), bool)
        keep &= np.asarray(table["kind"].to_pylist()) == NUCLEUS
        if name != guideline["negative"]:
            centres = np.zeros(len(table), bool)
            centres[matched(table, truth)[0]] = True
            keep &= centres
        seen[name] = np.stack([table[f"p_{each}"].to_numpy() for each in workflow.classes], axis=1)[keep]
    return _yaml(workflow, seen)


def _yaml(workflow: Cytology, seen: dict[str, NDArray[np.float64]]) -> str:
    guideline, points = load_guideline("bethesda-2014"), {}
    abnormal = [name for name in severity(guideline) if name in workflow.roles]
    for category in abnormal:
        chain = chain_of(category, guideline)
        reached = {name: at_least(p, workflow.roles, category, guideline) for name, p in seen.items()}
        normal = reached[guideline["negative"]]
        found = np.concatenate([reached[name] for name in abnormal if name in chain])
        milder = [reached[name] for name in abnormal if name not in chain]
        fits = [each for each in THRESHOLDS if (normal >= each).mean() <= NORMAL_SHARE]
        if len(found) < LEAST_FOUND or not fits:
            continue
        at = fits[0]
        points[category] = {
            "threshold": at,
            "normal": [int((normal >= at).sum()), len(normal)],
            "milder": [int((np.concatenate(milder) >= at).sum()), sum(map(len, milder))] if milder else None,
            "found": [int((found >= at).sum()), len(found)],
        }
    document = {
        "name": f"operating points of {workflow.model.name} {workflow.model.version}",
        "version": "1",
        "source": "python -m benchmarks.cytology calibrate, on the validation part of the model's own data: "
        "conventional smears of one laboratory (CRIC), composed from real cells",
        "unverified": ["points"],
        "values": {
            "weights_sha256": workflow.model.sha256,
            "method": f"probability of the category or worse at which at most {NORMAL_SHARE:.0%} of the "
            "normal nuclei count",
            "preparations": ["conventional"],
            "points": points,
        },
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def small_counts(scratch: Path) -> Path:
    """The guideline with a least count that composed slides reach, and NILM wherever nothing stands out."""
    document = yaml.safe_load((FOLDER / "bethesda-2014.yaml").read_text(encoding="utf-8"))
    document["values"]["least_cells"] = {"liquid-based": 50, "conventional": 50}
    document["values"]["largest_unseen_share"] = 1.0
    path = scratch / "few-cells.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    return path


def recipes_of(classes: Sequence[str]) -> Iterator[tuple[str, float]]:
    for share, slides in SLIDES:
        for number in range(slides):
            yield ("NILM" if share == 0 else classes[number % len(classes)]), share


def measure(data: Path, tool: Path, scratch: Path) -> list[Slide]:
    rows, held = parts(data, scratch)
    write_labels(rows, held["test"], scratch / "test.csv")
    choices = CytologySettings(preparation="conventional", guideline=str(small_counts(scratch)))
    workflow = cytology(MODEL, choices)
    made = []
    for seed, (kind, share) in enumerate(recipes_of(["ASC-US", "LSIL", "ASC-H", "HSIL", "SCC"])):
        abnormal = round(CELLS * share)
        counts = {"NILM": CELLS - abnormal, **({kind: abnormal} if abnormal else {})}
        out = scratch / "slide.svs"
        truth = compose(tool, scratch / "test.csv", out, counts, seed)
        table, conclusion = look(out, workflow)
        hits, found, on_glass = matched(table, truth)
        call = conclusion.call
        assert isinstance(call, Call)
        nuclei = int((np.asarray(table["kind"].to_pylist()) == NUCLEUS).sum())
        made.append(
            Slide(
                kind,
                share,
                len(truth),
                found,
                len(hits),
                nuclei,
                on_glass,
                call.category,
                call.confidence,
                call.triage or 0.0,
            )
        )
        print(f"{len(made)}: {kind} {share:.0%}: {conclusion.summary}", file=sys.stderr, flush=True)
    return made


def draw(data: Path, tool: Path, scratch: Path, cells: int, slides: int) -> list[Slide]:
    """Slides of so many cells: crops of the test part drawn with replacement, with all found in each.

    A slide of each class is composed and looked at; what another neighbour would change at a crop's edge is
    not in these figures.
    """
    rows, held = parts(data, scratch)
    write_labels(rows, held["test"], scratch / "test.csv")
    choices = CytologySettings(preparation="conventional", guideline=str(small_counts(scratch)))
    workflow = cytology(MODEL, choices)
    guideline = load_guideline(choices.guideline)
    found = {name: _crops(rows, held["test"], tool, scratch, name, workflow) for name in workflow.classes}
    points = points_of(open_caller(workflow.folder).document, guideline, None)
    rng, made = np.random.default_rng(0), []
    abnormal = [name for name in severity(guideline) if name in workflow.roles]
    for share in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2):
        for number in range(slides):
            kind = abnormal[number % len(abnormal)] if share else guideline["negative"]
            taken = [(guideline["negative"], cells - round(cells * share)), (kind, round(cells * share))]
            picked = [found[name][n] for name, k in taken for n in rng.integers(0, len(found[name]), k)]
            table = pa.concat_tables(picked)
            seen = cells_of(table, workflow.classes, workflow.roles, Mpp(MPP, MPP, "given"), CROP * MPP)
            reading = read_cells(seen, points, guideline, "conventional", "general", 0.0)
            call, _ = call_of(reading, guideline)
            nuclei = int(seen.called.sum())
            made.append(
                Slide(kind, share, cells, 0, 0, nuclei, 0, call.category, call.confidence, call.triage or 0.0)
            )
    return made


def _crops(
    rows: Sequence[dict[str, str]],
    part: Sequence[int],
    tool: Path,
    scratch: Path,
    name: str,
    workflow: Cytology,
) -> list[pa.Table]:
    """What was found in each crop of one class."""
    count = sum(rows[number]["label"] == name for number in part)
    out = scratch / f"test-{name}.svs"
    truth = compose(tool, scratch / "test.csv", out, {name: count}, seed=1)
    table, _ = look(out, workflow)
    off_x = np.abs(table["x"].to_numpy() - truth[:, :1]) <= CROP / 2
    off_y = np.abs(table["y"].to_numpy() - truth[:, 1:]) <= CROP / 2
    return [table.take(np.flatnonzero(inside)) for inside in off_x & off_y]


def figures(made: Sequence[Slide]) -> dict[str, str]:
    """Shares with Wilson 95 % intervals; over slides unless named otherwise."""
    normal = [slide for slide in made if slide.share == 0]
    rows = {
        "NILM slides called NILM": _called(normal, ("NILM",)),
        "NILM slides without category": _called(normal, (None,)),
        "NILM slides called abnormal": _share(sum(_abnormal(s) for s in normal), len(normal)),
    }
    if any(slide.found for slide in made):
        rows |= _detection(made)
    for share in sorted({slide.share for slide in made} - {0.0}):
        some = [slide for slide in made if slide.share == share]
        rows[f"{share:.0%} abnormal: called abnormal"] = _share(sum(map(_abnormal, some)), len(some))
        rows[f"{share:.0%} abnormal: no category"] = _called(some, (None,))
        rows[f"{share:.0%} abnormal: exact category"] = _share(
            sum(s.category == s.kind for s in some), len(some)
        )
        high = [slide for slide in some if slide.kind in ("ASC-H", "HSIL", "SCC")]
        rows[f"{share:.0%} ASC-H, HSIL or SCC: called ASC-H or worse"] = _called(
            high, ("ASC-H", "HSIL", "SCC")
        )
        wins = [(a.triage > b.triage) + 0.5 * (a.triage == b.triage) for a in some for b in normal]
        rows[f"{share:.0%} abnormal: triage AUC against NILM"] = f"{np.mean(wins):.3f}"
    return rows


def _detection(made: Sequence[Slide]) -> dict[str, str]:
    """Over cells."""
    cells, nuclei = sum(s.cells for s in made), sum(s.nuclei for s in made)
    return {
        "cells found as a nucleus": _share(sum(s.found_as_nucleus for s in made), cells),
        "cells found as anything": _share(sum(s.found for s in made), cells),
        "nuclei that are a listed cell": _share(sum(s.found_as_nucleus for s in made), nuclei),
        "nuclei on bare glass": _share(sum(s.on_glass for s in made), nuclei),
    }


def _abnormal(slide: Slide) -> bool:
    return slide.category not in (None, "NILM", "unsatisfactory")


def _called(slides: Sequence[Slide], categories: tuple[str | None, ...]) -> str:
    return _share(sum(slide.category in categories for slide in slides), len(slides))


def _share(part: int, whole: int) -> str:
    found = wilson(part, whole)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}), {part} of {whole}"


def fields(data: Path) -> str:
    """Annotated nuclei on whole fields that have a nucleus within 5 µm."""
    folder, finder, hit, total = data / "cric-fields-with-cells", PapFinder(), 0, 0
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in sorted({row["file"] for row in rows}):
        rgb = np.asarray(Image.open(folder / name).convert("RGB"))
        size = (rgb.shape[1] // 2, rgb.shape[0] // 2)
        found = finder.find(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8))
        x, y = 2 * found.x[found.kind == 0], 2 * found.y[found.kind == 0]
        for row in (row for row in rows if row["file"] == name):
            total += 1
            hit += bool((np.hypot(x - float(row["x"]), y - float(row["y"])) * MPP < 5).any())
    return f"annotated nuclei found: {_share(hit, total)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cells", "calibrate", "measure", "draw", "fields"))
    parser.add_argument("data", type=Path)
    parser.add_argument("tool", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--part", choices=PARTS, default="test")
    given = parser.parse_args()
    if given.what == "cells":
        with tempfile.TemporaryDirectory(prefix="coverslip-") as folder:
            for name, figure in call_cells(given.data, given.model, given.part, Path(folder)).items():
                print(f"{name}: {figure}")
        return
    if given.what == "fields":
        print(fields(given.data))
        return
    if given.what == "draw":
        for cells, slides in ((150, 100), (2000, 50)):
            with tempfile.TemporaryDirectory(prefix="coverslip-") as folder:
                made = draw(given.data, given.tool, Path(folder), cells, slides)
            for name, figure in figures(made).items():
                print(f"{cells} cells, {name}: {figure}", flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="coverslip-") as folder:
        if given.what == "calibrate":
            print(calibrate(given.data, given.tool, Path(folder)), end="")
            return
        made = measure(given.data, given.tool, Path(folder))
    for name, figure in figures(made).items():
        print(f"{name}: {figure}")
    if given.output:
        found = {"figures": figures(made), "slides": [asdict(slide) for slide in made]}
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
