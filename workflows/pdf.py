"""A report as PDF, laid out by WeasyPrint: the same page as one prints, without a browser."""

from __future__ import annotations

import io
import logging
import os
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from PIL import ImageFile

from coverslip.atomic import replacing
from coverslip.errors import MissingExtraError, RequestError
from coverslip.extras import require
from coverslip.unheard import unheard

# On the screen these move the view of the slide; on paper they lead to its picture, which bears the numbers.
PLACE_LINK = re.compile(r'href="#(?:place|finding)=\d+"')
PICTURE = 'href="#slide"'
SYSTEM = "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"


def write_pdf(page: str | os.PathLike[str], file: Path) -> None:
    """The HTML file `page` as PDF. The same page gives the same bytes, and nothing but it is read.

    Raises MissingExtraError where WeasyPrint or the system's Pango library is not installed, RequestError
    where there is no folder for the file.
    """
    if not file.parent.is_dir():
        raise RequestError(str(file), f"there is no folder {file.parent}", "make it first")
    weasyprint = _weasyprint()
    # What a report shows it holds: nothing is fetched, whatever a name in it may look like.
    fetcher = require("weasyprint.urls").URLFetcher(allowed_protocols={"data"})
    text = PLACE_LINK.sub(PICTURE, Path(page).read_text(encoding="utf-8"))
    # It logs each line of the style that is for screens alone.
    with unheard("weasyprint", logging.WARNING), replacing(file) as temporary:
        html = weasyprint.HTML(string=text, base_url="about:blank", url_fetcher=fetcher)
        html.write_pdf(os.fspath(temporary), pdf_identifier=b"coverslip")


def _weasyprint() -> Any:
    """As it loads, it prints advice, which would stand among this program's output, and lets Pillow take
    cut-off images in all of this process, where a damaged tile must be told from a whole one."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with redirect_stdout(io.StringIO()):
            return require("weasyprint")
    except OSError as error:
        raise MissingExtraError(
            "weasyprint",
            f"lacks a library of the system ({str(error).splitlines()[0]})",
            f"install Pango; on Debian: apt-get install {SYSTEM}",
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
