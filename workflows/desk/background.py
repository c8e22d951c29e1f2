"""Work beside the window: done in turn on a thread of its own, its outcome delivered on the window's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from qtpy.QtCore import QObject, Signal

from coverslip.errors import CoverslipError

T = TypeVar("T")


class Background(QObject):
    """One thread. What was asked first is done first; outcomes arrive in that order."""

    _outcome = Signal(object)

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="coverslip-desk")
        self._closed, self._waiting = False, 0
        self._outcome.connect(self._deliver)

    @property
    def busy(self) -> bool:
        """Whether an outcome has yet to arrive."""
        return self._waiting > 0

    def do(
        self, work: Callable[[], T], then: Callable[[T], None], failed: Callable[[CoverslipError], None]
    ) -> None:
        """Call `work` there, and `then` here with what it gave, or `failed` with its typed error.

        Another exception is raised here. Nothing where this is closed; outcomes after closing are dropped.
        """
        if self._closed:
            return
        self._waiting += 1
        future = self._pool.submit(work)
        future.add_done_callback(lambda done: self._send((done, then, failed)))

    def _send(self, outcome: tuple[Future, Callable, Callable]) -> None:
        try:
            self._outcome.emit(outcome)
        except RuntimeError:  # the window is gone
            return

    def _deliver(self, outcome: tuple[Future[Any], Callable, Callable]) -> None:
        future, then, failed = outcome
        self._waiting -= 1
        if self._closed or future.cancelled():
            return
        error = future.exception()
        if isinstance(error, CoverslipError):
            failed(error)
        elif error is not None:
            raise error
        else:
            then(future.result())

    def close(self, *, finish: bool = False) -> None:
        """Wait for what was begun; what was not is left, with `finish` done too. No outcome arrives."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=not finish)


class Latest(QObject):
    """A background of which only the newest question is answered: an older outcome never arrives after it."""

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self._background = Background(self)
        self._number = 0

    @property
    def busy(self) -> bool:
        return self._background.busy

    def do(
        self, work: Callable[[], T], then: Callable[[T], None], failed: Callable[[CoverslipError], None]
    ) -> None:
        self._number += 1
        number = self._number

        def newest() -> T | None:
            return work() if number == self._number else None

        def deliver(outcome: T | None) -> None:
            if number == self._number and outcome is not None:
                then(outcome)

        def refuse(error: CoverslipError) -> None:
            if number == self._number:
                failed(error)

        self._background.do(newest, deliver, refuse)

    def forget(self) -> None:
        """No outcome of what was asked so far will arrive."""
        self._number += 1

    def close(self) -> None:
        self.forget()
        self._background.close()
