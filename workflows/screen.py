"""A screen for windows where there is none: Xvfb for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from coverslip.errors import MissingExtraError

GET_XVFB = "install it (Debian, Ubuntu: apt-get install xvfb libgl1-mesa-dri libxcb-cursor0)"
# Seconds an X server may take to start, or to end when asked to, on a machine busy with other work.
PATIENCE_S = 60


def has_screen() -> bool:
    """Whether this process can open a window: on Linux only where DISPLAY or WAYLAND_DISPLAY is set."""
    return not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


@contextmanager
def virtual_screen(width: int = 1600, height: int = 1000) -> Iterator[dict[str, str]]:
    """Start Xvfb; yields the environment a process needs to open windows on it. It ends with the block.

    Qt's own platform without a screen ("offscreen") has no OpenGL, which napari draws with. Xvfb ends by
    itself when its last window is closed, so that none stays behind where this process is killed.
    Raises MissingExtraError where Xvfb is not installed or does not start.
    """
    program = shutil.which("Xvfb")
    if program is None:
        raise MissingExtraError("Xvfb", "is not installed, and there is no screen", GET_XVFB)
    reader, writer = os.pipe()
    geometry = f"{width}x{height}x24"
    command = [program, "-displayfd", str(writer), "-screen", "0", geometry, "-nolisten", "tcp", "-terminate"]
    server = subprocess.Popen(
        command,
        pass_fds=[writer],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as answer:
            number = answer.readline().strip()
        if not number:
            raise MissingExtraError("Xvfb", "does not start", GET_XVFB)
        yield _environment(number)
    finally:
        _end(server)


def _environment(number: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in {"WAYLAND_DISPLAY", "XAUTHORITY"}}
    return {**kept, "DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
