"""What the main job costs: CPU seconds and peak memory of whole processes, beside the limit each is held to.

    python benchmarks/main_job.py [--slide FILE] [--out docs/benchmarks.json]

Without `--slide` it composes a slide of 40960 × 30976 px at 0.25 µm/px from real pixels, with the composer
and the CMU-1 region in the folder `../shared` beside the project. CPU seconds (user + system) are the figure
to compare; wall time depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
SOURCE = SHARED / "data/wsi/aperio-svs/CMU-1-Small-Region.svs"
# What a run may take beyond a process that has imported torch and timm and scored one batch.
RUN_MB = 600
BASELINE = """
import numpy
from coverslip.models.engine import Engine
from coverslip.models.package import load_package
package = load_package({model!r})
size = package.document.tile.size
Engine(package, threads=2).predict(numpy.zeros((32, size, size, 3), numpy.uint8))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One process: CPU and wall seconds, peak resident megabytes, and the limit on one of them."""

    work: str
    cpu_s: float
    wall_s: float
    peak_mb: float
    limit: str = ""


def measure(work: str, command: list[str], limit: str = "") -> Row:
    """Run to its end and read what the operating system counted; exits with the error of a failed one."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    complaint = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{complaint}")
    row = Row(work, used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss / 1024, limit)
    print(
        f"{row.work:42} {row.cpu_s:8.2f} s CPU {row.wall_s:8.1f} s {row.peak_mb:8.0f} MB   {row.limit}",
        flush=True,
    )
    return row


def compose(folder: Path) -> Path:
    tool = SHARED / "tools/make_slide.py"
    if not (tool.is_file() and SOURCE.is_file()):
        raise SystemExit(f"{tool} is not here: give a large slide with --slide FILE")
    slide = folder / "composed.svs"
    subprocess.run([sys.executable, tool, "tissue", SOURCE, slide], check=True, stdout=subprocess.DEVNULL)
    return slide


def write_tiles(folder: Path) -> Path:
    """Labelled tiles for a model to measure with; what it learns does not matter here."""
    import skimage.data
    from PIL import Image

    field = skimage.data.immunohistochemistry()
    lines = ["file,label,group"]
    for number in range(64):
        y, x = divmod(number, 8)
        tile = field[y * 64 : y * 64 + 64, x * 64 : x * 64 + 64]
        name = f"{number}.png"
        Image.fromarray(tile).resize((224, 224)).save(folder / name)
        lines.append(f"{name},{'stained' if tile[..., 2].mean() < 130 else 'pale'},{y}")
    table = folder / "tiles.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def rows(slide: Path, folder: Path) -> list[Row]:
    python, coverslip = [sys.executable, "-c"], [sys.executable, "-m", "coverslip"]
    model = folder / "model"
    train = ["train", "tiles", str(write_tiles(folder)), "-o", str(model), "--mpp", "0.5", "--epochs", "1"]
    found = [
        measure("import coverslip", [*python, "import coverslip"], "0.3 s CPU"),
        measure("coverslip --help", [*coverslip, "--help"], "0.5 s CPU"),
        measure("train 1 epoch, 64 tiles of 224 px", [*coverslip, *train]),
    ]
    baseline = measure(
        "torch, timm and one batch of 32 × 224 px", [*python, BASELINE.format(model=str(model))]
    )
    found.append(baseline)
    limit = f"{baseline.peak_mb + RUN_MB:.0f} MB"
    run = [*coverslip, "run", str(slide), "-o"]
    found.append(
        measure("convert", [*coverslip, "convert", str(slide), "-o", str(folder / "slide.ome.zarr")])
    )
    found.append(measure("run --workflow ihc", [*run, str(folder / "ihc"), "--workflow", "ihc"], limit))
    tiles = [*run, str(folder / "tiles"), "--workflow", "tiles", "--model", str(model)]
    found.append(measure("run --workflow tiles, 224 px", tiles, limit))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = arguments.slide or compose(folder)
        found = rows(slide, folder)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    document = {
        "schema": "coverslip.benchmarks/1",
        "machine": machine,
        "rows": [asdict(row) for row in found],
    }
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
