"""Which cells are of the tumour: all, those in what somebody outlined, or where a tile model says so."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError, SlideInformationError
from coverslip.tiling.geojson_reader import Regions, read_regions_file
from coverslip.workflows.memory import Kept
from coverslip.workflows.result import ModelIdentity
from coverslip.wsi import Field, Size, Slide

SUFFIXES = (".geojson", ".json")
MODEL_BATCH = 16
ANNOTATIONS_KEPT = 8

_REGIONS: Kept[Regions] = Kept(ANNOTATIONS_KEPT, lambda regions: 1)


class Tumour(Protocol):
    """A frozen value that crosses processes. Places are level-0 pixels."""

    @property
    def model(self) -> ModelIdentity | None: ...

    def settings(self) -> dict[str, Any]:
        """All that decides, as JSON values; of a file its digest."""
        ...

    def device(self) -> dict[str, str]: ...

    def check(self, slide: Slide) -> None:
        """Raises a SlideError or RequestError where it cannot be told on this slide."""
        ...

    def contains(self, slide: Slide, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]: ...

    def where(self, slide: Slide) -> str:
        """For reports: "cells in …"."""
        ...

    def regions(self, slide: Slide) -> Regions | None:
        """Its outlines, where it has some."""
        ...


@dataclass(frozen=True, slots=True)
class AllCells:
    """Nobody said where the tumour is."""

    model: ModelIdentity | None = None

    def settings(self) -> dict[str, Any]:
        return {"cells": "all"}

    def device(self) -> dict[str, str]:
        return {"device": "cpu", "precision": "float32"}

    def check(self, slide: Slide) -> None:
        """Nothing to be looked up."""

    def contains(self, slide: Slide, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.ones(len(x), bool)

    def where(self, slide: Slide) -> str:
        return "all tissue, not only tumour"

    def regions(self, slide: Slide) -> Regions | None:
        return None


@dataclass(frozen=True, slots=True)
class Annotated:
    """`path`: a GeoJSON file, or a folder with one for each slide. `digest`: sha256 of what is in it.
    `label`: the classification that is tumour, None for all areas."""

    path: str
    digest: str
    label: str | None

    @property
    def model(self) -> ModelIdentity | None:
        return None

    def settings(self) -> dict[str, Any]:
        return {"cells": "annotated", "annotation": self.digest, "class": self.label}

    def device(self) -> dict[str, str]:
        return {"device": "cpu", "precision": "float32"}

    def check(self, slide: Slide) -> None:
        self.regions(slide)

    def contains(self, slide: Slide, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        return self.regions(slide).contain(x, y)

    def where(self, slide: Slide) -> str:
        which = f", class {self.label}" if self.label else ""
        return f"the tumour annotated in {self._file(slide).name}{which}"

    def _file(self, slide: Slide) -> Path:
        folder = Path(self.path)
        if not folder.is_dir():
            return folder
        name = Path(slide.path).name
        for stem in (name, Path(name).stem):
            for suffix in SUFFIXES:
                if (folder / f"{stem}{suffix}").is_file():
                    return folder / f"{stem}{suffix}"
        raise SlideInformationError(
            slide.path,
            f"has no annotation in {self.path}",
            f"put {name}.geojson there, or leave the slide out",
        )

    def regions(self, slide: Slide) -> Regions:
        file = self._file(slide)
        return _REGIONS.get((str(file), self.digest, self.label), lambda: read_regions_file(file, self.label))


@dataclass(frozen=True, slots=True)
class ByModel:
    """Cells in tiles whose most probable class is this one. Tiles lie side by side from the scan's corner."""

    folder: str
    document_sha256: str
    model: ModelIdentity
    mpp: float
    size: int
    label: str
    number: int

    def settings(self) -> dict[str, Any]:
        return {
            "cells": "by model",
            "model": self.model.name,
            "document": self.document_sha256,
            "class": self.label,
        }

    def device(self) -> dict[str, str]:
        compute = asdict(self._engine().compute)
        return {key: str(value) for key, value in sorted(compute.items())}

    def check(self, slide: Slide) -> None:
        self._engine().package.check_fit(slide.path, self.mpp)

    def contains(self, slide: Slide, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        step_x, step_y = self.size * self.mpp / slide.mpp.x, self.size * self.mpp / slide.mpp.y
        column = np.floor((x - slide.bounds.x) / step_x).astype(np.int64)
        row = np.floor((y - slide.bounds.y) / step_y).astype(np.int64)
        tiles, of = np.unique(np.stack([row, column], axis=1), axis=0, return_inverse=True)
        corners = [
            (slide.bounds.x + round(c * step_x), slide.bounds.y + round(r * step_y))
            for r, c in tiles.tolist()
        ]
        return self._are_tumour(slide, corners)[of.ravel()] if corners else np.zeros(0, bool)

    def _are_tumour(self, slide: Slide, corners: list[tuple[int, int]]) -> NDArray[np.bool_]:
        size, found = Size(self.size, self.size), []
        for start in range(0, len(corners), MODEL_BATCH):
            part = corners[start : start + MODEL_BATCH]
            pixels = np.stack([slide.read_field(Field(x, y, size, self.mpp)).rgb for x, y in part])
            found.append(self._engine().examine(pixels).probabilities.argmax(axis=1) == self.number)
        return np.concatenate(found)

    def where(self, slide: Slide) -> str:
        return f"tiles that the model {self.model.name} calls {self.label}"

    def regions(self, slide: Slide) -> Regions | None:
        return None

    def _engine(self):
        from coverslip.workflows.tile_classes import engine_of

        return engine_of(self.folder, self.document_sha256)


def read_tumour(named: str | None, label: str | None) -> Tumour:
    """What the settings `tumour` and `tumour_class` name. Raises RequestError, ModelUnavailableError."""
    if named is None:
        return AllCells()
    path = Path(named)
    if path.suffix.lower() in SUFFIXES or (path.is_dir() and not (path / "model.json").is_file()):
        return Annotated(os.path.abspath(path), _digest(path), label)
    return _by_model(named, label)


def read_immune(named: str | None, label: str | None) -> Annotated | None:
    """Where somebody drew immune cells: areas of this class in the annotation `named`; None without one.

    Raises RequestError, also for a model: it does not say which immune cells belong to the tumour.
    """
    if named is None or label is None:
        return None
    found = read_tumour(named, label)
    if not isinstance(found, Annotated):
        raise RequestError("immune_class", "is of no use with a model", "draw tumour and immune cells")
    return found


def _digest(path: Path) -> str:
    """Of a file's bytes; of a folder's annotations, names and bytes."""
    try:
        if path.is_dir():
            files = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
            if not files:
                raise RequestError(str(path), "holds no GeoJSON", "put one there for each slide")
            parts = [f"{file.name}\0{_sha256(file)}" for file in files]
            return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
        return _sha256(path)
    except OSError as error:
        raise RequestError(str(path), f"cannot be read ({error})", "name a GeoJSON file") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_model(named: str, label: str | None) -> ByModel:
    from coverslip.workflows.tile_classes import tile_classes

    found = tile_classes(named)
    if label not in found.classes:
        said = f"has no class {label}" if label else "has several classes"
        known = ", ".join(found.classes)
        raise RequestError(named, said, f"name the one that is tumour as tumour_class: {known}")
    return ByModel(
        found.folder,
        found.document_sha256,
        found.model,
        found.grid.mpp,
        found.grid.size,
        label,
        found.classes.index(label),
    )
