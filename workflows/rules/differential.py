"""White-cell differential: shares of the white cells, what is counted apart from them, and what is flagged.

Names are those of `guidelines/blood-cell-classes.yaml`; parts, ranges and cut-offs those of
`guidelines/differential-5-part.yaml`, or of a laboratory's own file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coverslip.errors import RequestError
from coverslip.workflows.result import Urgency
from coverslip.workflows.rules.bands import Verdict, exact, insufficient, percent
from coverslip.workflows.rules.guideline import Guideline, load_guideline
from coverslip.workflows.scores import Fraction, wilson

DIFFERENTIAL, NAMES = "differential-5-part", "blood-cell-classes"
ERYTHROBLASTS, SMUDGES, PLATELETS = "erythroblasts", "smudge cells", "platelets"
URGENCIES: tuple[Urgency, ...] = ("routine", "attention", "urgent")


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of white cell. `share`: of all white cells, 0 to 1, None where none were counted."""

    name: str
    count: int
    share: Fraction | None


@dataclass(frozen=True, slots=True)
class Differential:
    """`parts`: of the white cells, `total` in all, in the guideline's order. `erythroblasts`: per 100 of
    them, with an interval; None where there are none. `apart`: counts of what is no part. `why_not`: why the
    shares are not evaluable, or None."""

    parts: tuple[Part, ...]
    total: int
    erythroblasts: Fraction | None
    apart: Mapping[str, int]
    why_not: str | None


@dataclass(frozen=True, slots=True)
class Flag:
    """Something a person should see. `name`: in the guideline's words; `text`: with its figures."""

    name: str
    text: str
    urgency: Urgency


@dataclass(frozen=True, slots=True)
class Counting:
    """`least_cells`: white cells below which shares are not evaluable; None asks the guideline. `confidence`:
    of each interval, or of all together where `simultaneous`."""

    least_cells: int | None = None
    confidence: float = 0.95
    simultaneous: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1 or (self.least_cells is not None and self.least_cells < 1):
            raise RequestError(
                f"least_cells {self.least_cells}, confidence {self.confidence}",
                "are out of range",
                "count at least 1 cell, and be sure between 0 and 1",
            )


@dataclass(frozen=True, slots=True)
class Rules:
    """Which names and cut-offs hold."""

    guideline: Guideline = field(default_factory=lambda: load_guideline(DIFFERENTIAL))
    names: Guideline = field(default_factory=lambda: load_guideline(NAMES))

    @property
    def parts(self) -> tuple[str, ...]:
        """What shares are given of: the five, then immature cells."""
        return (*self.guideline["parts"], *self.guideline["immature"])


def reported(name: str, names: Guideline | None = None) -> str | None:
    """What a model's class is reported as; None where the guideline does not know it.

    >>> reported("ig"), reported("WBC"), reported("zebra")
    ('immature granulocytes', 'white', None)
    """
    names = names or load_guideline(NAMES)
    wanted = _plain(name)
    return next((role for role, known in names.values.items() if wanted in map(_plain, known)), None)


def differential(
    counts: Mapping[str, int], counting: Counting | None = None, rules: Rules | None = None
) -> Differential:
    """From counts by reported name; those that are no part of the white cells are counted apart.

    A part's interval is Wilson's, for cells drawn at random from the blood: what a model calls wrongly is not
    in it. Simultaneous ones hold together (Goodman 1965, Technometrics 7:247: Wilson's at 1 − α / k). Raises
    RequestError for negative counts.

    >>> found = differential(
    ...     {"neutrophils": 60, "lymphocytes": 30, "monocytes": 6, "eosinophils": 3, "basophils": 1}
    ... )
    >>> [100 * part.share.value for part in found.parts if part.share and part.count]
    [60.0, 30.0, 6.0, 3.0, 1.0]
    """
    counting, rules = counting or Counting(), rules or Rules()
    if min(counts.values(), default=0) < 0:
        raise RequestError("counts of cells", "are negative", "give numbers of cells")
    numbers = {name: counts.get(name, 0) for name in rules.parts}
    total = sum(numbers.values())
    level = counting.confidence
    if counting.simultaneous:
        level = 1 - (1 - level) / len(numbers)
    parts = tuple(
        Part(name, count, wilson(count, total, level) if total else None) for name, count in numbers.items()
    )
    apart = {name: count for name, count in counts.items() if name not in numbers}
    ratio = _per_100(apart.get(ERYTHROBLASTS, 0), total, counting.confidence)
    return Differential(parts, total, ratio, apart, _why_not(total, counting, rules.guideline))


def flags(found: Differential, rules: Rules | None = None) -> tuple[Flag, ...]:
    """What lies over a cut-off or out of its range, most urgent first; none where nothing is evaluable.

    Compared exactly, nothing is rounded before; an end of a range is normal.
    """
    rules = rules or Rules()
    if found.why_not is not None:
        return ()
    raised = [*_raised(found, rules.guideline), *_out_of_range(found, rules.guideline)]
    return tuple(sorted(raised, key=lambda flag: -URGENCIES.index(flag.urgency)))


def verdict(found: Differential, raised: Sequence[Flag], guideline: Guideline) -> Verdict:
    """The category of a smear with these flags; withheld where the differential is not evaluable."""
    if found.why_not is not None:
        return Verdict(None, "unevaluable", found.why_not)
    if not raised:
        return Verdict(guideline["normal"], "routine", guideline["normal"])
    names = ", ".join(flag.name for flag in raised)
    urgency = max(raised, key=lambda flag: URGENCIES.index(flag.urgency)).urgency
    return Verdict(f"{guideline['flagged']}: {names}", urgency, "; ".join(flag.text for flag in raised))


def _raised(found: Differential, guideline: Guideline) -> list[Flag]:
    counts = {part.name: part.count for part in found.parts} | dict(found.apart)
    listed = []
    for name, rule in guideline["flags"].items():
        value = exact(100 * counts.get(name, 0)) / found.total
        if value > exact(rule["more_than"]):
            unit = "per 100 white cells" if name == ERYTHROBLASTS else "% of the white cells"
            text = f"{name} {float(value):.1f} {unit} (more than {rule['more_than']})"
            listed.append(Flag(name, text, rule["urgency"]))
    return listed


def _out_of_range(found: Differential, guideline: Guideline) -> list[Flag]:
    listed = []
    ranges = guideline["ranges"]
    for part in found.parts:
        if part.name not in ranges or part.share is None:
            continue
        low, high = (exact(end) for end in ranges[part.name])
        value = percent(part.count, found.total)
        if low <= value <= high:
            continue
        side, end = ("low", low) if value < low else ("high", high)
        reaches = part.share.low <= end / 100 <= part.share.high
        chance = "; its interval reaches the range" if reaches else ""
        text = f"{part.name} {side}: {float(value):.1f} % (range {float(low):g} to {float(high):g}{chance})"
        listed.append(Flag(f"{part.name} {side}", text, guideline["out_of_range"]))
    return listed


def _per_100(erythroblasts: int, total: int, confidence: float) -> Fraction | None:
    """Per 100 white cells. The interval is that of the share among both, as odds: these rise with it."""
    if not total:
        return None
    among = wilson(erythroblasts, erythroblasts + total, confidence)
    low, high = (100 * end / (1 - end) for end in (among.low, among.high))
    return Fraction(100 * erythroblasts / total, low, high)


def _why_not(total: int, counting: Counting, guideline: Guideline) -> str | None:
    if counting.least_cells is None:
        return insufficient(total, guideline)
    few = total < counting.least_cells
    return f"insufficient (<{counting.least_cells}): {total} cells were counted" if few else None


def _plain(name: str) -> str:
    for sign in "-_.":
        name = name.replace(sign, " ")
    return " ".join(name.casefold().split())
