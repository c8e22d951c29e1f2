"""The plots of an evaluation as SVG, drawn from its document alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from coverslip.models.confusion_plot import draw_counts
from coverslip.models.diagram import AFTER, draw_panels
from coverslip.models.svg import GREY, line, picture, polyline, text
from coverslip.ruo import RUO
from coverslip.workflows.evaluation.document import Curve, Evaluation
from coverslip.workflows.evaluation.froc import RATES
from coverslip.workflows.palette import class_colours

SIDE, LEFT, TOP, BELOW = 360, 60, 60, 80
# About the width of a letter at the plot's size.
LETTER = 7.5
# More classes than this are told apart by nobody, and a matrix of them is larger than a page.
MOST_CLASSES = 40
# False positives per slide that are shown, on a scale of doublings: the official rates, and one step around.
FEWEST, MOST = 0.125, 16.0


def draw_plots(evaluation: Evaluation) -> dict[str, str]:
    """File name → SVG text that has nothing to fetch, of all that can be drawn."""
    plots = {}
    confusion = evaluation.confusion
    said = f"{evaluation.answered} of {evaluation.slides} slides answered, {evaluation.groups} groups"
    if confusion is not None and len(confusion.classes) <= MOST_CLASSES:
        plots["confusion.svg"] = draw_counts(
            f"{evaluation.slides} slides",
            _said(evaluation, "balanced accuracy"),
            confusion.classes,
            confusion.called,
            confusion.counts,
        )
    if evaluation.curves and evaluation.task == "detection":
        plots["froc.svg"] = _draw_froc(said, evaluation)
    elif evaluation.curves:
        plots["roc.svg"] = _draw_roc(said, evaluation)
    if evaluation.calibration is not None:
        panel = ("slides that were answered", evaluation.calibration, AFTER)
        plots["calibration.svg"] = draw_panels(said, [panel], "slides")
    return plots


def _said(evaluation: Evaluation, name: str) -> str:
    """A figure of the answered slides with its interval."""
    for figure in evaluation.figures:
        if figure.name == name and figure.value is not None:
            ends = figure.interval
            spread = f" ({ends.low:.3f} to {ends.high:.3f}, {ends.level:.0%})" if ends else ""
            return f"{name} {figure.value:.3f}{spread}"
    return f"{name} not evaluable"


def _draw_roc(said: str, evaluation: Evaluation) -> str:
    one = len(evaluation.curves) == 1
    names = [
        _said(evaluation, "AUC" if curve.name == "positive" else f"AUC, {curve.name}")
        for curve in evaluation.curves[:MOST_CLASSES]
    ]
    colours = _colours(names)
    lines = [
        *_frame([(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)], "1 − specificity"),
        line(LEFT, TOP + SIDE, LEFT + SIDE, TOP, GREY),
    ]
    for curve, colour in zip(evaluation.curves, colours, strict=False):
        lines.append(polyline(((_x(x), _y(y)) for x, y in curve.points), colour))
    return _page("ROC" if one else "ROC, each class against all others", said, names, colours, lines)


def _draw_froc(said: str, evaluation: Evaluation) -> str:
    names = [_said(evaluation, "FROC score")]
    colours = _colours(names)
    ticks = [(_share(rate), f"{rate:g}") for rate in RATES]
    lines = [*_frame(ticks, "false positives per slide")]
    for curve, colour in zip(evaluation.curves, colours, strict=True):
        lines.append(polyline(_doublings(curve), colour))
        lines += [_dot(_x(_share(rate)), _y(_at(curve, [rate])[0]), colour) for rate in RATES]
    return _page("FROC", f"{said}; {evaluation.evaluator}", names, colours, lines)


def _at(curve: Curve, rates: Sequence[float]) -> list[float]:
    x, y = np.array(curve.points).T
    return np.interp(rates, x, y).tolist()


def _doublings(curve: Curve) -> list[tuple[float, float]]:
    """Points of the plot: a line between two points is bent on this scale, so there are some between."""
    inside = [(x, y) for x, y in curve.points if FEWEST <= x <= MOST]
    between = np.geomspace(FEWEST, MOST, 200).tolist()
    found = [*inside, *zip(between, _at(curve, between), strict=True)]
    # Stable: of points of one rate the curve's own order stays, from few to many found.
    return [(_x(_share(x)), _y(y)) for x, y in sorted(found, key=lambda point: (point[0], point[1]))]


def _share(rate: float) -> float:
    return float(np.log2(rate / FEWEST) / np.log2(MOST / FEWEST))


def _x(share: float) -> float:
    return LEFT + share * SIDE


def _y(share: float) -> float:
    return TOP + (1 - share) * SIDE


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'


def _frame(ticks: Sequence[tuple[float, str]], below: str) -> Iterator[str]:
    yield f'<rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="{GREY}"/>'
    for share, said in ticks:
        yield line(_x(share), _y(0), _x(share), _y(0) + 5, GREY)
        yield text(_x(share), _y(0) + 20, said, "middle")
    for share in (0, 0.5, 1):
        yield text(LEFT - 8, _y(share) + 4, f"{share:g}", "end")
    yield text(_x(0.5), _y(0) + 38, below, "middle")
    yield text(LEFT, TOP - 8, "sensitivity ↑")


def _colours(names: Sequence[str]) -> list[str]:
    return [f"#{red:02x}{green:02x}{blue:02x}" for _, (red, green, blue, _) in class_colours(names).values()]


def _page(title: str, said: str, names: Sequence[str], colours: Sequence[str], lines: Sequence[str]) -> str:
    key = LEFT + SIDE + 24
    width = max(key + LETTER * max(map(len, names)) + 24, LEFT + LETTER * max(len(said), len(RUO)) + 24)
    height = max(TOP + SIDE, TOP + 22 * len(names)) + BELOW
    return picture(
        round(width),
        height,
        f"{title}: {said}",
        [
            text(LEFT, 24, said),
            *lines,
            *(
                piece
                for number, (name, colour) in enumerate(zip(names, colours, strict=True))
                for piece in (
                    line(key - 16, TOP + 18 + 22 * number - 4, key - 4, TOP + 18 + 22 * number - 4, colour),
                    text(key, TOP + 18 + 22 * number, name),
                )
            ),
            text(LEFT, height - 12, RUO),
        ],
    )
