"""The confusion matrix as SVG: what each class was called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from coverslip.models.document import Metrics, ModelDocument
from coverslip.models.kinds import AnyDocument
from coverslip.models.svg import GREY, INK, picture, text
from coverslip.ruo import RUO

CELL, MARGIN, TOP, BELOW = 64, 24, 70, 50
# About the width of a letter at the plot's size; names longer than this are cut.
LETTER, MOST_LETTERS = 7.5, 24
# White to Okabe and Ito's blue.
EMPTY, FULL = (255, 255, 255), (0, 114, 178)
# From here on white is the more legible.
LIGHT_FROM = 0.8


def draw_confusion(document: AnyDocument, metrics: Metrics) -> str:
    """The test part of a model's document, as `draw_counts`."""
    noun = "tiles" if isinstance(document, ModelDocument) else "slides"
    names = [entry.name for entry in metrics.classes]
    title = f"{document.name} {document.version}: {metrics.n} test {noun} of {metrics.groups} groups"
    return draw_counts(title, _accuracy(metrics), names, names, metrics.confusion)


def draw_counts(
    title: str, said: str, names: Sequence[str], called: Sequence[str], counts: Sequence[Sequence[int]]
) -> str:
    """A square per pair of classes; SVG text without anything to fetch.

    A row is the true class, of `names`, a column the called one, of `called`. In a square stand how many
    there are and their share of the row, which is also its colour: the diagonal is what was called right.
    `said` stands below the title.
    """
    left = MARGIN + LETTER * max(len(_short(name)) for name in names) + 12
    bottom = TOP + CELL * len(names)
    width = max(left + CELL * len(called), MARGIN + LETTER * max(len(title), len(said), len(RUO))) + MARGIN
    # Names of columns are turned, so that they need their length above and below alike.
    names_below = LETTER * max(len(_short(name)) for name in called) * 0.71 + 16
    height = bottom + names_below + BELOW
    return picture(
        round(width),
        round(height),
        title,
        [
            text(MARGIN, 24, title),
            text(MARGIN, 46, said),
            *_squares(names, called, counts, left),
            *_rows(names, left),
            *_columns(called, left, bottom + 14),
            text(MARGIN, height - 34, "rows: what it is; columns: what it was called"),
            text(MARGIN, height - 12, RUO),
        ],
    )


def _accuracy(metrics: Metrics) -> str:
    low, high = metrics.interval
    return f"balanced accuracy {metrics.balanced_accuracy:.3f} ({low:.3f} to {high:.3f}, {metrics.level:.0%})"


def _squares(
    names: Sequence[str], called: Sequence[str], counts: Sequence[Sequence[int]], left: float
) -> Iterator[str]:
    for row, in_row in enumerate(counts):
        for column, count in enumerate(in_row):
            share = count / sum(in_row) if sum(in_row) else 0.0
            x, y = left + column * CELL, TOP + row * CELL
            told = f"{names[row]} called {called[column]}: {count}"
            yield (
                f'<rect x="{x:.1f}" y="{y}" width="{CELL}" height="{CELL}" fill="{_colour(share)}" '
                f'stroke="{GREY}"><title>{escape(told)}</title></rect>'
            )
            ink = "#ffffff" if share >= LIGHT_FROM else INK
            yield text(x + CELL / 2, y + CELL / 2, str(count), "middle", ink)
            yield text(x + CELL / 2, y + CELL / 2 + 18, f"{share:.0%}", "middle", ink)


def _rows(names: Sequence[str], left: float) -> Iterator[str]:
    for place, name in enumerate(names):
        yield text(left - 8, TOP + (place + 0.5) * CELL + 4, _short(name), "end")


def _columns(called: Sequence[str], left: float, bottom: float) -> Iterator[str]:
    for place, name in enumerate(called):
        x = left + (place + 0.5) * CELL
        yield f'<g transform="rotate(-45 {x:.1f} {bottom})">{text(x, bottom, _short(name), "end")}</g>'


def _colour(share: float) -> str:
    parts = (round(low + share * (high - low)) for low, high in zip(EMPTY, FULL, strict=True))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"
