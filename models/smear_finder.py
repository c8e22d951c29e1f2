"""White cells by their purple nuclei, everything else of a smear by another finder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coverslip.models.objects import Finder, Objects
from coverslip.models.white_cells import WhiteCellFinder

WHITE_NAMES = frozenset({"wbc", "white cell", "white blood cell", "leukocyte", "leucocyte"})


@dataclass(frozen=True, slots=True)
class SmearFinder:
    """A `coverslip.models.objects.Finder` of what `other` finds, with the white cells of `white` for its own.

    `white` works at the resolution of `other`: make one with `smear_finder`. An object of `other` whose
    centroid lies on a white cell of `white` is left out: it is part of it, or the same.
    """

    other: Finder
    white: WhiteCellFinder

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of `other`, with white cells after them where it knows none."""
        known = self.other.classes
        return known if self.white_class in known else (*known, self.white_class)

    @property
    def white_class(self) -> str:
        """What `other` calls white cells, or what `white` does."""
        return next((name for name in self.other.classes if is_white(name)), self.white.classes[0])

    @property
    def mpp(self) -> float:
        return self.other.mpp

    @property
    def step(self) -> int:
        return self.other.step

    @property
    def margin(self) -> int:
        """The wider of both, in whole steps, so that a picture with this halo begins on one."""
        widest = max(self.other.margin, self.white.margin)
        return -(-widest // self.step) * self.step

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        others, white = self.other.find(rgb), self.white.find(rgb)
        number = self.classes.index(self.white_class)
        keep = np.flatnonzero((others.kind != number) & ~_on(white, others))
        return _joined(_chosen(others, keep), replace(white, kind=np.full(len(white), number, np.intp)))


def smear_finder(other: Finder) -> SmearFinder:
    """Of another finder's pictures."""
    return SmearFinder(other, WhiteCellFinder(mpp=other.mpp, step=other.step))


def is_white(name: str) -> bool:
    """Whether a finder's class of this name is white cells.

    >>> is_white("WBC"), is_white("RBC")
    (True, False)
    """
    return name.casefold() in WHITE_NAMES


def _on(white: Objects, others: Objects) -> NDArray[np.bool_]:
    """Whether the centroid of each other object lies on a white cell."""
    height, width = white.labels.shape
    if not (height and width):
        return np.zeros(len(others), bool)
    columns = np.clip(np.floor(others.x).astype(int), 0, width - 1)
    rows = np.clip(np.floor(others.y).astype(int), 0, height - 1)
    return white.labels[rows, columns] > 0


def _chosen(found: Objects, keep: NDArray[np.intp]) -> Objects:
    number = np.zeros(len(found) + 1, np.int32)
    number[keep + 1] = np.arange(1, len(keep) + 1)
    return Objects(
        found.x[keep],
        found.y[keep],
        [found.outlines[row] for row in keep.tolist()],
        found.kind[keep],
        found.score[keep],
        number[found.labels],
    )


def _joined(first: Objects, above: Objects) -> Objects:
    """The objects of both; where labels overlap, those of `above` are seen."""
    labels = np.where(above.labels > 0, above.labels + len(first), first.labels)
    return Objects(
        np.concatenate([first.x, above.x]),
        np.concatenate([first.y, above.y]),
        [*first.outlines, *above.outlines],
        np.concatenate([first.kind, above.kind]),
        np.concatenate([first.score, above.score]),
        labels.astype(np.int32),
    )
