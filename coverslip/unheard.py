"""What a library logs of matters that our own words are said about."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unheard(name: str, up_to: int = logging.CRITICAL) -> Iterator[None]:
    """Within the block, what this thread logs to the logger `name` goes nowhere, up to that level.

    Levels, handlers, other loggers, and what other threads log to this one, stay as they are.
    """
    thread = threading.get_ident()

    def heard(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > up_to

    logger = logging.getLogger(name)
    logger.addFilter(heard)
    try:
        yield
    finally:
        logger.removeFilter(heard)
