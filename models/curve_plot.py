"""How a training went, as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coverslip.models.document import CurvePoint, ModelDocument
from coverslip.models.svg import GREY, INK, line, picture, polyline, text

WIDTH, HEIGHT, LEFT, TOP = 480, 300, 60, 50
PLOT_WIDTH, PLOT_HEIGHT = 380, 180
# Okabe and Ito (2008): apart for the colour-blind too.
LOSS, ACCURACY = "#0072b2", "#d55e00"


def draw_curve(document: ModelDocument, curve: Sequence[CurvePoint]) -> str:
    """SVG: loss, as a share of its largest, and balanced accuracy on the validation part, over epochs."""
    title = f"{document.name} {document.version}: training"
    return picture(WIDTH, HEIGHT, title, _lines(title, document.research_use, curve))


def _lines(title: str, notice: str, curve: Sequence[CurvePoint]) -> Iterator[str]:
    yield text(WIDTH / 2, 24, title, "middle")
    bottom, right = TOP + PLOT_HEIGHT, LEFT + PLOT_WIDTH
    yield line(LEFT, bottom, right, bottom, GREY)
    yield line(LEFT, TOP, LEFT, bottom, GREY)
    for share in (0.0, 0.5, 1.0):
        yield text(LEFT - 6, bottom - share * PLOT_HEIGHT + 4, f"{share:g}", "end", GREY)
    most = max((point.loss for point in curve), default=1.0) or 1.0
    yield _path([point.loss / most for point in curve], LOSS)
    yield _path([point.validation for point in curve], ACCURACY)
    yield text(LEFT, bottom + 20, "epoch 1", colour=GREY)
    yield text(right, bottom + 20, f"{len(curve)}", "end", GREY)
    yield text(LEFT + 12, TOP - 6, f"loss (1 is {most:.3g})", colour=LOSS)
    yield text(right, TOP - 6, "balanced accuracy on validation", "end", ACCURACY)
    yield text(WIDTH / 2, HEIGHT - 12, notice, "middle", INK)


def _path(values: Sequence[float], colour: str) -> str:
    step = PLOT_WIDTH / max(len(values) - 1, 1)
    return polyline(
        ((LEFT + number * step, TOP + PLOT_HEIGHT * (1 - value)) for number, value in enumerate(values)),
        colour,
    )
