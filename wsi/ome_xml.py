"""What the XML of an OME-TIFF says of its image: channels, focal planes, µm/px."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import tifffile

from coverslip.errors import UnreadableSlideError
from coverslip.wsi.geometry import Mpp

# OME 2016-06 UnitsLength that occur for pixels; the default is µm.
UM_PER = MappingProxyType(
    {
        "µm": 1.0,
        "μm": 1.0,
        "um": 1.0,
        "nm": 1e-3,
        "pm": 1e-6,
        "Å": 1e-4,
        "mm": 1e3,
        "cm": 1e4,
        "m": 1e6,
        "in": 25400.0,
    }
)


@dataclass(frozen=True, slots=True)
class OmeImage:
    """`channels`: a name for each channel element, empty where it has none; `samples`: of the first;
    `z_um`: from one focal plane to the next."""

    name: str
    mpp: Mpp | None
    objective: float | None
    channels: tuple[str, ...]
    samples: int
    size_c: int
    z_um: float | None = None


def refuse_entities(text: str, subject: str) -> None:
    """Raise UnreadableSlideError for XML with entities: they can fill the memory or read other files."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UnreadableSlideError(subject, "its XML defines entities", "export it again without them")


def read_ome(text: str, number: int, subject: str) -> OmeImage:
    """The image of that number. Raises UnreadableSlideError when the XML is broken or lacks it."""
    refuse_entities(text, subject)
    try:
        root = tifffile.xml2dict(text)["OME"]
        image = _list(root["Image"])[number]
        pixels = image["Pixels"]
        channels = _list(pixels.get("Channel", []))
        return OmeImage(
            name=str(image.get("Name", "")),
            mpp=_mpp(pixels),
            objective=_objective(root, image),
            channels=tuple(str(channel.get("Name", "")) for channel in channels),
            samples=int(channels[0].get("SamplesPerPixel", 1)) if channels else 1,
            size_c=int(pixels["SizeC"]),
            z_um=_um(pixels, "Z"),
        )
    except (SyntaxError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableSlideError(
            subject, f"its OME-XML is broken ({type(error).__name__}: {error})", "export it again"
        ) from error


def _list(value: Any) -> list[Mapping[str, Any]]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _mpp(pixels: Mapping[str, Any]) -> Mpp | None:
    x, y = _um(pixels, "X"), _um(pixels, "Y")
    return Mpp(x, y, "ome PhysicalSize") if x and y else None


def _um(pixels: Mapping[str, Any], axis: str) -> float | None:
    """µm along one axis; None when it is not stated, not positive, or in a unit of no length ("pixel")."""
    size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
    if size is None or unit not in UM_PER:
        return None
    value = float(size) * UM_PER[unit]
    return value if 0 < value < float("inf") else None


def _objective(root: Mapping[str, Any], image: Mapping[str, Any]) -> float | None:
    """Nominal magnification of the objective the image names."""
    wanted = image.get("ObjectiveSettings", {}).get("ID")
    for instrument in _list(root.get("Instrument", [])):
        for objective in _list(instrument.get("Objective", [])):
            if objective.get("ID") == wanted and "NominalMagnification" in objective:
                return float(objective["NominalMagnification"])
    return None
