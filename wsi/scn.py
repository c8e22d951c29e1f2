"""Leica SCN: where its one scanned area lies on the slide, from the XML in its first image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tifffile

from coverslip.wsi.geometry import Size
from coverslip.wsi.ome_xml import refuse_entities

# What reading a value that is not there, or is no number, raises.
XML_ERRORS = (SyntaxError, KeyError, TypeError, AttributeError, ValueError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class ScnLevel:
    """`size` of the area's image, and the pixel of the level at which it begins."""

    size: Size
    origin: tuple[int, int]


def scn_levels(description: str) -> tuple[ScnLevel, ...]:
    """Largest first; none where there are several areas, or the XML is not Leica's.

    Offsets are in nm; the pixel is that which OpenSlide takes, by the width alone and rounded down
    (openslide-vendor-leica.c).
    """
    try:
        refuse_entities(description, "SCN")
        collection = tifffile.xml2dict(description)["scn"]["collection"]
        main = [image for image in _list(collection["image"]) if _is_area(image, collection)]
        if len(main) != 1:
            return ()
        dimensions = [one for one in _list(main[0]["pixels"]["dimension"]) if str(one.get("z", 0)) == "0"]
        dimensions.sort(key=lambda one: int(one["sizeX"]), reverse=True)
        return tuple(_level(one, main[0]["view"]) for one in dimensions)
    except XML_ERRORS:
        return ()


def _is_area(image: Mapping[str, Any], collection: Mapping[str, Any]) -> bool:
    """Brightfield, and not the picture of the whole slide."""
    view = image["view"]
    whole = all(int(view[key]) == int(collection[key]) for key in ("sizeX", "sizeY"))
    source = image["scanSettings"]["illuminationSettings"]["illuminationSource"]
    return source == "brightfield" and not (whole and int(view["offsetX"]) == int(view["offsetY"]) == 0)


def _level(dimension: Mapping[str, Any], view: Mapping[str, Any]) -> ScnLevel:
    width, height = int(dimension["sizeX"]), int(dimension["sizeY"])
    nm_per_pixel = int(view["sizeX"]) / width
    x, y = (int(int(view[key]) / nm_per_pixel) for key in ("offsetX", "offsetY"))
    return ScnLevel(Size(width, height), (x, y))


def _list(value: Any) -> list[Mapping[str, Any]]:
    return list(value) if isinstance(value, list | tuple) else [value]
