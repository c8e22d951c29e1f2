"""What a card says of a model's doubt, a line at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coverslip.models.document import ChangedFigure, Familiarity, OutOfDistribution
from coverslip.models.doubt import Energy, Miscalibration, PredictionSets, Reliability


def of_distance(known: Familiarity) -> str:
    """What kind of distance it is."""
    if isinstance(known, OutOfDistribution):
        return "the root mean square of the standardised features"
    if isinstance(known, Energy):
        return "the energy of the logits"
    return "Mahalanobis', of the features to the nearest class mean"


def of_reliability(found: Reliability | None) -> Iterator[str]:
    if found is None:
        yield "- How far its probabilities are from what happens was not measured."
        return
    yield f"- Expected calibration error {_miscalibration(found.before)} before the temperature."
    yield f"- After it {_miscalibration(found.after)}."
    yield (
        f"- These are of {found.n} test tiles of {found.groups} groups, in {len(found.after.bins)} bins of "
        f"equal width; {found.level:.0%} bootstrap over groups. Of a perfectly calibrated model as few tiles "
        f"would show {found.by_chance:.3f}."
    )


def _miscalibration(found: Miscalibration) -> str:
    (low, high), (least, most) = found.ece_interval, found.brier_interval
    brier = f"{found.brier:.3f} ({least:.3f} to {most:.3f})"
    return f"{found.ece:.3f} ({low:.3f} to {high:.3f}), Brier score {brier}"


def of_sets(known: PredictionSets | None, classes: tuple[str, ...]) -> Iterator[str]:
    if known is None:
        yield "- It gives no prediction sets."
        return
    each = ", for each class" if known.by_class else ""
    yield (
        f"- Prediction sets ({known.method}) hold the true class on {known.coverage:.0%}{each} of tiles like "
        f"the {known.n} of {known.groups} groups they were fitted on, a group counting once."
    )
    always = [name for name, threshold in zip(classes, known.thresholds, strict=True) if threshold == 1]
    if always:
        yield f"- Never ruled out, for want of groups or of certainty, so in every set: {', '.join(always)}."
    if found := known.measured:
        low, high = found.interval
        yield (
            f"- Measured on {found.n} test tiles of {found.groups} groups: {found.coverage:.1%} "
            f"({low:.1%} to {high:.1%}, {found.level:.0%} bootstrap over groups); {found.one:.1%} of the "
            f"sets hold one class, {found.several:.1%} several, {found.none:.1%} none."
        )


def of_change(found: Sequence[ChangedFigure]) -> Iterator[str]:
    """What becomes of its figure under another stain."""
    if not found:
        yield "How it does under another stain was not measured.\n"
        return
    listed = ", ".join(f"{entry.change} {entry.figure:.3f}" for entry in found)
    yield f"The same tiles or pictures stained otherwise: {listed}.\n"
