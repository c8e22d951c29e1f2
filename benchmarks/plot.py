"""The rows as a picture: python -m benchmarks.plot benchmarks.json benchmarks.png"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import log10
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.report import limit, read_rows, value
from benchmarks.rows import Row

# Drawn at twice the size it is shown at.
WIDTH, LINE, MARGIN, LABEL, VALUE = 1800, 44, 40, 640, 340
INK, PALE, PAPER = (30, 30, 30), (150, 150, 150), (255, 255, 255)
# The font that comes with Pillow has no sign for these.
DRAWN = str.maketrans({"≥": "at least", "≤": "at most", "×": "x", "–": "-", "µ": "u"})
# Okabe and Ito's blue and vermilion, told apart by the colour-blind too.
MET, MISSED = (0, 114, 178), (213, 94, 0)


class Sheet:
    """A white page that is written from top to bottom."""

    def __init__(self, lines: int):
        self.image = Image.new("RGB", (WIDTH, 2 * MARGIN + lines * LINE), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.y = MARGIN

    def text(self, x: float, text: str, size: int = 24, colour=INK) -> None:
        self.draw.text(
            (x, self.y + LINE / 2), text.translate(DRAWN), colour, ImageFont.load_default(size), anchor="lm"
        )

    def heading(self, text: str) -> None:
        self.text(MARGIN, text, 28)
        self.y += LINE

    def bar(self, label: str, length: float, mark: float, colour: tuple[int, int, int], said: str) -> None:
        """A line: label, bar of `length` of the room with a tick at `mark`, both 0 to 1, and the figures."""
        left, room = MARGIN + LABEL, WIDTH - 2 * MARGIN - LABEL - VALUE
        top, bottom = self.y + 8, self.y + LINE - 8
        self.text(MARGIN, label)
        self.draw.rectangle((left, top, left + max(2.0, length * room), bottom), colour)
        x = left + mark * room
        self.draw.line((x, top - 6, x, bottom + 6), INK, 4)
        self.text(WIDTH - MARGIN - VALUE + 20, said)
        self.y += LINE


def log_share(number: float, largest: float) -> float:
    """Where a number lies between 1 and the largest, on a logarithmic scale, 0 to 1."""
    return max(0.0, log10(max(number, 1.0)) / log10(largest))


def draw(rows: Sequence[Row]) -> Image.Image:
    """Above, what is to be reached, on a logarithmic scale from 1; below, what is not to be passed."""
    known = [row for row in rows if row.value is not None and row.limit]
    reach, keep = ([row for row in known if row.at_least is side] for side in (True, False))
    sheet = Sheet(len(known) + 5)
    sheet.heading("Times less than the peer (logarithmic); the mark is the limit to reach")
    largest = 1.1 * max([10.0, *(max(row.value or 0, row.limit or 0) for row in reach)])
    for row in reach:
        length, mark = log_share(row.value or 0, largest), log_share(row.limit or 0, largest)
        sheet.bar(row.work, length, mark, _colour(row), f"{value(row)}  {limit(row)}")
    sheet.y += LINE
    sheet.heading("Share of what is allowed; the mark is the limit not to pass")
    for row in keep:
        share = (row.value or 0) / (row.limit or 1)
        sheet.bar(row.work, min(1.0, share / 1.5), 1 / 1.5, _colour(row), f"{value(row)}  {limit(row)}")
    sheet.y += LINE
    sheet.text(MARGIN, "blue: met", 22, MET)
    sheet.text(MARGIN + 160, "orange: not met", 22, MISSED)
    return sheet.image


def _colour(row: Row) -> tuple[int, int, int]:
    return MET if row.met else MISSED


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    draw(read_rows(source)).save(target, optimize=True)
    print(f"drawn to {target}")


if __name__ == "__main__":
    main()
