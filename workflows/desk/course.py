"""The way through a review queue, one suggestion after the other."""

from __future__ import annotations

from coverslip.workflows.review.queue import Suggestion


class Course:
    """Empty where no queue is walked."""

    def __init__(self, queue: tuple[Suggestion, ...] = ()):
        self._queue, self._at = queue, 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def now(self) -> Suggestion:
        return self._queue[self._at]

    @property
    def told(self) -> str:
        """Where one is, and why one is here; "" where no queue is walked."""
        if not self._queue:
            return ""
        one = self.now
        place = f"{self._at + 1} of {len(self._queue)} to review: {one.why}"
        return f"{place}; machine: {one.label or 'no class'}."

    def step(self, by: int) -> bool:
        """Whether there is one."""
        if not 0 <= self._at + by < len(self._queue):
            return False
        self._at += by
        return True
