"""What a slide is: formats, geometry, metadata, pixels."""

from coverslip.wsi.facts import Facts, Reader
from coverslip.wsi.geometry import Box, Field, Level, Mpp, Size
from coverslip.wsi.overview import Overview
from coverslip.wsi.pixels import Pixels, Raw
from coverslip.wsi.registry import readers
from coverslip.wsi.slide import Slide, SlideRef, open_slide

__all__ = [
    "Box",
    "Facts",
    "Field",
    "Level",
    "Mpp",
    "Overview",
    "Pixels",
    "Raw",
    "Reader",
    "Size",
    "Slide",
    "SlideRef",
    "open_slide",
    "readers",
]
