"""The rows: what each must reach, and what the probes say about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from benchmarks.probes import PROBES
from benchmarks.process import Sample

MB = "MB"
TIMES = "×"


@dataclass(frozen=True, slots=True)
class Side:
    """Medians of one probe's samples. `cpu_ms_per_unit`: CPU milliseconds per unit of its work."""

    what: str
    cpu_s: float
    wall_s: float
    peak_mb: float
    written_mb: float | None
    source_mb: float | None
    units: float
    unit: str
    cpu_ms_per_unit: float
    times: int


@dataclass(frozen=True, slots=True)
class Row:
    """`value`, in `value_unit`, against `limit`; `met` is None when it could not be measured, `note` why.

    `at_least`: whether the limit is one to reach or one not to pass.
    """

    row: str
    work: str
    value: float | None
    value_unit: str
    limit: float | None
    at_least: bool
    met: bool | None
    ours: Side | None
    peer: Side | None
    note: str = ""


Sides = Mapping[str, Side]
Value = Callable[[Sides], float]


@dataclass(frozen=True, slots=True)
class Spec:
    """How a row is judged: `value` of the sides of `ours`, `peer` and the probes it `needs` beside them."""

    work: str
    ours: str
    peer: str | None
    value: Value
    limit: float | Value
    at_least: bool
    value_unit: str = TIMES
    needs: tuple[str, ...] = ()

    @property
    def probes(self) -> tuple[str, ...]:
        return tuple(name for name in (self.ours, self.peer, *self.needs) if name)


def side(name: str, samples: list[Sample]) -> Side:
    """The medians of a probe's samples."""
    probe = PROBES[name]
    cpu, wall, peak = (
        median(getattr(sample, figure) for sample in samples) for figure in ("cpu_s", "wall_s", "peak_mb")
    )
    one = samples[0]
    per_unit = 1000 * cpu / one.units
    sizes = one.written_mb, one.source_mb
    return Side(probe.what, cpu, wall, peak, *sizes, one.units, probe.unit, per_unit, len(samples))


def judge(name: str, sides: Sides, absent: Mapping[str, str]) -> Row:
    """The row of that name. `absent`: why probes have no samples."""
    spec = ROWS[name]
    ours, peer = sides.get(spec.ours), sides.get(spec.peer or "")
    at_least, unit = spec.at_least, spec.value_unit
    fixed = spec.limit if isinstance(spec.limit, float | int) else None
    missing = [absent[probe] for probe in spec.probes if probe in absent]
    if missing:
        return Row(name, spec.work, None, unit, fixed, at_least, None, ours, peer, "; ".join(missing))
    value = spec.value(sides)
    limit = spec.limit(sides) if callable(spec.limit) else spec.limit
    met = value >= limit if at_least else value <= limit
    return Row(name, spec.work, value, unit, limit, at_least, met, ours, peer)


def faster(ours: str, peer: str) -> Value:
    """How many times less CPU than the peer, per unit of work."""
    return lambda sides: sides[peer].cpu_ms_per_unit / sides[ours].cpu_ms_per_unit


def against(ours: str, *parts: str) -> Value:
    """CPU per unit over the sum of the parts' that it cannot do without."""
    return lambda sides: sides[ours].cpu_ms_per_unit / sum(sides[part].cpu_ms_per_unit for part in parts)


def peak(name: str) -> Value:
    return lambda sides: sides[name].peak_mb


def growth(small: str, large: str) -> Value:
    return lambda sides: sides[large].peak_mb / sides[small].peak_mb


def compared(work: str, ours: str, peer: str, limit: float) -> Spec:
    return Spec(work, ours, peer, faster(ours, peer), limit, at_least=True)


def within(work: str, ours: str, limit: float, *parts: str) -> Spec:
    return Spec(work, ours, parts[0], against(ours, *parts), limit, at_least=False, needs=parts[1:])


def memory(work: str, ours: str, limit: float | Value, *needs: str) -> Spec:
    return Spec(work, ours, None, peak(ours), limit, at_least=False, value_unit=MB, needs=needs)


def flat(work: str, small: str, large: str) -> Spec:
    return Spec(work, large, small, growth(small, large), GROWTH, at_least=False)


def seconds(work: str, ours: str, limit: float) -> Spec:
    return Spec(work, ours, None, lambda sides: sides[ours].cpu_s, limit, at_least=False, value_unit="s CPU")


CONVERT_MB = 400
# Beyond a process that has imported torch and timm.
RUN_MB = 500
# Sixteen times the pixels; the overview on which tissue is found grows a little.
GROWTH = 1.1


def _run_mb(sides: Sides) -> float:
    return sides["idle"].peak_mb + RUN_MB


def _inflation(sides: Sides) -> float:
    written, source = sides["convert"].written_mb, sides["convert"].source_mb
    assert written is not None
    assert source
    return written / source


ROWS: dict[str, Spec] = {
    "tiles-256": compared("tiles of 256 px at 0.5 µm/px, aligned", "supply-256", "openslide-256", 7),
    "tiles-256-exact": compared("the same, exact", "exact-256", "openslide-256", 5),
    "tiles-256-cucim": compared("the same, beside cuCIM", "supply-256", "cucim-256", 2),
    "tiles-224": compared("tiles of 224 px at 0.5 µm/px, not aligned", "supply-224", "openslide-224", 6),
    "pyramid-call": compared("pyramid, pass-through, the call", "convert-call", "dzsave", 50),
    "pyramid-command": compared("pyramid, pass-through, the whole command", "convert", "dzsave", 15),
    "pyramid-size": Spec("its size beside the slide's", "convert", None, _inflation, 1.1, at_least=False),
    "pyramid-halvings": compared("pyramid, every factor of two", "halvings", "tiffsave", 3),
    "portable": compared("pyramid, lossless", "portable", "ome-zarr", 15),
    "portable-limit": within("pyramid, lossless, beside its limit", "portable", 1.2, "lossless-limit"),
    "run-limit": within("run, beside forward + decode", "run", 1.1, "engine-resnet18", "supply-224"),
    "run-tiatoolbox": compared("run, beside TIAToolbox", "run", "tiatoolbox", 1.6),
    "run-lazyslide": compared("run, beside LazySlide", "run", "lazyslide", 2),
    "run-trident": compared("run, beside TRIDENT", "run", "trident", 2),
    "efficientnet": compared(
        "efficientnet_b0, beside plain torch", "engine-efficientnet", "torch-efficientnet", 2.5
    ),
    "memory-convert-small": memory("memory of convert, 0.3 gigapixels", "convert-small", CONVERT_MB),
    "memory-convert-large": memory("memory of convert, 5 gigapixels", "convert-large", CONVERT_MB),
    "memory-convert-growth": flat("its growth from 0.3 to 5", "convert-small", "convert-large"),
    "memory-halvings-small": memory("memory with --halvings, 0.3 gigapixels", "halvings-small", CONVERT_MB),
    "memory-halvings-large": memory("memory with --halvings, 5 gigapixels", "halvings-large", CONVERT_MB),
    "memory-halvings-growth": flat("its growth from 0.3 to 5", "halvings-small", "halvings-large"),
    "memory-run-small": memory("memory of run, 0.3 gigapixels", "run-small", _run_mb, "idle"),
    "memory-run-large": memory("memory of run, 5 gigapixels", "run-large", _run_mb, "idle"),
    "memory-run-growth": flat("its growth from 0.3 to 5", "run-small", "run-large"),
    "memory-ihc": memory("memory of run --workflow ihc", "run-ihc", _run_mb, "idle"),
    "two-processes": Spec(
        "two processes instead of one, wall time",
        "two-processes",
        "one-process",
        lambda sides: sides["one-process"].wall_s / sides["two-processes"].wall_s,
        1.85,
        at_least=True,
    ),
    "import": seconds("import coverslip", "import", 0.3),
    "help": seconds("coverslip --help", "help", 0.5),
}
