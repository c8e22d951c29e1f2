"""Other packages' segmentation as finders: a label image in, objects out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.extras import require
from coverslip.models.objects import Objects, centroids, outlines_of

Scores = NDArray[np.floating] | None
Segment = Callable[[NDArray[np.uint8]], tuple[NDArray[np.integer], Scores]]


@dataclass(frozen=True, slots=True)
class ForeignFinder:
    """A `coverslip.models.objects.Finder` of nuclei by another package.

    `version`: of the package. `document_sha256`: of that and of all files that decide on what is found.
    `licence`: of the weights, as published. `compute`: for provenance. `segment`: RGB pixels at `mpp` to a
    label image (0 outside) and the score of label n at n - 1, None where the package gives none; threads
    share it.

    InstanSeg and Cellpose stretch the grey values of a picture by its own percentiles, as for their published
    weights: all of a picture decides a little on each object, and `margin` holds for all else only.
    """

    name: str
    version: str
    weights_sha256: str
    document_sha256: str
    licence: str
    mpp: float
    margin: int
    step: int
    compute: Mapping[str, str]
    segment: Segment
    classes: tuple[str, ...] = ("nucleus",)

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise RequestError(f"a picture {rgb.dtype} {rgb.shape}", "is not RGB", "give uint8 (h, w, 3)")
        # Of one colour nothing is left to stretch, and a network may take glass for nuclei.
        if rgb.size == 0 or (rgb == rgb[0, 0]).all():
            return objects_of(np.zeros(rgb.shape[:2], np.int32))
        return objects_of(*self.segment(rgb))


def objects_of(labels: NDArray[np.integer], score: Scores = None) -> Objects:
    """The objects of a label image (h, w), in the order of their numbers, which may leave gaps.

    `score`: of label n at n - 1; without it NaN. A label of no pixel is no object.
    """
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    place = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    place[numbers] = np.arange(1, len(numbers) + 1)
    dense = place[labels]
    outlines = outlines_of(dense)
    x, y = centroids(outlines)
    known = np.full(len(numbers), np.nan) if score is None else np.asarray(score)[numbers - 1]
    return Objects(x, y, outlines, np.zeros(len(numbers), np.intp), known.astype(np.float32), dense)


def digest_of(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_all(version: str, digests: Sequence[str]) -> str:
    """One sha256 of the package's version and the files' own."""
    return hashlib.sha256("\n".join((version, *digests)).encode()).hexdigest()


def keep_threads(threads: int | None) -> None:
    """Torch keeps one figure per calling thread, so each call sets it anew; None leaves torch's."""
    torch = require("torch")
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
