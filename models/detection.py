"""How well objects are found, and from which score on they are called found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.models.metrics import LEVEL, resampled
from coverslip.models.pictures import Picture
from coverslip.models.star_document import FinderMetrics, FoundClass
from coverslip.models.star_shapes import Stars, draw_stars, find_candidates, suppress_boxes

IOU = 0.5
SCORES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
# F1 that differ by less do not differ: the few pictures of a validation part do not tell them apart.
ALIKE = 0.005
OVERLAPS = (0.3, 0.4, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a network says of a picture: `objectness` (classes, h, w), `distances` (rays, h, w)."""

    picture: Picture
    objectness: NDArray[np.float32]
    distances: NDArray[np.float32]

    @property
    def are_boxes(self) -> bool:
        return self.picture.labels is None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """`scores`: least of each class; `overlap` as in `coverslip.models.star_document.FinderDocument`."""

    scores: tuple[float, ...]
    overlap: float


def objects_in(
    objectness: NDArray[np.float32],
    distances: NDArray[np.float32],
    shape: tuple[int, int],
    thresholds: Thresholds,
) -> tuple[Stars, NDArray[np.int32]]:
    """(objects, labels int32 (h, w) of `shape`, label n that of the n-th object). Boxes are drawn as the
    ellipses in them, the shape of a cell."""
    found = find_candidates(objectness, distances, min(thresholds.scores))
    found = found.take(np.flatnonzero(found.score >= np.asarray(thresholds.scores)[found.kind]))
    if distances.shape[0] == 4:
        found = suppress_boxes(found, thresholds.overlap)
        labels, drawn = draw_stars(found, shape, 1.0)
        return found, np.concatenate([[0], drawn + 1]).astype(np.int32)[labels]
    labels, drawn = draw_stars(found, shape, thresholds.overlap)
    return found.take(drawn), labels


def count_matches(seen: Seen, thresholds: Thresholds, classes: int) -> NDArray[np.int64]:
    """(classes, 3): objects there, found and matched, of one picture."""
    found, labels = objects_in(seen.objectness, seen.distances, seen.picture.rgb.shape[:2], thresholds)
    picture = seen.picture
    if picture.labels is None:
        iou = box_iou(found.boxes, picture.boxes)
    else:
        iou = label_iou(labels, picture.labels, len(found), len(picture))
    iou = np.where(found.kind[:, None] == picture.kinds[None], iou, 0)
    taken = match(iou, IOU)
    return np.stack(
        [
            np.bincount(picture.kinds, minlength=classes),
            np.bincount(found.kind, minlength=classes),
            np.bincount(found.kind[taken >= 0], minlength=classes),
        ],
        axis=1,
    )


def match(iou: NDArray[np.floating], least: float) -> NDArray[np.intp]:
    """For each object found (rows, surest first) the one there (column) it takes, or −1; each is taken once.

    >>> match(np.array([[0.6, 0.9], [0.0, 0.7]]), 0.5).tolist()
    [1, -1]
    """
    free = np.ones(iou.shape[1], bool)
    taken = np.full(len(iou), -1, np.intp)
    for row, shares in enumerate(iou):
        best = int(np.argmax(np.where(free, shares, -1))) if len(shares) else -1
        if best >= 0 and free[best] and shares[best] >= least:
            taken[row], free[best] = best, False
    return taken


def box_iou(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4) as x0, y0, x1, y1."""
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2, dtype=np.float64)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64) for boxes in (ones, others)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def label_iou(ones: NDArray[np.int32], others: NDArray[np.int32], n: int, m: int) -> NDArray[np.float64]:
    """Intersection over union (n, m) of the labels 1 to n of one image with 1 to m of another."""
    shared = np.bincount(
        (ones.astype(np.int64) * (m + 1) + others).ravel(), minlength=(n + 1) * (m + 1)
    ).reshape(n + 1, m + 1)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    return (shared / np.maximum(union, 1))[1:, 1:]


def f1(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """2 matched / (there + found), of (…, 3); NaN where there is neither (van Rijsbergen 1979)."""
    both = counts[..., 0] + counts[..., 1]
    return np.where(both > 0, 2 * counts[..., 2] / np.maximum(both, 1), np.nan)


def choose_thresholds(seen: Sequence[Seen], classes: int) -> Thresholds:
    """The least scores, class by class, and the overlap whose F1 is best on these pictures.

    Of scores that do equally well the middle one is taken: few pictures tell little between them, and the
    lowest would call what is next to nothing. Of overlaps the first.
    """
    best, chosen = -1.0, Thresholds((0.5,) * classes, 0.5)
    for overlap in OVERLAPS:
        tried = [
            sum(count_matches(one, Thresholds((score,) * classes, overlap), classes) for one in seen)
            for score in SCORES
        ]
        figures = np.nan_to_num(f1(np.stack(tried)))
        if figures.max(axis=0).mean() > best:
            best = float(figures.max(axis=0).mean())
            chosen = Thresholds(tuple(_middle(column) for column in figures.T), overlap)
    return chosen


def _middle(figures: NDArray[np.float64]) -> float:
    """Of the scores whose figure is as good as the best, that in the middle."""
    rows = np.flatnonzero(figures > figures.max() - ALIKE)
    return SCORES[int(rows[len(rows) // 2])]


def measure_detection(
    seen: Sequence[Seen],
    groups: NDArray[np.intp],
    thresholds: Thresholds,
    classes: tuple[str, ...],
    data: str,
) -> FinderMetrics:
    """All figures of pictures (n,) with their groups (n,)."""
    counts = np.stack([count_matches(one, thresholds, len(classes)) for one in seen])
    names, where = np.unique(groups, return_inverse=True)
    per_group = np.zeros((len(names), len(classes), 3), np.int64)
    np.add.at(per_group, where, counts)
    draws = np.stack([f1(np.tensordot(times, per_group, 1)) for times in resampled(len(names), 0)])
    bounds = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return FinderMetrics(
        data=data,
        pictures=len(seen),
        groups=len(names),
        iou=IOU,
        classes=tuple(
            _of_class(name, counts[:, number], bounds[:, number]) for number, name in enumerate(classes)
        ),
    )


def _of_class(name: str, counts: NDArray[np.int64], bounds: NDArray[np.float64]) -> FoundClass:
    there, found, matched = (int(count) for count in counts.sum(axis=0))
    known = there + found > 0
    return FoundClass(
        name=name,
        there=there,
        found=found,
        matched=matched,
        f1=float(f1(counts.sum(axis=0))) if known else None,
        interval=(float(bounds[0]), float(bounds[1])) if known else None,
        precision=matched / found if found else None,
        recall=matched / there if there else None,
        count_error=float(np.abs(counts[:, 1] - counts[:, 0]).sum() / there) if there else None,
        total_error=(found - there) / there if there else None,
    )
