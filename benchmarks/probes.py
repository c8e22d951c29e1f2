"""What is measured: each probe is one process, ours, a peer's, or a limit of the machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks import peers
from benchmarks.process import Sample, python, run, together
from benchmarks.slides import LARGE, MIDDLE, SMALL

COVERSLIP = (sys.executable, "-m", "coverslip")
# Tiles of the reading rows: enough for seconds of the fastest, from the middle of the plan, where tissue is.
READ_TILES = 1024
FORWARD_TILES = 256
SHARE_TILES = 512
HALVINGS = "--halvings"
PORTABLE = ("--portable", HALVINGS)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where probes find their slides, plans and models, and where they write. `slides`: path by name;
    `pixels`: of level 0, by file; `tiles`: of each plan, by file and size; `peers`: folder of environments;
    `scale`: 1, less when quick."""

    folder: Path
    peers: Path
    slides: dict[str, Path]
    pixels: dict[str, int]
    tiles: dict[str, int]
    scale: float = 1

    @property
    def out(self) -> Path:
        """Where a probe writes; empty whenever one begins, and its own."""
        return self.folder / "out"

    def plan(self, slide: str, size: int) -> str:
        return f"{self.slides[slide].stem}-{size}"

    def rows(self, slide: str, size: int, most: int) -> tuple[int, int]:
        """`most` tiles from the middle of the plan, or all."""
        count = self.tiles[self.plan(slide, size)]
        wanted = min(count, max(2, int(most * self.scale)))
        start = (count - wanted) // 2
        return start, start + wanted

    def megapixels(self, slide: str) -> float:
        return self.pixels[self.slides[slide].stem] / 1e6


Measure = Callable[[Scene], Sample]


@dataclass(frozen=True, slots=True)
class Probe:
    """`what` ran, as the table says it; `unit` of its work; `rounds`: how often it is measured;
    `foreign`: whether it needs more than the project's own environment."""

    what: str
    unit: str
    measure: Measure
    rounds: int = 3
    foreign: bool = False


def _fresh(scene: Scene) -> Path:
    shutil.rmtree(scene.out, ignore_errors=True)
    scene.out.mkdir(parents=True)
    return scene.out


def _written(scene: Scene, slide: str, sample: Sample) -> Sample:
    """The sample with the size of what lies in `out`, which is emptied: the next has the same disk."""
    total = sum(path.stat().st_size for path in scene.out.rglob("*") if path.is_file())
    shutil.rmtree(scene.out)
    return replace(sample, written_mb=total / 2**20, source_mb=scene.slides[slide].stat().st_size / 2**20)


def openslide(size: int) -> Measure:
    return lambda scene: _peer_tiles(scene, "openslide_tiles.py", size)


def cucim(size: int) -> Measure:
    return lambda scene: _peer_tiles(scene, "cucim_tiles.py", size)


def _peer_tiles(scene: Scene, driver: str, size: int) -> Sample:
    corners = scene.folder / f"{scene.plan(MIDDLE, size)}.json"
    rows = scene.rows(MIDDLE, size, READ_TILES)
    interpreter = peers.interpreter(scene.peers, "slides")
    # Twice the size: at 0.5 µm/px a tile covers twice as many pixels of the slide's 0.25.
    arguments = (scene.slides[MIDDLE], corners, 2 * size, *rows)
    return run(python(driver, *arguments, interpreter=interpreter), one_thread=True)


def supply(size: int, mode: str) -> Measure:
    def measure(scene: Scene) -> Sample:
        plan = scene.folder / f"{scene.plan(MIDDLE, size)}.parquet"
        rows = scene.rows(MIDDLE, size, READ_TILES)
        return run(python("supply_tiles.py", scene.slides[MIDDLE], plan, *rows, mode), one_thread=True)

    return measure


def convert(slide: str, *options: str) -> Measure:
    def measure(scene: Scene) -> Sample:
        target = _fresh(scene) / "slide.ome.zarr"
        sample = run([*COVERSLIP, "convert", scene.slides[slide], "-o", target, *options])
        return _written(scene, slide, replace(sample, units=scene.megapixels(slide)))

    return measure


def convert_call(scene: Scene) -> Sample:
    target = _fresh(scene) / "slide.ome.zarr"
    return _written(scene, MIDDLE, run(python("convert_call.py", scene.slides[MIDDLE], target)))


def vips(operation: str) -> Measure:
    def measure(scene: Scene) -> Sample:
        interpreter = peers.interpreter(scene.peers, "slides")
        target = _fresh(scene) / "slide.tif"
        command = python("vips_save.py", scene.slides[MIDDLE], target, operation, interpreter=interpreter)
        return _written(scene, MIDDLE, run(command))

    return measure


def ome_zarr(scene: Scene) -> Sample:
    interpreter = peers.interpreter(scene.peers, "zarr")
    target = _fresh(scene) / "slide.ome.zarr"
    command = python("ome_zarr_pyramid.py", scene.slides[MIDDLE], target, interpreter=interpreter)
    return _written(scene, MIDDLE, run(command, one_thread=True))


def lossless_limit(scene: Scene) -> Sample:
    return run(python("lossless_limit.py", scene.slides[MIDDLE], 8), one_thread=True)


def run_tiles(slide: str) -> Measure:
    def measure(scene: Scene) -> Sample:
        command = [*COVERSLIP, "run", scene.slides[slide], "-o", _fresh(scene) / "run", "--workflow", "tiles"]
        sample = run([*command, "--model", scene.folder / "resnet18"])
        return _written(scene, slide, replace(sample, units=scene.tiles[scene.plan(slide, 224)]))

    return measure


def run_ihc(scene: Scene) -> Sample:
    command = [*COVERSLIP, "run", scene.slides[MIDDLE], "-o", _fresh(scene) / "run", "--workflow", "ihc"]
    return _written(scene, MIDDLE, replace(run(command), units=scene.megapixels(MIDDLE)))


def pipeline(peer: str) -> Measure:
    def measure(scene: Scene) -> Sample:
        if peer in peers.ABSENT:
            raise peers.Absent(peers.ABSENT[peer])
        interpreter = peers.interpreter(scene.peers, peer)
        command = python(
            f"{peer}_run.py", scene.slides[MIDDLE], _fresh(scene) / "run", interpreter=interpreter
        )
        return _written(scene, MIDDLE, run(command, one_thread=True))

    return measure


def engine(model: str, extra: str | None = None) -> Measure:
    """`extra`: the package the row is meant with; the engine takes it of itself where it is there."""

    def measure(scene: Scene) -> Sample:
        if extra and find_spec(extra) is None:
            raise peers.Absent(f"{extra} is not installed")
        count = max(32, int(FORWARD_TILES * scene.scale))
        return run(python("engine_tiles.py", scene.folder / model, count), one_thread=True)

    return measure


def plain_torch(model: str) -> Measure:
    def measure(scene: Scene) -> Sample:
        count = max(32, int(FORWARD_TILES * scene.scale))
        return run(python("torch_tiles.py", model, count, 224), one_thread=True)

    return measure


def crew(processes: int) -> Measure:
    """Equal shares of the same tiles: wall seconds of the slowest, once all have started."""

    def measure(scene: Scene) -> Sample:
        start, stop = scene.rows(MIDDLE, 224, SHARE_TILES)
        plan = scene.folder / f"{scene.plan(MIDDLE, 224)}.parquet"
        edges = [start + (stop - start) * n // processes for n in range(processes + 1)]
        commands = [
            python("share.py", scene.slides[MIDDLE], plan, scene.folder / "resnet18", *edges[n : n + 2])
            for n in range(processes)
        ]
        return together(commands)

    return measure


def idle(scene: Scene) -> Sample:
    return run([sys.executable, "-c", "import torch, timm"])


def door(*arguments: str) -> Measure:
    return lambda scene: run([sys.executable, *arguments])


def _group(*probes: tuple[str, Probe]) -> dict[str, Probe]:
    return dict(probes)


def _ours(name: str, what: str, unit: str, measure: Measure, rounds: int = 3) -> tuple[str, Probe]:
    return name, Probe(what, unit, measure, rounds)


def _peer(name: str, what: str, unit: str, measure: Measure, rounds: int = 3) -> tuple[str, Probe]:
    return name, Probe(what, unit, measure, rounds, foreign=True)


TILE, MEGAPIXEL, START = "tile", "megapixel", "start"
# Probes of a group take turns, so that whatever else the machine does falls on all of them. One round where a
# process takes minutes.
GROUPS: dict[str, dict[str, Probe]] = {
    "start": _group(
        _ours("import", "import coverslip", START, door("-c", "import coverslip"), 5),
        _ours("help", "coverslip --help", START, door("-m", "coverslip", "--help"), 5),
        _ours("idle", "import torch, timm", START, idle),
    ),
    "reading": _group(
        _peer("openslide-256", "openslide-python, read_region + area", TILE, openslide(256)),
        _peer("cucim-256", "cuCIM on CPU, read_region + area", TILE, cucim(256)),
        _ours("supply-256", "supply", TILE, supply(256, "scaled")),
        _ours("exact-256", "supply, exact", TILE, supply(256, "exact")),
        _peer("openslide-224", "openslide-python, read_region + area", TILE, openslide(224)),
        _ours("supply-224", "supply", TILE, supply(224, "scaled")),
    ),
    "pyramids": _group(
        _peer("dzsave", "libvips dzsave, JPEG Q 80", MEGAPIXEL, vips("dzsave")),
        _ours("convert-call", "coverslip.convert()", MEGAPIXEL, convert_call),
        _ours("convert", "coverslip convert", MEGAPIXEL, convert(MIDDLE)),
        _peer("tiffsave", "libvips tiffsave, pyramid, JPEG Q 80", MEGAPIXEL, vips("tiffsave")),
        _ours("halvings", "coverslip convert --halvings", MEGAPIXEL, convert(MIDDLE, HALVINGS)),
        _ours("portable", "coverslip convert --portable --halvings", MEGAPIXEL, convert(MIDDLE, *PORTABLE)),
        _ours("lossless-limit", "decode + halve + zstd-1, nothing written", MEGAPIXEL, lossless_limit),
        _peer("ome-zarr", "ome-zarr-py write_image, 7 halvings", MEGAPIXEL, ome_zarr, 1),
    ),
    "runs": _group(
        _ours("engine-resnet18", "engine alone, resnet18, 1 thread", TILE, engine("resnet18")),
        _ours("run", "coverslip run --workflow tiles, resnet18", TILE, run_tiles(MIDDLE), 2),
        _peer("tiatoolbox", "TIAToolbox PatchPredictor, resnet18", TILE, pipeline("tiatoolbox"), 1),
        _peer("lazyslide", "LazySlide feature_extraction, resnet18", TILE, pipeline("lazyslide"), 1),
        _peer("trident", "TRIDENT, resnet18", TILE, pipeline("trident"), 1),
        _ours("run-ihc", "coverslip run --workflow ihc", MEGAPIXEL, run_ihc, 1),
    ),
    "networks": _group(
        _ours(
            "engine-efficientnet",
            "engine with OpenVINO, efficientnet_b0, 1 thread",
            TILE,
            engine("efficientnet_b0", "openvino"),
        ),
        _ours("torch-efficientnet", "timm, eager float32, 1 thread", TILE, plain_torch("efficientnet_b0")),
    ),
    "memory": _group(
        _ours("convert-small", "coverslip convert, 0.3 gigapixels", MEGAPIXEL, convert(SMALL)),
        _ours("convert-large", "coverslip convert, 5 gigapixels", MEGAPIXEL, convert(LARGE)),
        _ours("halvings-small", "convert --halvings, 0.3 gigapixels", MEGAPIXEL, convert(SMALL, HALVINGS)),
        _ours("halvings-large", "convert --halvings, 5 gigapixels", MEGAPIXEL, convert(LARGE, HALVINGS), 1),
        _ours("run-small", "run --workflow tiles, 0.3 gigapixels", TILE, run_tiles(SMALL), 1),
        _ours("run-large", "run --workflow tiles, 5 gigapixels", TILE, run_tiles(LARGE), 1),
    ),
    "workers": _group(
        _ours("one-process", "read + score in one process, 1 thread", TILE, crew(1)),
        _ours("two-processes", "the same tiles shared by two", TILE, crew(2)),
    ),
}
PROBES: dict[str, Probe] = {name: probe for group in GROUPS.values() for name, probe in group.items()}
