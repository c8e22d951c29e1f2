"""Pictures of a whole batch: how its scores are distributed, and whether stain, focus or figures drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from coverslip.models.svg import GREY, INK, line, picture, text
from coverslip.workflows.result import SlideResult

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 340, 190, 48, 34, 12, 30
# Okabe and Ito (2008): apart for the colour-blind too.
DOT, APART, BAND = "#0072b2", "#d55e00", "#e8eef2"
# Of fewer slides there is no distribution to speak of.
FEWEST = 3
# Drawn charts of figures of the workflow: those that every report begins with.
MOST_FIGURES = 6
BINS = 10
# The spread of normal values is this times their median absolute deviation (Rousseeuw and Croux 1993,
# Journal of the American Statistical Association 88:1273); beyond three times that lie 0.3 % of them.
TO_SPREAD, LIMITS = 1.4826, 3.0
MOST_NAMED = 30


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A figure of each slide in the order of the run, float64 (n,), NaN where it has none."""

    title: str
    names: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def known(self) -> NDArray[np.float64]:
        return self.values[np.isfinite(self.values)]


@dataclass(frozen=True, slots=True)
class Limits:
    """What most slides of a batch lie between."""

    low: float
    median: float
    high: float


def limits(values: NDArray[np.float64]) -> Limits:
    """Median, and three times the robust spread to both sides.

    >>> limits(np.array([9.0, 10, 11, 10, 90]))
    Limits(low=5.5522, median=10.0, high=14.4478)
    """
    median = float(np.median(values))
    spread = LIMITS * TO_SPREAD * float(np.median(np.abs(values - median)))
    return Limits(median - spread, median, median + spread)


def batch_plots(results: Sequence[SlideResult]) -> list[Markup]:
    """SVG for a page: histograms of scores, then control charts; none of fewer than `FEWEST` slides."""
    plots = [
        histogram(series)
        for series in (
            _series(results, "triage score", lambda result: result.call and result.call.triage),
            _series(results, "confidence", lambda result: result.call and result.call.confidence),
        )
        if len(series.known) >= FEWEST
    ]
    charts = [*filter(_varies, _quality(results)), *_derived(results), *_figures(results)]
    return [Markup(plot) for plot in (*plots, *map(control_chart, charts))]


def _series(
    results: Sequence[SlideResult], title: str, figure: Callable[[SlideResult], float | None]
) -> Series:
    values = [figure(result) for result in results]
    names = tuple(result.slide.id for result in results)
    return Series(title, names, np.array([np.nan if v is None else v for v in values], np.float64))


def _quality(results: Sequence[SlideResult]) -> Iterator[Series]:
    kinds = sorted({kind for result in results for kind in result.quality.artefacts})
    for kind in kinds:
        yield from _enough(
            _series(
                results,
                f"{kind.replace('_', ' ')}, % of tissue",
                lambda result, kind=kind: _percent(result.quality.artefacts.get(kind)),
            )
        )
    yield from _enough(_series(results, "tissue, mm²", lambda result: result.quality.tissue_area_mm2))


def _derived(results: Sequence[SlideResult]) -> Iterator[Series]:
    """Numbers found on each slide, such as the glass's colour and how far the stain lies off its plane."""
    keys = sorted({key for result in results for key in result.provenance.derived})
    for key in keys:
        title = key.replace("_", " ")
        yield from _enough(
            _series(results, title, lambda result, key=key: _number(result.provenance.derived.get(key)))
        )


def _figures(results: Sequence[SlideResult]) -> Iterator[Series]:
    """The first measurements that half of the slides have."""
    units = {m.name: m.unit for result in results for m in result.measurements}
    made = 0
    for name, unit in units.items():
        shown = name if unit == "1" else f"{name}, {unit}"
        series = _series(results, shown, lambda result, name=name: _measured(result, name))
        if made < MOST_FIGURES and 2 * len(series.known) >= len(results):
            for one in _enough(series):
                made += 1
                yield one


def _enough(series: Series) -> Iterator[Series]:
    if len(series.known) >= FEWEST:
        yield series


def _varies(series: Series) -> bool:
    """Artefacts that no slide has need no picture."""
    return bool(series.known.max() > 0)


def _measured(result: SlideResult, name: str) -> float | None:
    return next((m.value for m in result.measurements if m.name == name), None)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _number(value: object) -> float | None:
    """Of a colour or another list of numbers, the mean."""
    if isinstance(value, (list, tuple)) and value and all(_is_number(part) for part in value):
        return float(np.mean(value))
    return float(value) if isinstance(value, (int, float)) and _is_number(value) else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def histogram(series: Series) -> str:
    """Of scores from 0 to 1."""
    counts = np.histogram(series.known, bins=BINS, range=(0, 1))[0]
    return picture(WIDTH, HEIGHT, series.title, _bars(series, counts))


def _bars(series: Series, counts: NDArray[np.int64]) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    wide, high = (right - LEFT) / len(counts), bottom - TOP
    yield text(LEFT, 20, f"{series.title}, {len(series.known)} slides")
    for number, count in enumerate(counts.tolist()):
        tall = high * count / max(1, int(counts.max()))
        x = LEFT + number * wide
        yield (
            f'<rect x="{x + 1:.1f}" y="{bottom - tall:.1f}" width="{wide - 2:.1f}" height="{tall:.1f}" '
            f'fill="{DOT}"><title>{count}</title></rect>'
        )
    yield line(LEFT, bottom, right, bottom, GREY)
    yield text(LEFT - 6, TOP + 10, str(int(counts.max())), "end", GREY)
    for share in (0.0, 0.5, 1.0):
        yield text(LEFT + share * (right - LEFT), bottom + 18, f"{share:g}", "middle", GREY)


def control_chart(series: Series) -> str:
    """A dot for each slide in the order of the run, with the limits of `limits`; those outside are named."""
    return picture(WIDTH, HEIGHT, series.title, _dots(series))


def _dots(series: Series) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    found = limits(series.known)
    low, high = _span(series.known, found)
    scale = (bottom - TOP) / (high - low)

    def down(value: float) -> float:
        return bottom - (value - low) * scale

    step = (right - LEFT - 12) / max(1, len(series.values) - 1)
    spread = found.high > found.low
    if spread:
        top, base = (down(min(max(value, low), high)) for value in (found.high, found.low))
        tall, wide = base - top, right - LEFT
        yield f'<rect x="{LEFT}" y="{top:.1f}" width="{wide}" height="{tall:.1f}" fill="{BAND}"/>'
    yield line(LEFT, down(found.median), right, down(found.median), GREY)
    places = [
        (LEFT + 6 + number * step, down(value), name, value)
        for number, (name, value) in enumerate(zip(series.names, series.values.tolist(), strict=True))
        if np.isfinite(value)
    ]
    apart = [place for place in places if spread and not found.low <= place[3] <= found.high]
    yield text(LEFT, 20, series.title + (f": {len(apart)} apart" if apart else ""))
    within = "".join(f"M{x:.1f} {y:.1f}h0" for x, y, *_ in places)
    yield f'<path d="{within}" stroke="{DOT}" stroke-width="6" stroke-linecap="round" fill="none"/>'
    for x, y, name, value in apart[:MOST_NAMED]:
        yield _named(x, y, f"{name}: {value:.4g}")
    for value in (low, high):
        yield text(LEFT - 6, down(value) + 4, f"{value:.3g}", "end", GREY)
    yield text(LEFT, bottom + 20, "first slide", colour=GREY)
    yield text(right, bottom + 20, "last", "end", GREY)


def _named(x: float, y: float, said: str) -> str:
    mark = picture_title(said)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{APART}" stroke="{INK}">{mark}</circle>'


def picture_title(said: str) -> str:
    """What is shown when one points at a mark; escaped."""
    return f"<title>{Markup.escape(said)}</title>"


def _span(values: NDArray[np.float64], found: Limits) -> tuple[float, float]:
    """What the chart shows: all values, and the limits as far as the values' own span allows.

    Not below 0 for what is never below; around equal values as much as they are large.
    """
    low, high = float(values.min()), float(values.max())
    wide = (high - low) or abs(high) or 1.0
    margin = 0.0 if high > low else wide / 2
    bottom = max(min(low, found.low), low - wide / 2) - margin
    top = min(max(high, found.high), high + wide / 2) + margin
    return (bottom if low < 0 else max(0.0, bottom)), top
