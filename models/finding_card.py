"""What a card says of how well objects are found."""

from __future__ import annotations

from collections.abc import Iterator

from coverslip.models.caveat import of_change
from coverslip.models.star_document import FinderDocument, FoundClass


def of_finding(document: FinderDocument) -> Iterator[str]:
    """Lines of Markdown."""
    yield "## How well it does\n"
    metrics = document.metrics
    if metrics is None:
        yield "Not measured.\n"
        return
    yield (
        f"On {metrics.data}. An object is found where one of its class shares {metrics.iou:.0%} with it "
        "(intersection over union).\n"
    )
    yield "| class | there | found | F1 (95 % interval) | precision | recall | error of counts |"
    yield "|---|---|---|---|---|---|---|"
    for entry in metrics.classes:
        yield _row(entry)
    yield (
        "\nThe error of counts is the mean over pictures, per object there; in brackets that of all pictures "
        "together.\n"
    )
    yield from of_change(document.stain_change)
    yield "## When it doubts\n"
    listed = ", ".join(
        f"{name} {score:g}" for name, score in zip(document.classes, document.thresholds, strict=True)
    )
    yield f"- Objects are called from these scores on: {listed}."
    yield "- Scores are not calibrated, and it cannot tell pictures unlike those it learnt from.\n"


def _row(entry: FoundClass) -> str:
    counts = f"| {entry.name.replace('|', chr(92) + '|')} | {entry.there} | {entry.found} |"
    if entry.f1 is None or entry.interval is None:
        return f"{counts} none to test on | | | |"
    low, high = entry.interval
    shares = " | ".join("" if share is None else f"{share:.3f}" for share in (entry.precision, entry.recall))
    error = ""
    if entry.count_error is not None and entry.total_error is not None:
        error = f"{entry.count_error:.1%} ({entry.total_error:+.1%})"
    return f"{counts} {entry.f1:.3f} ({low:.3f} to {high:.3f}) | {shares} | {error} |"
