"""A screen for tests that open windows, where the machine has none."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from coverslip.errors import MissingExtraError
from coverslip.workflows.screen import has_screen, virtual_screen


@pytest.fixture(scope="session")
def screen() -> Iterator[None]:
    """Windows can be opened in this process from here on; the test is skipped where that cannot be.

    Qt ends a process whose screen goes away, so it is shut down first.
    """
    pytest.importorskip("napari")
    if importlib.util.find_spec("torch") is not None:
        import torch  # noqa: F401  # before Qt: after a window was shown, importing it has ended the process
    patch = pytest.MonkeyPatch()
    patch.setenv("NAPARI_CONFIG", "")
    if has_screen():
        yield
        patch.undo()
        return
    try:
        with virtual_screen() as environment:
            for key in ("DISPLAY", "QT_QPA_PLATFORM", "LIBGL_ALWAYS_SOFTWARE"):
                patch.setenv(key, environment[key])
            yield
            _shut_down_qt()
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    finally:
        patch.undo()


def _shut_down_qt() -> None:
    from qtpy.QtWidgets import QApplication

    app = QApplication.instance()
    if isinstance(app, QApplication):
        app.closeAllWindows()
        app.processEvents()
        app.shutdown()
