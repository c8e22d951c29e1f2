"""Finders of nuclei and cells by name: the classical one, and those of model packages."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from coverslip.models.library import locate_model
from coverslip.models.nuclei import NucleiSettings, find_nuclei, margin_um, measure_nuclei
from coverslip.models.objects import Finder, Objects, outlines_of
from coverslip.models.star_finder import StarFinder
from coverslip.tiling.stain import H_E, StainVectors, separate

CLASSICAL = "classical"
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


@lru_cache(maxsize=2)
def open_finder(name: str, threads: int | None = 1) -> Finder:
    """This process's finder of that name: "classical", or what `coverslip.models.library.locate_model` takes.

    Raises ModelUnavailableError.
    """
    return ClassicalFinder() if name == CLASSICAL else StarFinder(locate_model(name), threads=threads)
