"""The reliability diagram as SVG: how sure a model is against how often it is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coverslip.models.doubt import Miscalibration, Reliability, ReliabilityBin
from coverslip.models.kinds import AnyDocument
from coverslip.models.svg import GREY, INK, line, picture, text
from coverslip.ruo import RUO

SIDE, MARGIN, BELOW, HISTOGRAM = 320, 60, 70, 60
# About the width of a letter at the plot's size.
LETTER = 7.5
# Okabe and Ito's vermilion and blue, told apart by the colour-blind too.
BEFORE, AFTER = "#d55e00", "#0072b2"


def draw_reliability(document: AnyDocument, reliability: Reliability) -> str:
    """Two panels, before and after the temperature, as `draw_panels`."""
    title = f"{document.name} {document.version}: {reliability.n} test tiles of {reliability.groups} groups"
    panels = (("before the temperature", reliability.before, BEFORE), ("after", reliability.after, AFTER))
    return draw_panels(title, panels, "tiles")


def draw_panels(title: str, panels: Sequence[tuple[str, Miscalibration, str]], noun: str) -> str:
    """A panel side by side for each name, figures and colour; SVG text without anything to fetch.

    Each shows a bar per bin, its height the share that is right; the mark on it is the bin's mean confidence,
    which lies on the diagonal's height where the model is calibrated. Below is how many each bin holds, as a
    share of the fullest. `noun`: what is counted.
    """
    width = max(len(panels) * (SIDE + MARGIN) + MARGIN, 2 * MARGIN + LETTER * max(len(title), len(RUO)))
    height = MARGIN + SIDE + HISTOGRAM + BELOW
    return picture(
        round(width),
        height,
        title,
        [
            text(MARGIN, 24, title),
            *(
                piece
                for number, panel in enumerate(panels)
                for piece in _panel(MARGIN + number * (SIDE + MARGIN), *panel, noun)
            ),
            text(MARGIN, height - 12, RUO),
        ],
    )


def _panel(left: int, name: str, found: Miscalibration, colour: str, noun: str) -> Iterator[str]:
    top, (low, high) = MARGIN, found.ece_interval
    yield text(left, top - 12, f"{name}: ECE {found.ece:.3f} ({low:.3f} to {high:.3f})")
    yield f'<rect x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" fill="none" stroke="{GREY}"/>'
    most, step = max(one.n for one in found.bins), SIDE / len(found.bins)
    for number, one in enumerate(found.bins):
        if one.n:
            yield from _bin(left + number * step, step, one, one.n / most, colour, noun)
    yield line(left, top + SIDE, left + SIDE, top, GREY)
    floor = top + SIDE + HISTOGRAM + 8
    for share in (0, 0.5, 1):
        yield text(left + share * SIDE, floor + 16, f"{share:g}", "middle")
        yield text(left - 6, top + (1 - share) * SIDE + 4, f"{share:g}", "end")
    yield text(
        left + SIDE / 2, floor + 32, "probability of the called class; share that is right ↑", "middle"
    )


def _bin(x: float, step: float, one: ReliabilityBin, share: float, colour: str, noun: str) -> Iterator[str]:
    right, sure = SIDE * (one.accuracy or 0), SIDE * (one.confidence or 0)
    bottom = MARGIN + SIDE
    told = f"{one.n} {noun}, sure {one.confidence:.3f}, right {one.accuracy:.3f}"
    yield (
        f'<rect x="{x + 1:.1f}" y="{bottom - right:.1f}" width="{step - 2:.1f}" height="{right:.1f}" '
        f'fill="{colour}" fill-opacity="0.7"><title>{told}</title></rect>'
    )
    yield line(x, bottom - sure, x + step, bottom - sure, INK)
    yield (
        f'<rect x="{x + 1:.1f}" y="{bottom + 8:.1f}" width="{step - 2:.1f}" '
        f'height="{HISTOGRAM * share:.1f}" fill="{GREY}"/>'
    )
