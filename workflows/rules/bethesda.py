"""From calls of single cells to the Bethesda category of a slide.

A model that calls 2 % of normal cells abnormal finds a hundred abnormal cells in 5,000 normal ones, so that a
rule of "any cell" would call every slide abnormal. A category is therefore given only where more cells count
towards it than the model's own false positives explain:

1. A cell counts towards a category when the model's probability of that category *or a worse one* reaches a
   threshold, or, without one, when its most probable class is among these.
2. How often a normal cell does so is known only from k of m normal cells the model never learnt from. The
   number among N normal cells then follows a beta-binomial distribution, of Beta(k + ½, m − k + ½) (Jeffreys'
   prior): wider than a binomial at k/m, as m is small.
3. For a category above the mildest, cells of milder ones are false positives, too: as many as the excess of
   abnormal cells comes to are reckoned with, at the rate at which such cells were taken for worse.
4. The category is the worst whose count is so large that false positives alone reach it with a probability of
   at most `false_positive_level`, divided by the number of categories (Bonferroni).

NILM is called only where a small share of abnormal cells would have stood out; see `judge`.

Confidence is another thing: the probability, by Bayes' rule, that there are cells of this category, from a
stated share of abnormal slides, with shares of abnormal cells from `smallest_share` to all equally likely on
a logarithmic scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special, stats

from coverslip.errors import RequestError
from coverslip.workflows.rules.guideline import Guideline

# Quantiles of an uncertain rate and steps of the share of abnormal cells that sums stand for.
QUANTILES, STEPS = 21, 31
# A share of abnormal cells counts as visible when it would give a category so often.
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `of` cells that were looked at: how well a rate is known."""

    hits: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.of:
            raise RequestError(f"{self.hits} of {self.of}", "is no rate", "give 0 ≤ hits ≤ of")

    @property
    def beta(self) -> tuple[float, float]:
        return self.hits + 0.5, self.of - self.hits + 0.5

    @property
    def mean(self) -> float:
        a, b = self.beta
        return a / (a + b)

    def quantiles(self) -> NDArray[np.float64]:
        """Equally likely values of the rate."""
        return np.asarray(stats.beta.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, *self.beta))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How cells count towards one category, and how often they do so.

    `threshold`: on the probability of this category or a worse one; None for the most probable class.
    `normal`: among normal cells; `milder`: among abnormal cells of milder categories, None where there are
    none; `found`: among cells of this category or worse.
    """

    category: str
    threshold: float | None
    normal: Rate
    milder: Rate | None
    found: Rate


@dataclass(frozen=True, slots=True)
class Excess:
    """What the cells say of one category.

    `observed` of `cells` count towards it; `expected`: by false positives alone. `p`: the probability that
    these alone reach what was observed. `confidence`: that there are such cells. `visible`: the smallest
    share of such cells that would give the category four times in five; None where no share would.
    """

    category: str
    observed: int
    cells: int
    expected: float
    p: float
    confidence: float
    visible: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """`category`: None where none can be given, and `why` says so. `confidence`: 0 to 1."""

    category: str | None
    confidence: float | None
    why: str
    excesses: tuple[Excess, ...]


def worst_category(counts: Mapping[str, int], guideline: Guideline) -> str:
    """The category of cells that a person has confirmed: the worst there is, NILM without any.

    Raises RequestError for a name that is no category.
    """
    order = (guideline["negative"], *severity(guideline))
    unknown = sorted(set(counts) - set(order))
    if unknown:
        raise RequestError(", ".join(unknown), "is no category", f"name some of {', '.join(order)}")
    present = [name for name in order if counts.get(name, 0) > 0]
    return present[-1] if present else order[0]


def severity(guideline: Guideline) -> tuple[str, ...]:
    """Abnormal categories, the least urgent first: squamous and glandular ones by how soon and how bad."""
    urgency = guideline["urgency"]
    chains = (guideline["squamous"], guideline["glandular"])
    ranked = [
        (urgency[name] == "urgent", place / len(chain), number, name)
        for number, chain in enumerate(chains)
        for place, name in enumerate(chain)
    ]
    return tuple(name for *_, name in sorted(ranked))


def chain_of(category: str, guideline: Guideline) -> tuple[str, ...]:
    """This category and the worse ones of its kind, squamous or glandular."""
    for chain in (guideline["squamous"], guideline["glandular"]):
        if category in chain:
            return tuple(chain[chain.index(category) :])
    raise RequestError(category, "is no abnormal category", "name one of the guideline's")


def judge(
    observed: Mapping[str, int], cells: int, points: Sequence[OperatingPoint], guideline: Guideline
) -> Judged:
    """The category of a slide from how many of its `cells` count towards each.

    `observed`: by category, those of `points`, the mildest of which comes first. See the module's docstring.
    None instead of NILM where abnormal cells are likelier than not (`least_confidence`), or where more than
    `largest_unseen_share` of them could hide among false positives. Raises RequestError for counts beyond 0
    to `cells`, or where there are no operating points.
    """
    if not points or any(not 0 <= observed[point.category] <= cells for point in points):
        raise RequestError("counts of cells", "do not fit", "give one of 0 to all cells for each category")
    if not cells:
        return Judged(None, None, "no cell was looked at", ())
    level = guideline["false_positive_level"] / len(points)
    found = tuple(_excess(observed, cells, point, points, guideline, level) for point in points)
    order = severity(guideline)
    for excess in sorted(found, key=lambda each: -order.index(each.category)):
        if excess.p <= level:
            why = (
                f"{excess.observed} of {cells} cells count as {excess.category} or worse, "
                f"where false positives give {excess.expected:.1f}"
            )
            return Judged(excess.category, excess.confidence, why, found)
    likeliest = max(found, key=lambda each: each.confidence)
    if likeliest.confidence > 1 - guideline["least_confidence"]:
        why = (
            f"{likeliest.observed} of {cells} cells count as {likeliest.category} or worse: too many for "
            f"NILM, too few to tell from the model's false positives ({likeliest.expected:.1f} expected)"
        )
        return Judged(None, None, why, found)
    why = f"no more cells count as abnormal than the model's false positives explain, of {cells}"
    unseen, most = found[0].visible, guideline["largest_unseen_share"]
    if unseen is None or unseen > most:
        share = "any share" if unseen is None else f"{unseen:.0%}"
        return Judged(
            None,
            None,
            f"{why}; but it could miss {share} of abnormal cells, and NILM allows {most:.0%}",
            found,
        )
    return Judged(guideline["negative"], 1 - likeliest.confidence, why, found)


def _excess(
    observed: Mapping[str, int],
    cells: int,
    point: OperatingPoint,
    points: Sequence[OperatingPoint],
    guideline: Guideline,
    level: float,
) -> Excess:
    count = observed[point.category]
    milder = _milder(observed, cells, point, points, guideline)
    tail = false_positive_tail(cells, point, milder)
    null = _null_rates(cells, point, milder)
    critical = int(np.argmax(tail <= level)) if (tail <= level).any() else None
    return Excess(
        category=point.category,
        observed=count,
        cells=cells,
        expected=float(null.mean() * cells),
        p=float(tail[count]),
        confidence=_confidence(count, cells, null, point.found, guideline),
        visible=None if critical is None else _visible(critical, cells, null, point.found),
    )


def _milder(
    observed: Mapping[str, int],
    cells: int,
    point: OperatingPoint,
    points: Sequence[OperatingPoint],
    guideline: Guideline,
) -> int:
    """How many abnormal cells of milder categories are reckoned with: all abnormal ones there seem to be."""
    if point.milder is None:
        return 0
    whole = next(p for p in points if point.category in chain_of(p.category, guideline))
    rate, normal, found = observed[whole.category] / cells, whole.normal.mean, whole.found.mean
    return round(cells * min(max((rate - normal) / max(found - normal, 1e-9), 0.0), 1.0))


def false_positive_tail(cells: int, point: OperatingPoint, milder: int = 0) -> NDArray[np.float64]:
    """P(at least x false positives) for x of 0 to `cells`, `milder` of which are abnormal but milder."""
    pmf = _beta_binomial(cells - milder, point.normal)
    if milder and point.milder:
        pmf = np.maximum(signal.fftconvolve(pmf, _beta_binomial(milder, point.milder)), 0)
    return np.minimum(np.cumsum(pmf[::-1])[::-1], 1.0)


def _beta_binomial(n: int, rate: Rate) -> NDArray[np.float64]:
    """P(x) for x of 0 to n (Skellam 1948, J R Stat Soc B 10:257)."""
    a, b = rate.beta
    x = np.arange(n + 1)
    choose = special.gammaln(n + 1) - special.gammaln(x + 1) - special.gammaln(n - x + 1)
    return np.exp(choose + special.betaln(x + a, n - x + b) - special.betaln(a, b))


def _null_rates(cells: int, point: OperatingPoint, milder: int) -> NDArray[np.float64]:
    """Equally likely shares of false positives among all cells."""
    share = milder / cells if point.milder else 0.0
    return (1 - share) * point.normal.quantiles() + share * (point.milder.mean if point.milder else 0.0)


def _confidence(
    count: int, cells: int, null: NDArray[np.float64], found: Rate, guideline: Guideline
) -> float:
    shares = np.geomspace(guideline["smallest_share"], 1, STEPS)[:, None, None]
    rates = (1 - shares) * null[:, None] + shares * found.quantiles()
    prior = guideline["prior_abnormal"]
    logs = np.array(
        [
            math.log(1 - prior) + _log_mean(stats.binom.logpmf(count, cells, null)),
            math.log(prior) + _log_mean(stats.binom.logpmf(count, cells, rates)),
        ]
    )
    return float(special.softmax(logs)[1])


def _log_mean(logs: NDArray[np.float64]) -> float:
    return float(np.asarray(special.logsumexp(logs))) - math.log(logs.size)


def _visible(critical: int, cells: int, null: NDArray[np.float64], found: Rate) -> float | None:
    shares = np.geomspace(1 / cells, 1, STEPS)
    rates = (1 - shares[:, None]) * null + shares[:, None] * found.mean
    power = stats.binom.sf(critical - 1, cells, rates).mean(axis=1)
    return float(shares[np.argmax(power >= POWER)]) if (power >= POWER).any() else None


def triage_score(
    probabilities: Mapping[str, NDArray[np.floating]], guideline: Guideline
) -> tuple[float, NDArray[np.float64]]:
    """How soon somebody should look, 0 to 1, and how suspicious each cell is, (n,).

    `probabilities`: by category, (n,) each. A cell's suspicion is its probabilities weighed by
    `triage_weights`; the score is the mean over the `triage_cells` most suspicious. It says nothing of how
    many cells there are and is no category: one true cell among thousands moves it, as do false positives.
    """
    weights = guideline["triage_weights"]
    n = len(next(iter(probabilities.values()), ()))
    suspicion = np.zeros(n)
    for name, values in probabilities.items():
        suspicion += weights.get(name, 0.0) * np.asarray(values, np.float64)
    top = np.sort(suspicion)[::-1][: guideline["triage_cells"]]
    return (float(top.mean()) if n else 0.0), suspicion
