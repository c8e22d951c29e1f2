"""Libraries' own log lines: unheard where ours say it, and nothing else is silenced."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import tifffile

from coverslip.errors import UnreadableSlideError
from coverslip.unheard import unheard
from coverslip.wsi import open_slide


def test_only_this_thread_and_this_logger_are_unheard(caplog: pytest.LogCaptureFixture) -> None:
    logger, other = logging.getLogger("a.library"), logging.getLogger("another.library")
    before = logger.level, list(logger.handlers), list(logger.filters)
    with unheard("a.library", logging.WARNING):
        logger.warning("ours says it")
        logger.error("worse")
        other.warning("of another library")
        thread = threading.Thread(target=logger.warning, args=("of another thread",))
        thread.start()
        thread.join()
    logger.warning("afterwards")
    assert [record.message for record in caplog.records] == [
        "worse",
        "of another library",
        "of another thread",
        "afterwards",
    ]
    assert (logger.level, logger.handlers, logger.filters) == before


def test_of_a_tiff_that_was_cut_off_only_the_error_speaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The index lay behind what is there."""
    cut = tmp_path / "cut.svs"
    cut.write_bytes(b"II*\0" + (1_000_000).to_bytes(4, "little") + bytes(992))
    with pytest.raises(IndexError), tifffile.TiffFile(cut) as file:
        file.pages[0]
    assert {record.name for record in caplog.records} == {"tifffile"}
    caplog.clear()
    with pytest.raises(UnreadableSlideError):
        open_slide(cut)
    assert [record for record in caplog.records if record.name == "tifffile"] == []
