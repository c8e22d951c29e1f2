"""Can this machine do the work? Every part is tried for real, and each fault comes with what mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from coverslip.errors import CoverslipError, MissingExtraError
from coverslip.extras import require
from coverslip.models.openvino import import_openvino
from coverslip.ruo import RUO

State = Literal["ok", "absent", "fault"]
MARK: dict[State, str] = {"ok": "ok", "absent": "not installed", "fault": "FAULT"}

# What a broken installation raises on import or first use: a missing module or system library (ImportError,
# OSError), builds that do not fit each other (RuntimeError, ValueError, AttributeError), no device or no
# cluster (RuntimeError, TimeoutError), a window that never comes up (SubprocessError).
FAULTS = (ImportError, OSError, RuntimeError, ValueError, AttributeError, subprocess.SubprocessError)

GB = 1e9
# The lossless pyramid of one 40× slide takes several GB; below this not even one is sure to fit.
LEAST_DISK_GB = 5.0
# An encoder of ViT-B size with its activations for one small batch, beside the decoding.
LEAST_MEMORY_GB = 2.0

# What opening a real window under Xvfb needs on Debian and Ubuntu.
WINDOW_PACKAGES = (
    "xvfb",
    "xauth",
    "libegl1",
    "libgl1",
    "libglx-mesa0",
    "libx11-xcb1",
    "libdbus-1-3",
    "libfontconfig1",
    "libglib2.0-0",
    "libxcb-cursor0",
    "libxcb-icccm4",
    "libxcb-keysyms1",
    "libxcb-shape0",
    "libxkbcommon-x11-0",
)
INSTALL_WINDOW_PACKAGES = f"apt-get install {' '.join(WINDOW_PACKAGES)}"

# Run apart: without a usable display Qt ends its process instead of raising.
OPEN_WINDOW = """
import napari, qtpy
from qtpy.QtGui import QOffscreenSurface, QOpenGLContext
viewer = napari.Viewer(show=False)
surface, context = QOffscreenSurface(), QOpenGLContext()
surface.create()
if not (context.create() and context.makeCurrent(surface)):
    raise SystemExit("Qt gets no OpenGL context on this display")
viewer.close()
print(f"napari {napari.__version__}, {qtpy.API_NAME} {qtpy.QT_VERSION}")
"""
WINDOW_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Check:
    """What was found about one part: `mend` is the command that puts it right, empty when nothing is wrong.

    "absent" is an optional part that is not installed: no fault.
    """

    name: str
    state: State
    detail: str
    mend: str = ""

    @property
    def ok(self) -> bool:
        return self.state != "fault"


def diagnose(folder: Path = Path()) -> list[Check]:
    """Try every part, required ones first; takes some seconds. `folder`: where results are to go.

    Never raises for what it finds wrong. All required parts work when every `Check.ok` is True.
    """
    required = [
        _check("Python", _python, "install Python 3.11 or newer"),
        _check("OpenSlide", _openslide, _reinstall("openslide-bin openslide-python")),
        _check("codecs", _codecs, _reinstall("imagecodecs")),
        _check("Zarr", _zarr, _reinstall("zarr numcodecs")),
        _check("Dask", _dask, _reinstall("dask distributed")),
        _check("disk", lambda: _disk(folder), "name a folder on a disk that is there"),
        _check("memory", _memory, "close other programs"),
    ]
    return [*required, *_optional_checks()]


def _optional_checks() -> list[Check]:
    return [
        _check("torch", _torch, _reinstall("torch torchvision"), "torch"),
        _check("timm", _timm, _reinstall("timm torch torchvision"), "timm"),
        _check("OpenVINO", _openvino, _reinstall("openvino"), "openvino"),
        _napari(),
        _check("DICOM", _wsidicom, _reinstall("wsidicom pydicom"), "wsidicom"),
    ]


def render(checks: Sequence[Check]) -> str:
    """One line per check, the mending command below it where there is one, and the verdict."""
    lines = []
    for check in checks:
        lines.append(f"{MARK[check.state]:<14}{check.name:<11}{check.detail}")
        if check.mend:
            lines.append(f"{'':<25}→ {check.mend}")
    faults = sum(not check.ok for check in checks)
    verdict = f"{faults} fault{'s' * (faults > 1)} found" if faults else "all that is required works"
    return "\n".join([*lines, "", verdict, RUO])


def _reinstall(packages: str) -> str:
    return f"pip install --force-reinstall {packages}"


def _check(name: str, look: Callable[[], str], mend: str, module: str | None = None) -> Check:
    """Run one look and turn what it raises into a Check. `module` is that of an optional part."""
    if module and importlib.util.find_spec(module) is None:
        return _absent(name, module)
    try:
        return Check(name, "ok", look())
    except MissingExtraError as error:
        return Check(name, "fault", error.problem, mend)
    except CoverslipError as error:
        return Check(name, "fault", error.problem, error.remedy)
    except FAULTS as error:
        return Check(name, "fault", _one_line(error), mend)


def _absent(name: str, module: str) -> Check:
    try:
        require(module)
    except MissingExtraError as error:
        return Check(name, "absent", f"{module} is an optional part", error.remedy.partition(": ")[2])
    return Check(name, "ok", module)


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _python() -> str:
    """Only told: pip refuses to install into a Python that is too old."""
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _openslide() -> str:
    """Write a small lossless slide and read it through the OpenSlide library."""
    import openslide
    import tifffile

    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slide.tiff")
        tifffile.imwrite(path, rgb, tile=(32, 32), photometric="rgb", compression="deflate")
        try:
            with openslide.OpenSlide(path) as slide:
                seen = np.asarray(slide.read_region((0, 0), 0, (64, 64)).convert("RGB"))
        except openslide.OpenSlideError as error:
            raise CoverslipError(
                "OpenSlide",
                f"cannot read a plain TIFF: {error}",
                _reinstall("openslide-bin openslide-python"),
            ) from error
    _same("OpenSlide", seen, rgb, "openslide-bin openslide-python")
    return f"library {openslide.__library_version__}, Python binding {openslide.__version__}"


def _same(name: str, seen: np.ndarray, meant: np.ndarray, packages: str, tolerance: int = 0) -> None:
    if seen.shape != meant.shape or np.abs(seen.astype(int) - meant).max() > tolerance:
        raise CoverslipError(name, "gives other pixels than were stored", _reinstall(packages))


def _codecs() -> str:
    """Encode and decode once with every codec that slides and stores here use."""
    import imagecodecs

    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    rgb = np.stack([ramp, ramp[::-1], ramp // 2], axis=-1)
    # A smooth ramp at quality 95 comes back within a few grey values.
    _same("JPEG", imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(rgb, level=95)), rgb, "imagecodecs", 12)
    lossless = imagecodecs.jpeg2k_encode(rgb, level=0, reversible=True)
    _same("JPEG 2000", imagecodecs.jpeg2k_decode(lossless), rgb, "imagecodecs")
    packed = imagecodecs.zstd_encode(rgb.tobytes())
    unpacked = np.frombuffer(imagecodecs.zstd_decode(packed), np.uint8)
    _same("zstd", unpacked.reshape(rgb.shape), rgb, "imagecodecs")
    return f"JPEG, JPEG 2000 and zstd, imagecodecs {version('imagecodecs')}"


def _zarr() -> str:
    """Write one sharded, compressed array as the results have them, and read it back."""
    import zarr

    rgb = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(folder, data=rgb, chunks=(32, 32, 3), shards=(64, 64, 3), zarr_format=3)
        seen = np.asarray(zarr.open_array(array.store, mode="r")[:])
    _same("Zarr", seen, rgb, "zarr numcodecs")
    return f"zarr {version('zarr')}, format 3 with shards"


def _dask() -> str:
    """Start a cluster inside this process and have it add three numbers."""
    from distributed import Client

    from coverslip.workflows.cluster import LOOPBACK

    one = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with Client(**one, dashboard_address=LOOPBACK) as client:
        total = client.submit(sum, (1, 2, 3)).result(timeout=30)
    if total != 6:
        raise CoverslipError("Dask", f"1 + 2 + 3 gave {total}", _reinstall("dask distributed"))
    return f"distributed {version('distributed')} runs a task"


def _disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free / GB
    if free < LEAST_DISK_GB:
        raise CoverslipError(
            str(folder),
            f"{free:.1f} GB free in {folder.resolve()}",
            f"free at least {LEAST_DISK_GB:g} GB there",
        )
    return f"{free:.1f} GB free in {folder.resolve()}"


def _memory() -> str:
    memory = psutil.virtual_memory()
    free = memory.available / GB
    text = f"{free:.1f} of {memory.total / GB:.1f} GB free, {os.cpu_count()} CPU cores"
    if free < LEAST_MEMORY_GB:
        raise CoverslipError("memory", text, f"close other programs until {LEAST_MEMORY_GB:g} GB are free")
    return text


def _torch() -> str:
    """Multiply on the device that models would use."""
    torch = require("torch")
    cuda = torch.cuda.is_available()
    ones = torch.ones(64, 64, device="cuda" if cuda else "cpu")
    if (ones @ ones).sum().item() != 64**3:
        raise CoverslipError("torch", "multiplies wrongly on this device", _reinstall("torch torchvision"))
    head = f"torch {torch.__version__}"
    if cuda:
        precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return f"{head} on {torch.cuda.get_device_name()}, {precision}"
    note = "; it cannot use the NVIDIA card here" if shutil.which("nvidia-smi") else ""
    return f"{head} on the CPU, {torch.get_num_threads()} threads, float32{note}"


def _timm() -> str:
    """Build the smallest ResNet: that needs torch and torchvision to fit each other."""
    timm = require("timm")
    timm.create_model("resnet10t", pretrained=False)
    return f"timm {version('timm')}"


def _openvino() -> str:
    """Add two numbers on the device that models would use."""
    openvino = import_openvino()
    number = openvino.opset13.parameter([1], np.float32)
    model = openvino.Model([openvino.opset13.add(number, number)], [number])
    (total,) = openvino.Core().compile_model(model, "CPU")([np.ones(1, np.float32)]).values()
    if total.item() != 2:
        raise CoverslipError("OpenVINO", f"1 + 1 gave {total.item()}", _reinstall("openvino"))
    return f"OpenVINO {version('openvino')} on the CPU, in place of torch"


def _wsidicom() -> str:
    require("wsidicom")
    return f"wsidicom {version('wsidicom')}, pydicom {version('pydicom')}"


def _napari() -> Check:
    """Without display and Xvfb there are no windows, which is no fault on a server."""
    if _display() or shutil.which("xvfb-run") or importlib.util.find_spec("napari") is None:
        return _check("napari", _window, INSTALL_WINDOW_PACKAGES, "napari")
    return Check("napari", "absent", "there is no display, nor Xvfb for screenshots", INSTALL_WINDOW_PACKAGES)


def _display() -> bool:
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _window() -> str:
    """Open napari in a process of its own, on the display or else under Xvfb."""
    display = _display()
    before = [] if display else ["xvfb-run", "-a"]
    done = subprocess.run(
        [*before, sys.executable, "-P", "-c", OPEN_WINDOW],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=WINDOW_SECONDS,
        check=False,
    )
    if done.returncode:
        raise CoverslipError("napari", _complaint(done), INSTALL_WINDOW_PACKAGES)
    return f"{done.stdout.strip().splitlines()[-1]}, {'a display' if display else 'Xvfb for screenshots'}"


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The telling line: Python's comes last; Qt's comes first, before it ends the process by a signal."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    killed = done.returncode < 0 or done.returncode > 128
    return lines[0 if killed else -1] if lines else f"napari ended with exit status {done.returncode}"
