"""Bags: the features of a slide's tiles, as `coverslip embed` and other programs keep them in HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.labels_file import Row, check_rows, numbered, raise_problems, read_rows

# CLAM, TRIDENT and STAMP name them so, Slideflow and older programs otherwise.
FEATURES = ("features", "feats")
AGAIN = "make it again, for example with: coverslip embed"


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """`features`: float32 (n, d), n at least 1. `coords`: int64 (n, 2), x and y of the tiles' corners in
    level-0 pixels; None where the file has none."""

    features: NDArray[np.float32]
    coords: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Origin:
    """What made features, as `coverslip embed` states it in their file: the encoder, the sha256 of its
    weights, and the tiles' side in pixels and µm/px."""

    encoder: str
    weights_sha256: str
    size: int
    mpp: float


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Slides whose class is known.

    `files`: of their features; `width`: features of a tile. `labels`: class numbers (n,) into `classes`;
    `groups`: group numbers (n,), of patients for example. `tiles`: in all. `sha256`: of the csv file.
    `origin`: of the features, None where the files do not say.
    """

    files: tuple[Path, ...]
    width: int
    labels: NDArray[np.intp]
    groups: NDArray[np.intp]
    classes: tuple[str, ...]
    tiles: int
    sha256: str
    origin: Origin | None = None


def read_bag(path: str | Path) -> Bag:
    """The datasets `features` (n, d) or (1, n, d), and `coords` (n, 2) if there.

    Raises RequestError for a file that is not such, or whose numbers are not finite.
    """
    path = Path(path)
    try:
        with h5py.File(path) as file:
            found = _dataset(path, file)
            features = np.asarray(found[...], np.float32).reshape(_shape(path, found))
            coords = _coords(file)
    except OSError as error:
        raise RequestError(str(path), f"is no HDF5 file that can be read ({error})", AGAIN) from error
    if not np.isfinite(features).all():
        raise RequestError(str(path), "holds features that are not finite numbers", AGAIN)
    if coords is not None and len(coords) != len(features):
        raise RequestError(str(path), f"has {len(features)} features and {len(coords)} coords", AGAIN)
    return Bag(features, coords)


def read_cohort(labels_csv: str | Path, group_column: str = "group") -> Cohort:
    """A csv file with the columns file, label and, if known, group: `file` holds a slide's features.

    Files are named relative to the csv's folder and lie in it; only their shapes are read.
    Raises RequestError that lists every problem with its line.
    """
    path = Path(labels_csv)
    rows, sha256 = read_rows(path, group_column, "slide")
    raise_problems(path, check_rows(rows, path.parent, "slide"))
    files = tuple(path.parent / row.file for row in rows)
    found, problems = _peeks(path.parent, rows)
    raise_problems(path, problems)
    shapes, origins = [peek.shape for peek in found], [peek.origin for peek in found]
    widths = {width for _, width in shapes}
    if len(widths) > 1:
        listed = ", ".join(
            f"{width} in {files[[w for _, w in shapes].index(width)].name}" for width in sorted(widths)
        )
        raise_problems(path, [f"the files hold features of different width: {listed}"])
    raise_problems(path, _mixed(rows, origins))
    classes = tuple(sorted({row.label for row in rows}))
    return Cohort(
        files,
        widths.pop(),
        np.array([classes.index(row.label) for row in rows], np.intp),
        numbered(row.group or f"\0{row.number}" for row in rows),
        classes,
        sum(count for count, _ in shapes),
        sha256,
        origins[0] if None not in origins else None,
    )


@dataclass(frozen=True, slots=True)
class _Peek:
    """`shape`: tiles, features of each."""

    shape: tuple[int, int]
    origin: Origin | None


def _peeks(folder: Path, rows: Sequence[Row]) -> tuple[list[_Peek], list[str]]:
    """Shape and origin of each file's features, and what is wrong with those that hold none."""
    found, problems = [], []
    for row in rows:
        try:
            found.append(_peek(folder / row.file))
        except RequestError as error:
            problems.append(f"line {row.number}: {row.file} {error.problem}")
    return found, problems


def _mixed(rows: Sequence[Row], origins: Sequence[Origin | None]) -> list[str]:
    """Features of two encoders may be equally wide, and mean nothing beside each other."""
    first: dict[Origin, str] = {}
    for row, origin in zip(rows, origins, strict=True):
        if origin is not None:
            first.setdefault(origin, row.file)
    if len(first) < 2:
        return []
    listed = ", ".join(
        f"{origin.encoder} (weights {origin.weights_sha256[:12]}…) on {origin.size} px at "
        f"{origin.mpp:g} µm/px in {file}"
        for origin, file in first.items()
    )
    return [f"the files hold features of different encoders, weights or tiles: {listed}"]


def _coords(file: h5py.File) -> NDArray[np.int64] | None:
    found = file.get("coords")
    return found[...].reshape(-1, 2).astype(np.int64) if isinstance(found, h5py.Dataset) else None


def _peek(path: Path) -> _Peek:
    try:
        with h5py.File(path) as file:
            found = _dataset(path, file)
            return _Peek(_shape(path, found), _origin(found))
    except OSError as error:
        raise RequestError(str(path), f"is no HDF5 file that can be read ({error})", AGAIN) from error


def _origin(found: h5py.Dataset) -> Origin | None:
    """None for the files of other programs, and those of earlier versions."""
    stated: Any = found.attrs
    try:
        encoder, sha256 = str(stated["encoder"]), str(stated["encoder_sha256"])
        return Origin(encoder, sha256, int(stated["tile_size"]), float(stated["tile_mpp"]))
    except (KeyError, TypeError, ValueError):
        return None


def _dataset(path: Path, file: h5py.File) -> h5py.Dataset:
    for name in FEATURES:
        found = file.get(name)
        if isinstance(found, h5py.Dataset):
            return found
    raise RequestError(str(path), f"has no dataset named {' or '.join(FEATURES)}", AGAIN)


def _shape(path: Path, found: h5py.Dataset) -> tuple[int, int]:
    shape = found.shape[1:] if len(found.shape) == 3 and found.shape[0] == 1 else found.shape
    if len(shape) != 2 or not min(shape) or found.dtype.kind != "f":
        raise RequestError(
            str(path), f"has features of shape {found.shape}, {found.dtype}, not (n, d) numbers", AGAIN
        )
    return int(shape[0]), int(shape[1])
