"""The report of one slide: a view of its result, in one HTML file that needs nothing else.

At most 6 MB: of pictures 1.3 MB for the whole slide and 1.9 MB for places (a third more as base64), outlines
half a megabyte, a reviewer's as much, the rest text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from coverslip.atomic import replacing
from coverslip.errors import RequestError, SlideError, StoreIncompleteError
from coverslip.ruo import RUO
from coverslip.workflows.deep_zoom import DeepZoom, Named, Pair, deep_zoom
from coverslip.workflows.files import output_digest, write_json
from coverslip.workflows.outputs import ANNOTATIONS, REPORT, RESULT, STORE, read_result
from coverslip.workflows.pictures import format_score
from coverslip.workflows.result import Measurement, SlideResult
from coverslip.workflows.workflow import ClassMap
from coverslip.wsi import Slide, open_slide

# UCUM as people write it.
SHOWN_UNITS = MappingProxyType({"1": "", "mm2": "mm²", "/mm2": "per mm²", "um2": "µm²", "um": "µm"})


def write_report(
    home: Path,
    result: SlideResult,
    slide: Slide,
    class_map: ClassMap | None = None,
    corner: Pair = (0.0, 0.0),
) -> None:
    """`report.html` in a result's folder, from what lies there; `slide`, `class_map` and `corner` serve where
    the folder holds no copy of the slide."""
    store = home / STORE
    if store.is_dir():
        with open_slide(store) as copied:
            zoom = deep_zoom(result, copied, store, home / ANNOTATIONS)
    else:
        zoom = deep_zoom(result, slide, store, home / ANNOTATIONS, class_map, corner)
    _write(home, render_report(result, zoom))


def write_report_again(home: Path) -> SlideResult:
    """Render `report.html` from the result alone, nothing computed; its digest in `result.json` follows.

    Where neither the copy nor the slide is there, without pictures. Raises StoreIncompleteError or
    StoreVersionError for a result that cannot be read, RequestError for one that is signed.
    """
    result = read_result(home)
    if result.review is not None:
        raise RequestError(str(home), "is signed, and stays as it is", "sign again to amend it")
    _write(home, page_of(home, result))
    outputs = {**result.outputs, REPORT: output_digest(home / REPORT)}
    if outputs != result.outputs:
        result = result.model_copy(update={"outputs": outputs})
        write_json(home / RESULT, result.model_dump(mode="json"))
    return result


def page_of(home: Path, result: SlideResult, drawn: Sequence[Named] = ()) -> str:
    """The report of `result`, with pictures from the result's folder `home`, or from the slide.

    `drawn`: outlines of a reviewer beside those of the machine. Raises StoreIncompleteError.
    """
    if not (home / STORE).is_dir():
        return _of_original(home, result, drawn)
    try:
        with open_slide(home / STORE) as copied:
            zoom = deep_zoom(result, copied, home / STORE, home / ANNOTATIONS, drawn=drawn)
    except SlideError as error:
        raise StoreIncompleteError(str(home / STORE), error.problem, "run again") from error
    return render_report(result, zoom)


def _of_original(home: Path, result: SlideResult, drawn: Sequence[Named]) -> str:
    mpp = result.slide.mpp
    try:
        with open_slide(result.slide.path, mpp=(mpp.x, mpp.y)) as slide:
            size = slide.size.width, slide.size.height
            zoom = deep_zoom(result, slide, home / STORE, home / ANNOTATIONS, drawn=drawn)
    except (SlideError, OSError):
        return render_report(result, None)
    return render_report(result, zoom if size == result.slide.size else None)


def _write(home: Path, page: str) -> None:
    with replacing(home / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_report(result: SlideResult, zoom: DeepZoom | None) -> str:
    """HTML. Everything from the slide's file is escaped; images are inside the page, nothing is fetched.

    The page's Content-Security-Policy lets run only the script that is here. `zoom`: None for a report
    without pictures.
    """
    # In the order a result has on disk: the same page, whether it is rendered with the run or later.
    result = SlideResult.model_validate_json(json.dumps(result.model_dump(mode="json"), sort_keys=True))
    style, script = template_text("report.css").replace("RUO", RUO), template_text("report.js")
    return (
        environment()
        .get_template("report.html")
        .render(
            result=result,
            review=result.review,
            before=_before(result),
            ruo=RUO,
            zoom=zoom,
            style=Markup(style),
            script=Markup(script),
            policy=content_policy(style, script if zoom else None),
        )
    )


def _before(result: SlideResult) -> dict[str, Measurement]:
    """What the machine had measured, by name, where a reviewer's corrections changed it."""
    return {one.name: one for one in result.review.machine_measurements} if result.review else {}


@cache
def environment() -> Environment:
    """Templates compiled once: that takes longer than to fill them in."""
    made = Environment(
        loader=PackageLoader("coverslip.workflows", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    made.filters.update(
        number=format_value,
        interval=format_interval,
        score=format_score,
        cutoff=format_cut_off,
        document=_document,
        safe_json=safe_json,
    )
    return made


@cache
def template_text(name: str) -> str:
    return (files("coverslip.workflows") / "templates" / name).read_text(encoding="utf-8")


@cache
def content_policy(style: str, script: str | None) -> str:
    """What a page may do: show pictures that it holds, this style, this script, and nothing else."""
    rules = ["default-src 'none'", "img-src data:", f"style-src {_hash(style)}"]
    rules += [f"script-src {_hash(script)}"] if script else []
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def safe_json(value: Any) -> Markup:
    """JSON for a script element: no `<`, so that nothing in it can end the element.

    >>> str(safe_json({"a": "</script>"}))
    '{"a":"\\\\u003c/script>"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _document(value: Mapping[str, Any]) -> str:
    """Nested values as YAML, which is shorter than JSON; innermost lists on one line."""
    plain = json.loads(json.dumps(value, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def format_value(measurement: Measurement) -> str:
    """The value with its unit, to a sensible number of digits; what is not zero is never shown as zero.

    >>> format_value(Measurement(name="H-score", value=182.04, unit="1", method="m"))
    '182.0'
    >>> format_value(Measurement(name="positive", value=None, unit="%", method="m"))
    'not evaluable'
    """
    if measurement.value is None:
        return "not evaluable"
    unit = SHOWN_UNITS.get(measurement.unit, measurement.unit)
    return f"{format_number(measurement.value)} {unit}".strip()


def format_number(value: float) -> str:
    size = abs(value)
    if value == int(value):
        return f"{value:.0f}"
    if size < 0.001:
        return f"{value:.2g}"
    return f"{value:.{1 if size >= 100 else 2 if size >= 1 else 4}f}"


def format_interval(measurement: Measurement) -> str:
    """`3.4 to 7.3 (95 % Wilson)`, or nothing."""
    interval = measurement.interval
    if interval is None:
        return ""
    low, high = (f"{end:.3g}" if abs(end) < 1000 else f"{end:.0f}" for end in (interval.low, interval.high))
    return f"{low} to {high} ({100 * interval.level:g} % {interval.method})"


def format_cut_off(value: Any) -> str:
    """A guideline's value as people read it: lists with commas, tables as name and value, bands by their end.

    >>> format_cut_off({"low": 5, "high": [30, 40]})
    'low 5; high 30, 40'
    >>> format_cut_off([{"name": "low", "at_most": 5}, {"name": "some", "below": 30}, {"name": "high"}])
    'low: up to 5; some: below 30; high: the rest'
    """
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, (list, tuple)) and all(isinstance(one, Mapping) and "name" in one for one in value):
        return "; ".join(_band(one) for one in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {format_cut_off(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(format_cut_off(item) for item in value)
    return str(value)


def _band(band: Mapping[str, Any]) -> str:
    """How far it reaches; what stands in the worklist and in sentences follows from it."""
    ends = [f"{word} {band[key]}" for key, word in (("below", "below"), ("at_most", "up to")) if key in band]
    return f"{band['name']}: {', '.join(ends) or 'the rest'}"
