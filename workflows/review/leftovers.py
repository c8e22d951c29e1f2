"""What killed processes leave half-written below a review."""

from __future__ import annotations

import time
from pathlib import Path

from coverslip.atomic import discard
from coverslip.workflows.outputs import REVIEW
from coverslip.workflows.review.presence import OPEN
from coverslip.workflows.review.signature import SIGNED
from coverslip.workflows.review.trail import HEAD

# A report is drawn in seconds, without the lock: another process may be at it.
DRAWN_WITHIN_S = 3600.0


def clear_leftovers(home: Path) -> None:
    """Call while the trail is held: heads and presences are written only then."""
    folder = home / REVIEW
    for pattern in (f".{HEAD}.*.tmp", f"{OPEN}/.*.tmp"):
        for path in list(folder.glob(pattern)):
            discard(path)
    for path in list((folder / SIGNED).glob(".*.tmp")):
        if time.time() - path.stat().st_mtime > DRAWN_WITHIN_S:
            discard(path)
