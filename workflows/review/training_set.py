"""Tiles to train on, cut where reviewers gave a class, together with those of a labels file."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.document import Corrections
from coverslip.models.labels_file import Row, check_rows, raise_problems, read_rows
from coverslip.tiling.plan import FINEST
from coverslip.workflows.again import slide_again
from coverslip.workflows.review.labels import CorrectedLabels, Example
from coverslip.wsi import Field, Size, Slide

# A tile's class is said of the glass it shows: more or less than this share of it, and it is said of another.
SAME_SIDE = 0.1
GROUP = "group"


@dataclass(frozen=True, slots=True)
class Cut:
    """Tiles of `side` × `side` pixels at `mpp` µm/px."""

    mpp: float
    side: int

    @property
    def side_um(self) -> float:
        return self.mpp * self.side


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """`labels_csv`: file,label,group; `corrections`: what its last lines are, after a labels file's."""

    labels_csv: Path
    corrections: Corrections


def make_training_set(
    given: Path | None,
    corrected: CorrectedLabels,
    folder: Path,
    *,
    mpp: float,
    size: int,
    group_column: str = GROUP,
    signed: bool = True,
    name_reviewers: bool = False,
) -> TrainingSet:
    """In the empty folder, which `labels.csv` and its tiles then fill.

    `given`: a labels file whose tiles are at `mpp` µm/px; those of the corrections are cut as large. Without
    it they are `size` pixels a side, and are split as any others. The groups are those of the labels file,
    and of corrections the case or slide: where a case is called as a group is, they stay in one part.

    Raises RequestError, ModelMismatchError where a slide is too coarse, StoreIncompleteError where neither it
    nor its copy is there.
    """
    rows = _given(given, group_column) if given else []
    cut = Cut(mpp, _side(given, rows) if given else size)
    _refuse_other_sides(corrected.examples, cut)
    known = {row.label for row in rows}
    strange = sorted({one.label for one in corrected.examples} - known) if rows else []
    if strange:
        raise RequestError(
            "the corrections",
            f"have classes that {given} has not: {', '.join(strange)}",
            f"add tiles of them, or say what they are there with --rename '{strange[0]}=…'; it has "
            f"{', '.join(sorted(known))}",
        )
    lines = [_bring(row, given, folder) for row in rows if given]
    lines += _cut_all(corrected.examples, cut, folder)
    path = folder / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label", GROUP), *lines])
    return TrainingSet(path, _described(corrected, signed, name_reviewers, learnt_only=bool(rows)))


def _described(corrected: CorrectedLabels, signed: bool, named: bool, *, learnt_only: bool) -> Corrections:
    return Corrections(
        labels=len(corrected.examples),
        changed=corrected.changed,
        disagreed=corrected.disagreed,
        excluded=corrected.excluded,
        reviewers=len(corrected.reviewers),
        names=corrected.reviewers if named else (),
        signed=signed,
        results=corrected.results,
        learnt_only=learnt_only,
    )


def _given(path: Path, group_column: str) -> list[Row]:
    rows, _ = read_rows(path, group_column, "tile")
    raise_problems(path, check_rows(rows, path.parent, "tile"))
    return rows


def _side(path: Path, rows: Sequence[Row]) -> int:
    """Of the labels file's images; that all are alike is checked when they are read."""
    first = path.parent / rows[0].file
    try:
        with Image.open(first) as image:
            return min(image.size)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RequestError(str(first), "is no image that can be read", "mend or remove this line") from error


def _bring(row: Row, given: Path, folder: Path) -> tuple[str, str, str]:
    """A link to the file in the folder, or a copy where links cannot be made."""
    name = f"given/{os.path.normpath(row.file)}"
    target, source = folder / name, (given.parent / row.file).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source)
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)
    return name, row.label, row.group or f"file {row.file}"


def _refuse_other_sides(examples: Sequence[Example], cut: Cut) -> None:
    for one in examples:
        if one.of == "tiles":
            side_um = one.place.width * one.result.slide.mpp.x
            if abs(cut.side_um / side_um - 1) > SAME_SIDE:
                raise RequestError(
                    f"tiles of {cut.side_um:.4g} µm",
                    f"are not what was reviewed: those of {one.result.slide.id} are {side_um:.4g} µm wide",
                    f"give tiles of {side_um / cut.mpp:.0f} px at {cut.mpp:g} µm/px",
                )


def _cut_all(examples: Sequence[Example], cut: Cut, folder: Path) -> list[tuple[str, str, str]]:
    (folder / "corrected").mkdir()
    lines = []
    for home, group in groupby(examples, lambda one: one.home):
        of_slide = list(group)
        with slide_again(home, of_slide[0].result) as slide:
            _refuse_coarse(slide, cut)
            for one in of_slide:
                name = f"corrected/{len(lines):06d}.png"
                _save(slide, one, cut, folder / name)
                lines.append((name, one.label, one.group))
    return lines


def _refuse_coarse(slide: Slide, cut: Cut) -> None:
    coarsest = max(slide.mpp.x, slide.mpp.y)
    if coarsest > cut.mpp * FINEST:
        raise ModelMismatchError(
            slide.path,
            f"was scanned at {coarsest:.3g} µm/px, too coarse for tiles at {cut.mpp:g}",
            f"train at {coarsest:.3g} µm/px or more",
        )


def _save(slide: Slide, one: Example, cut: Cut, path: Path) -> None:
    size = Size(cut.side, cut.side)
    width, height = Field(0, 0, size, cut.mpp).extent(slide.mpp)
    field = Field(one.place.x - width / 2, one.place.y - height / 2, size, cut.mpp)
    Image.fromarray(slide.read_field(field).rgb).save(path, compress_level=1)
