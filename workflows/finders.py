"""Finders of nuclei and cells by name: the classical one, those of model packages and of other packages."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from coverslip.models.foreign_finder import ForeignFinder
from coverslip.models.foreign_name import is_foreign, parse_foreign
from coverslip.models.library import locate_model
from coverslip.models.nuclei import NucleiSettings, find_nuclei, margin_um, measure_nuclei
from coverslip.models.objects import Finder, Objects, outlines_of
from coverslip.models.smear_finder import smear_finder
from coverslip.models.star_finder import StarFinder
from coverslip.models.white_cells import WhiteCellFinder
from coverslip.tiling.stain import H_E, StainVectors, separate

CLASSICAL = "classical"
# Of smears: white cells by purple nuclei, and "white-cells+NAME" with everything else by that finder.
WHITE_CELLS = "white-cells"
# Finds fewer that are no nuclei on H&E, where cytoplasm and fibres take haematoxylin too (see
# NucleiSettings.contrast).
ON_HE = NucleiSettings(dab_weight=0.0, threshold=0.2, contrast=0.1)


@dataclass(frozen=True, slots=True)
class ClassicalFinder:
    """Watershed on the haematoxylin of `stains`, as QuPath does it; see `coverslip.models.nuclei`."""

    settings: NucleiSettings = field(default_factory=lambda: ON_HE)
    stains: StainVectors = H_E
    mpp: float = 0.5
    classes: tuple[str, ...] = ("nucleus",)
    step: int = 1

    @property
    def margin(self) -> int:
        return ceil(margin_um(self.settings) / self.mpp)

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        amounts = separate(rgb, self.stains)
        haematoxylin, second = (np.ascontiguousarray(amounts[..., channel]) for channel in (0, 1))
        labels = find_nuclei(haematoxylin, second, self.mpp, self.settings)
        found = measure_nuclei(labels, haematoxylin, second, self.mpp)
        return Objects(
            found.x,
            found.y,
            outlines_of(labels),
            np.zeros(len(found), np.intp),
            np.full(len(found), np.nan, np.float32),
            labels,
        )


def settle_finder(name: str) -> str:
    """The same finder by a name that holds in every folder: of one on disk its absolute path.

    Raises ModelUnavailableError, RequestError.
    """
    if name in (CLASSICAL, WHITE_CELLS):
        return name
    first, plus, other = name.partition("+")
    if plus and first == WHITE_CELLS:
        return f"{first}+{settle_finder(other)}"
    return str(parse_foreign(name)) if is_foreign(name) else os.path.abspath(locate_model(name))


@lru_cache(maxsize=2)
def open_finder(name: str, threads: int | None = 1) -> Finder:
    """This process's finder of that name.

    "classical"; for smears "white-cells", or "white-cells+" and the name of another; what
    `coverslip.models.library.locate_model` takes; or a model of another package as in
    `coverslip.models.foreign_name`, such as "stardist:2D_versatile_he".
    Raises ModelUnavailableError, RequestError, MissingExtraError.
    """
    if name == CLASSICAL:
        return ClassicalFinder()
    first, plus, other = name.partition("+")
    if first == WHITE_CELLS:
        return smear_finder(open_finder(other, threads)) if plus else WhiteCellFinder()
    if is_foreign(name):
        return _open_foreign(name, threads)
    return StarFinder(locate_model(name), threads=threads)


def _open_foreign(text: str, threads: int | None) -> ForeignFinder:
    name = parse_foreign(text)
    module = importlib.import_module(f"coverslip.models.{name.package}_finder")
    return getattr(module, f"open_{name.package}")(name, threads)
