"""The focal planes of a slide, each as a slide of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from coverslip.wsi.slide import Slide


@contextmanager
def open_planes(slide: Slide) -> Iterator[tuple[Slide, ...]]:
    """Every focal plane, in the file's order, open at once; the one that `slide` shows is `slide` itself.

    Of a slide with one plane that is all. The others are closed at the end. Raises what `open_slide` does.
    """
    with ExitStack() as opened:
        yield tuple(
            slide
            if number == slide.facts.z_plane
            else opened.enter_context(replace(slide.ref, z=number).open())
            for number in range(slide.facts.z_planes)
        )
