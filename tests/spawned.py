"""What tests run in a spawned process: it has to be found by its name there."""

from __future__ import annotations

from coverslip.wsi import Box, SlideRef


def mean_of(ref: SlideRef) -> float:
    """Mean of the first 256 × 256 pixels of level 0."""
    with ref.open() as slide:
        return float(slide.read(0, Box(0, 0, 256, 256)).rgb.mean())
