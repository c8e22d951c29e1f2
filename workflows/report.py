"""The report of one slide: a view of its result, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import NDArray
from PIL import Image

from coverslip.ruo import RUO
from coverslip.workflows.result import Measurement, SlideResult

# UCUM as people write it.
SHOWN_UNITS = MappingProxyType({"1": "", "mm2": "mm²", "/mm2": "per mm²"})

JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image of the report: uint8 (height, width, 3) and what it shows."""

    pixels: NDArray[np.uint8]
    caption: str


def render_report(
    result: SlideResult, overview: Sequence[Picture], galleries: Mapping[str, Sequence[Picture]]
) -> str:
    """HTML. Everything from the slide's file is escaped; images are inside the page.

    `overview`: pictures of the whole slide; `galleries`: finding's name → pictures of its tiles.
    """
    return _page().render(result=result, ruo=RUO, overview=overview, galleries=galleries)


@cache
def _page() -> Template:
    """Compiled once: that takes longer than to fill it in."""
    environment = Environment(
        loader=PackageLoader("coverslip.workflows", "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(picture=_data_uri, number=format_value, interval=format_interval)
    return environment.get_template("report.html")


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    # Full chroma, so that thin outlines keep their colour. As PNG a page is four times as large, and its
    # pictures take as long to compress as a small slide takes to score.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def format_value(measurement: Measurement) -> str:
    """The value with its unit, to a sensible number of digits; what is not zero is never shown as zero.

    >>> format_value(Measurement(name="H-score", value=182.04, unit="1", method="m"))
    '182.0'
    >>> format_value(Measurement(name="positive", value=None, unit="%", method="m"))
    'not evaluable'
    """
    if measurement.value is None:
        return "not evaluable"
    size = abs(measurement.value)
    if measurement.value == int(measurement.value):
        number = f"{measurement.value:.0f}"
    elif size < 0.001:
        number = f"{measurement.value:.2g}"
    else:
        number = f"{measurement.value:.{1 if size >= 100 else 2 if size >= 1 else 4}f}"
    unit = SHOWN_UNITS.get(measurement.unit, measurement.unit)
    return f"{number} {unit}".strip()


def format_interval(measurement: Measurement) -> str:
    """`3.4 to 7.3 (95 % Wilson)`, or nothing."""
    interval = measurement.interval
    if interval is None:
        return ""
    return f"{interval.low:.3g} to {interval.high:.3g} ({100 * interval.level:g} % {interval.method})"
