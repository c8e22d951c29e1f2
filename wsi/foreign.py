"""Files no reader opens, told apart by their first bytes so that the user learns what to do with them."""

from __future__ import annotations

from dataclasses import dataclass

from coverslip.errors import SlideError, UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi.source import Source

CONVERT = "convert it to OME-TIFF, for example with QuPath or bfconvert"


@dataclass(frozen=True, slots=True)
class Foreign:
    """`is_slide`: a whole slide in a format not read here; else something that is no slide."""

    starts: bytes
    what: str
    remedy: str
    is_slide: bool


FOREIGN = (
    Foreign(b"SIS\0", "is the pixel part (ETS) of an Olympus VSI", f"{CONVERT}, from the .vsi", True),
    Foreign(b"\xd0\xcf\x11\xe0", "is a microscope file of Olympus (OIR, OIB) or Zeiss (ZVI)", CONVERT, True),
    Foreign(b"\x70\0\0\0", "is a Leica LIF", CONVERT, True),
    Foreign(b"ZISRAWFILE", "is a Zeiss CZI that OpenSlide does not open", CONVERT, True),
    Foreign(b"<DataObject", "is a Philips iSyntax", "export it as DICOM with Philips' software", True),
    Foreign(b"PK\x03\x04", "is a ZIP archive", "unpack it", False),
    Foreign(b"%PDF", "is a PDF document", "give the slide itself", False),
    Foreign(b"<!doctype html", "is a web page, perhaps an error page", "download the slide again", False),
    Foreign(b"<html", "is a web page, perhaps an error page", "download the slide again", False),
)


def unread(source: Source) -> SlideError:
    """The error for a file that every reader left alone."""
    head = source.head.lstrip().lower()
    for known in FOREIGN:
        if head.startswith(known.starts.lower()):
            kind = UnsupportedSlideError if known.is_slide else UnreadableSlideError
            return kind(source.path, known.what, known.remedy)
    return UnreadableSlideError(
        source.path,
        "is not a slide that any reader knows",
        f"check that it is whole; otherwise {CONVERT}",
    )
