"""Progress of a batch: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

# Without a terminal a line is written at most this often per slide: a night's log stays readable.
SECONDS_BETWEEN_LINES = 10.0


class Watcher(Protocol):
    """Who is told how far the batch is. All calls come from one thread."""

    def planned(self, slide: str, tiles: int) -> None: ...

    def advanced(self, slide: str, tiles: int) -> None: ...

    def finished(self, slide: str, word: str) -> None: ...


class Silent:
    """Tells nobody; for use from Python."""

    def planned(self, slide: str, tiles: int) -> None: ...

    def advanced(self, slide: str, tiles: int) -> None: ...

    def finished(self, slide: str, word: str) -> None: ...


@dataclass
class Lines:
    """Plain lines, for logs and pipes."""

    console: Console
    slides: int
    done: int = 0
    tiles: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    spoke: dict[str, float] = field(default_factory=dict)

    def planned(self, slide: str, tiles: int) -> None:
        self.tiles[slide] = (0, tiles, time.monotonic())
        self._say(f"{slide}: {tiles} tiles to look at")

    def advanced(self, slide: str, tiles: int) -> None:
        seen, total, start = self.tiles[slide]
        self.tiles[slide] = (seen + tiles, total, start)
        now = time.monotonic()
        if tiles and now - self.spoke.get(slide, start) >= SECONDS_BETWEEN_LINES:
            self.spoke[slide] = now
            rate = (seen + tiles) / max(now - start, 1e-6)
            left = (total - seen - tiles) / rate
            self._say(f"{slide}: {seen + tiles}/{total} tiles, {rate:.1f} tiles/s, about {left:.0f} s left")

    def finished(self, slide: str, word: str) -> None:
        self.done += 1
        self._say(f"[{self.done}/{self.slides}] {slide}: {word}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""


class _Speed(ProgressColumn):
    """Tiles per second of a slide; nothing for the batch."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} tiles/s" if speed and task.fields.get("tiles") else "")


class Bars:
    """One bar for the batch and one for each slide under way."""

    def __init__(self, console: Console, slides: int):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            _Speed(),
            TimeRemainingColumn(),
            console=console,
        )
        self._batch = self._progress.add_task("slides", total=slides)
        self._slides: dict[str, TaskID] = {}

    def planned(self, slide: str, tiles: int) -> None:
        self._slides[slide] = self._progress.add_task(f"  {slide}", total=max(tiles, 1), tiles=True)

    def advanced(self, slide: str, tiles: int) -> None:
        self._progress.advance(self._slides[slide], tiles)

    def finished(self, slide: str, word: str) -> None:
        if slide in self._slides:
            self._progress.remove_task(self._slides.pop(slide))
        self._progress.console.print(f"{slide}: {word}", markup=False, highlight=False)
        self._progress.advance(self._batch)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def watcher(console: Console, slides: int) -> Bars | Lines:
    """Bars where they can be drawn, lines where not."""
    return Bars(console, slides) if console.is_terminal else Lines(console, slides)
