"""The pictures of docs/review.md: a run that is reviewed at a desk by clicks and keys.

`tools/review_pictures.py OUT` takes them of a run of `ihc --marker ki67` and writes docs/images/review-*.png.
Without a screen it starts one. The run is copied: nothing is written into it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))
WIDTH = 1400
HERE = "here"


def elsewhere(out: Path) -> int:
    """In a process with a screen, and napari's own defaults."""
    from coverslip.workflows.screen import virtual_screen

    with virtual_screen() as environment, tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(out, Path(folder) / "out", ignore=shutil.ignore_patterns("review")))
        environment |= {"NAPARI_CONFIG": "", "NAPARI_ASYNC": "0", "COVERSLIP_CONFIG": folder}
        return subprocess.run(
            [sys.executable, __file__, str(copy), HERE], env={**os.environ, **environment}, check=False
        ).returncode


def take(out: Path) -> None:
    from desks import answer, click, click_line, draw, press, settle

    from coverslip.workflows.desk.window import reviewing
    from coverslip.workflows.review.case import open_case
    from coverslip.workflows.review.corrections import Relabel
    from coverslip.workflows.review.reviewer import Reviewer

    home = max((out / "slides").iterdir(), key=lambda one: (one / "cells.parquet").stat().st_size)
    with open_case(home, Reviewer("Dr. Lee", "resident")) as colleague:
        colleague.correct(Relabel(of="cells", rows=(0, 1, 2), label="1+", why="weak"))
        with reviewing(out, Reviewer("Dr. Ada Berg", "pathologist")) as (_, desk):
            settle(desk)
            picture(desk, "worklist")
            desk.open_row(next(row for row in desk.worklist.rows if row.home == home))
            settle(desk)
            spot = desk.opened.base.result.findings[0].name
            click_line(desk, "finding", spot)
            picture(desk, "finding")
            click_line(desk, "measurement", "nuclei 2+")
            desk.gallery.select(1)
            settle(desk)
            press(desk, "4")
            press(desk, "0")
            press(desk, "X")
            side = desk.opened.scene.slide.size.width / 10
            draw(desk, (side, side), (3 * side, side), (3 * side, 3 * side), (side, 3 * side))
            answer(desk, "fold")
            picture(desk, "correct")
            desk.tabs.setCurrentWidget(desk.findings)
            settle(desk)
            picture(desk, "revised")
            press(desk, "S")
            desk.sign.comment.setPlainText("Fold excluded; one nucleus is 3+.")
            click(desk.sign.sign)
            settle(desk)
            desk.sign.said.setText(desk.sign.said.text().replace(str(out), "OUT"))
            picture(desk, "sign")


def picture(desk, name: str) -> None:
    """Of the window, small enough for a page."""
    from qtpy.QtWidgets import QApplication

    for _ in range(3):
        desk.viewer.screenshot(canvas_only=False, flash=False)
        QApplication.processEvents()
    rgb = desk.viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    image = Image.fromarray(rgb)
    image = image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS)
    file = IMAGES / f"review-{name}.png"
    image.quantize(96, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, optimize=True)
    print(file, file.stat().st_size // 1000, "kB", flush=True)


if __name__ == "__main__":
    if sys.argv[2:] == [HERE]:
        take(Path(sys.argv[1]))
    else:
        sys.exit(elsewhere(Path(sys.argv[1])))
