"""Points with scores against lesions, as CAMELYON16 evaluates them: from files to the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.workflows.evaluation.answers import is_results
from coverslip.workflows.evaluation.document import Curve, Evaluation, SlideDetections, Unanswered
from coverslip.workflows.evaluation.figure import Figures, Named, measure_all
from coverslip.workflows.evaluation.froc import OFFICIAL, RATES, WITH_LOWEST, Froc, Hits, match_points
from coverslip.workflows.evaluation.lesions import DOWNSAMPLE, Lesions, read_lesions
from coverslip.workflows.evaluation.names import match_slides
from coverslip.workflows.evaluation.points import (
    Detections,
    detections_of_folder,
    detections_of_results,
    detections_of_table,
)
from coverslip.workflows.evaluation.resampling import Resampling
from coverslip.workflows.evaluation.sources import input_files
from coverslip.workflows.evaluation.table import Table, read_table

# Of the challenge's test set; its annotation is not complete, and the challenge leaves it out.
INCOMPLETE = "test_114"
AT_RATE = "sensitivity at {:g} false positives per slide"


@dataclass(frozen=True, slots=True)
class Marks:
    """How lesions are marked. `mpp`: µm per level-0 pixel; `downsample`: level-0 pixels per mask pixel;
    `kind`: the class of the polygons that are lesions; `finding`: of the results, None for all."""

    mpp: float
    downsample: float | None = None
    kind: str | None = None
    finding: str | None = None
    lowest: bool = False


@dataclass(frozen=True, slots=True)
class _Slide:
    """A line of the lesions' table, what was found there, and how that fits."""

    name: str
    group: str
    said: Detections | None
    hits: Hits

    @property
    def answered(self) -> bool:
        return self.said is not None and self.said.points is not None

    @property
    def why(self) -> str:
        return (self.said.why if self.said else "") or "has no row among the detections"


def evaluate_detections(
    found: str | Path, lesions: str | Path, marks: Marks, *, group: str | None = None, seed: int = 0
) -> Evaluation:
    """Points with scores against lesions, as CAMELYON16 evaluates them.

    `found`: a csv or Parquet file with the columns slide, x, y, score, a folder with a csv file per slide, or
    a folder of results. `lesions`: a table with the columns slide, lesions (a file, beside the table; empty
    for a slide without) and, best, group. Raises RequestError.
    """
    path, table = Path(found), read_table(Path(lesions))
    table.need("slide", "lesions")
    if not marks.mpp > 0:
        raise RequestError("--mpp", "is not above 0", "give µm per level-0 pixel of the slides")
    said = {one.slide: one for one in _detections(path, marks.finding)}
    column = group or table.column("group")
    slides, without = _join(said, table, column, marks, str(path))
    how = Resampling(column or "slide", seed)
    answered = [slide for slide in slides if slide.answered]
    figures = measure_all(_froc_figures(answered, marks.lowest), how)
    whole = len(answered) == len(slides)
    return Evaluation(
        coverslip=version("coverslip"),
        task="detection",
        evaluator=WITH_LOWEST if marks.lowest else OFFICIAL,
        inputs=input_files({"detections": path, "lesions": table.path}),
        settings={
            "mpp": marks.mpp,
            "mask_downsample": marks.downsample or DOWNSAMPLE,
            "lesion_class": marks.kind,
            "finding": marks.finding,
            "lowest_threshold": marks.lowest,
            **how.settings(),
        },
        unit=how.unit,
        groups=len({slide.group for slide in slides}),
        slides=len(slides),
        answered=len(answered),
        unanswered=tuple(_unanswered(slide) for slide in slides if not slide.answered),
        without_truth=without,
        notes=_notes(slides),
        figures=figures,
        counting_unanswered=figures if whole else measure_all(_froc_figures(slides, marks.lowest), how),
        curves=_curves(answered, marks.lowest),
        detections=tuple(_counted(slide) for slide in slides),
    )


def _join(
    said: dict[str, Detections], table: Table, column: str | None, marks: Marks, subject: str
) -> tuple[list[_Slide], tuple[str, ...]]:
    """A slide per line of the table, and those of `said` that it does not name."""
    names = table.cells("slide")
    groups = table.cells_of(column) if column else names
    if "" in names or "" in groups:
        raise RequestError(str(table.path), "has a row without slide or group", "fill it")
    keys = match_slides(names, {key: one.names for key, one in said.items()}, subject)
    if not any(keys):
        raise RequestError(subject, "has none of the slides whose lesions are given", "compare their names")
    slides = []
    for name, one, key, file in zip(names, groups, keys, table.cells("lesions"), strict=True):
        there = None if key is None else said[key]
        points = (there.points if there else None) or ()
        slides.append(_Slide(name, one, there, match_points(points, _lesions(table.path, file, marks), name)))
    return slides, tuple(sorted(set(said) - set(filter(None, keys))))


def _unanswered(slide: _Slide) -> Unanswered:
    lesions = slide.hits.lesions
    truth = f"{lesions} lesion{'s' * (lesions != 1)}"
    return Unanswered(slide=slide.name, group=slide.group, truth=truth, why=slide.why)


def _counted(slide: _Slide) -> SlideDetections:
    hits = slide.hits
    return SlideDetections(
        slide=slide.name,
        group=slide.group,
        answered=slide.answered,
        lesions=hits.lesions,
        found=hits.found,
        isolated=len(hits.best) - hits.lesions,
        false_positives=len(hits.false),
    )


def _detections(path: Path, finding: str | None) -> list[Detections]:
    if path.is_dir():
        if is_results(path):
            return detections_of_results(path, finding)
        return detections_of_folder(path)
    return detections_of_table(read_table(path))


def _lesions(table: Path, name: str, marks: Marks) -> Lesions | None:
    return read_lesions(table.parent / name, marks.mpp, marks.downsample, marks.kind) if name else None


def _froc_figures(slides: Sequence[_Slide], lowest: bool) -> tuple[Figures, ...]:
    froc = Froc.of([slide.hits for slide in slides], lowest)
    undefined, method = "no slide has a lesion that counts", WITH_LOWEST if lowest else OFFICIAL
    named = (
        Named("FROC score", f"mean of the sensitivities below; {method}", undefined),
        *(Named(AT_RATE.format(rate), "interpolated between thresholds", undefined) for rate in RATES),
    )

    def of(weights: NDArray[np.intp]) -> NDArray[np.float64]:
        found = froc.sensitivities(weights)
        return np.append(found.mean(), found)

    return (Figures(named, of, [slide.group for slide in slides]),)


def _curves(slides: Sequence[_Slide], lowest: bool) -> tuple[Curve, ...]:
    froc = Froc.of([slide.hits for slide in slides], lowest)
    rates, found = froc.curve(np.ones(len(slides), np.intp))
    if np.isnan(found).any():
        return ()
    points = zip(rates[::-1].tolist(), found[::-1].tolist(), strict=True)
    return (Curve(name="FROC", points=tuple(points)),)


def _notes(slides: Sequence[_Slide]) -> tuple[str, ...]:
    notes = []
    if any(INCOMPLETE in slide.name.casefold() for slide in slides):
        notes.append(f"{INCOMPLETE} is not fully annotated: CAMELYON16 leaves it out")
    if any(slide.said is None for slide in slides):
        notes.append(
            "a slide that was looked at and in which nothing was found has a row with its name only; one "
            "without a row was not answered"
        )
    return tuple(notes)
