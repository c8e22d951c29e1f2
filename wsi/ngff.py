"""What OME-Zarr metadata say of an image: parsed, checked, not trusted.

Specifications: https://ngff.openmicroscopy.org/0.4/ and /0.5/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import UnreadableSlideError
from coverslip.wsi.geometry import Mpp

# UDUNITS names NGFF recommends, in µm.
UM_PER = MappingProxyType(
    {
        "angstrom": 1e-4,
        "picometer": 1e-6,
        "nanometer": 1e-3,
        "micrometer": 1.0,
        "millimeter": 1e3,
        "centimeter": 1e4,
        "decimeter": 1e5,
        "meter": 1e6,
        "inch": 25400.0,
    }
)
# Beyond this a length in any unit is nonsense; NaN fails the comparison too.
LARGEST_NUMBER = 1e15
MOST_LEVELS = 64
MOST_CHANNELS = 1024
COPY_AGAIN = "copy it again, or write it again with the program that made it"
CONVERT = "convert it to OME-Zarr 0.4 or 0.5 with the program that made it"


@dataclass(frozen=True, slots=True)
class Image:
    """One multiscale image as its metadata state it.

    `scale`, `translation`: of level 0, in the order of `axes` and in `units`; `scale` is None when the
    file states none. `paths`: of the levels, inside the store. `ours`: what Coverslip wrote beside it.
    """

    version: str
    name: str
    axes: tuple[str, ...]
    units: tuple[str | None, ...]
    paths: tuple[str, ...]
    scale: tuple[float, ...] | None
    translation: tuple[float, ...]
    channels: tuple[str, ...]
    colors: tuple[str, ...]
    ours: Mapping[str, Any]

    def mpp(self) -> Mpp | None:
        """None unless both axes state a scale and a unit of length."""
        um_x, um_y = (UM_PER.get(self.units[self.axes.index(axis)] or "") for axis in "xy")
        if self.scale is None or um_x is None or um_y is None:
            return None
        x, y = (self.scale[self.axes.index(axis)] for axis in "xy")
        return Mpp(x * um_x, y * um_y, "ome-zarr scale")

    def z_um(self) -> float | None:
        """From one focal plane to the next; None unless a scale and a unit of length are stated."""
        if "z" not in self.axes or self.scale is None:
            return None
        at = self.axes.index("z")
        um = UM_PER.get(self.units[at] or "")
        return None if um is None else self.scale[at] * um

    def origin_um(self) -> tuple[float, float]:
        """Where the centre of the first pixel lies, (y, x) µm; meaningless where `mpp` is None."""
        at = (self.axes.index("y"), self.axes.index("x"))
        y, x = (self.translation[n] * UM_PER.get(self.units[n] or "", 1.0) for n in at)
        return y, x


def demand(condition: bool, subject: str, problem: str) -> None:
    """Raises UnreadableSlideError, naming the problem, unless the condition holds."""
    if not condition:
        raise UnreadableSlideError(subject, f"is not valid OME-Zarr: {problem}", COPY_AGAIN)


def parse_image(subject: str, ome: Mapping[str, Any]) -> Image:
    """From the NGFF attributes, with `version` and ours (`coverslip`) among them.

    Raises UnreadableSlideError where they contradict the specification.
    """
    scales = ome["multiscales"][0]
    axes, units = _axes(subject, scales.get("axes"))
    datasets = scales.get("datasets")
    demand(
        isinstance(datasets, list)
        and 0 < len(datasets) <= MOST_LEVELS
        and all(isinstance(entry, dict) for entry in datasets),
        subject,
        "its datasets are no list of levels",
    )
    steps = [*_transforms(datasets[0]), *_transforms(scales)]
    scale, translation = _placement(subject, len(axes), steps)
    names, colors = _channels(ome.get("omero"))
    ours = ome.get("coverslip")
    return Image(
        version=ome["version"],
        name=str(scales.get("name", ""))[:256],
        axes=axes,
        units=units,
        paths=tuple(_inner_path(subject, entry.get("path")) for entry in datasets),
        scale=scale if any(step.get("type") == "scale" for step in steps) else None,
        translation=translation,
        channels=names,
        colors=colors,
        ours=ours if isinstance(ours, dict) else {},
    )


def _axes(subject: str, axes: Any) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Names and units of the axes, each of t, c, z, y, x at most once, y and x always."""
    demand(isinstance(axes, list) and all(isinstance(axis, dict) for axis in axes), subject, "it has no axes")
    names = tuple(str(axis.get("name")) for axis in axes)
    known = set(names) <= set("tczyx") and len(set(names)) == len(names) and {"y", "x"} <= set(names)
    demand(known, subject, f"its axes are {', '.join(names)[:80]}")
    units = (axis.get("unit") for axis in axes)
    return names, tuple(unit if isinstance(unit, str) else None for unit in units)


def _transforms(holder: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = holder.get("coordinateTransformations")
    return [step for step in found if isinstance(step, dict)] if isinstance(found, list) else []


def _placement(
    subject: str, rank: int, steps: Sequence[Mapping[str, Any]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and translation of level 0 after all steps: its own, then those of the whole image."""
    scale, translation = np.ones(rank), np.zeros(rank)
    for step in steps:
        value = step.get(str(step.get("type")))
        if step.get("type") == "scale":
            factor = _numbers(subject, rank, value, positive=True)
            scale, translation = scale * factor, translation * factor
        elif step.get("type") == "translation":
            translation = translation + _numbers(subject, rank, value, positive=False)
    return tuple(scale.tolist()), tuple(translation.tolist())


def _numbers(subject: str, rank: int, value: Any, *, positive: bool) -> NDArray[np.float64]:
    fits = isinstance(value, list) and len(value) == rank and all(_is_number(part) for part in value)
    fits = fits and (not positive or all(part > 0 for part in value))
    demand(fits, subject, "a transformation is not one possible number for each axis")
    return np.array(value, np.float64)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST_NUMBER


def _inner_path(subject: str, path: Any) -> str:
    """A path inside the store, or an error: it comes from the file and may point anywhere."""
    text = path if isinstance(path, str) else ""
    parts = PurePosixPath(text).parts
    safe = (
        bool(parts) and not text.startswith("/") and ".." not in parts and not re.search(r"[\\:\0?#]", text)
    )
    demand(safe, subject, f"the path {str(path)[:80]!r} of a level leads out of it")
    return text


def _channels(omero: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and colours of the channels as `omero` states them; both empty when it does not."""
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or not all(isinstance(channel, dict) for channel in channels):
        return (), ()
    names = tuple(str(channel.get("label", n))[:80] for n, channel in enumerate(channels[:MOST_CHANNELS]))
    colors = tuple(str(channel.get("color", "")).upper()[:8] for channel in channels[:MOST_CHANNELS])
    return names, colors
