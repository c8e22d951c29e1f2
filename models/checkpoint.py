"""What a training needs to go on where it was stopped."""

from __future__ import annotations

import hashlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from coverslip.atomic import replacing
from coverslip.extras import require


class Checkpoint:
    """A file beside the package in the making, for one request: another's is passed over, and replaced.

    It is read as tensors and plain values only, so that no file can run code.
    """

    def __init__(self, out: Path, request: str):
        """`out`: the package's folder to be; `request`: all that decides what comes of the training."""
        self.path = out.with_name(f".{out.name}.training")
        self._request = hashlib.sha256(request.encode()).hexdigest()

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where there is nothing whole of this request."""
        try:
            found = require("torch").load(self.path, weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, ValueError):
            return None
        return found["state"] if found.get("request") == self._request else None

    def save(self, state: dict[str, Any]) -> None:
        with replacing(self.path) as temporary:
            require("torch").save({"request": self._request, "state": state}, temporary)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
