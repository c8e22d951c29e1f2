"""A model's card: all its document says, in Markdown, for a person who must decide whether to trust it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from coverslip.models.caveat import of_change, of_distance, of_reliability, of_sets
from coverslip.models.document import Corrections, Familiarity, Metrics, ModelDocument, Probe, Training
from coverslip.models.finding_card import of_finding
from coverslip.models.kinds import AnyDocument, ClassDocument
from coverslip.models.licence import commercial_use
from coverslip.models.slide_document import SlideModelDocument, SlideTraining
from coverslip.models.star_document import FinderDocument
from coverslip.models.tint import ColourStatistics

SHOWN_RESULTS = 5
COMMERCE: Mapping[bool | None, str] = {
    True: "allows commercial use",
    False: "does not allow commercial use",
    None: "whether it allows commercial use is not known",
}


def render_card(document: AnyDocument) -> str:
    """Markdown, UTF-8, ending with the research-use line. What is not known is said to be so."""
    if isinstance(document, FinderDocument):
        return "\n".join([*_head(document), *_learnt(document), *of_finding(document), *_foot(document)])
    return "\n".join(
        [*_head(document), *_training(document), *_metrics(document), *_doubt(document), *_foot(document)]
    )


def _head(document: AnyDocument) -> Iterator[str]:
    yield f"# {document.name} {document.version}\n"
    yield f"- Says: {', '.join(document.classes)} ({document.task})"
    if isinstance(document, ModelDocument):
        yield from _of_tiles(document)
    elif isinstance(document, FinderDocument):
        yield from _of_pictures(document)
    else:
        yield from _of_slides(document)
    yield f"- Licence: {document.licence} ({COMMERCE[commercial_use(document.licence)]})"
    yield f"- Meant for: {document.intended_use}\n"


def _of_tiles(document: ModelDocument) -> Iterator[str]:
    tile = document.tile
    low, high = tile.mpp * (1 - tile.tolerance), tile.mpp * (1 + tile.tolerance)
    yield f"- Tiles: {tile.size} × {tile.size} px at {tile.mpp:g} µm/px ({low:.3g} to {high:.3g})"
    yield f"- Stain: {document.stain or 'not stated'}"
    yield f"- Network: {document.architecture.name} of {document.architecture.library}"
    if document.probe:
        yield f"- On features of the encoder {document.probe.encoder}: {_estimator(document.probe)}"


def _estimator(probe: Probe) -> str:
    named = {
        "linear": "logistic regression",
        "simpleshot": "nearest class mean of directions (SimpleShot)",
        "prototypes": "nearest class mean",
        "knn": f"votes of the {probe.neighbours} nearest tiles",
    }
    shots = f", from {probe.shots} tiles of each class" if probe.shots else ""
    return named[probe.method] + shots


def _of_pictures(document: FinderDocument) -> Iterator[str]:
    low, high = document.mpp * (1 - document.tolerance), document.mpp * (1 + document.tolerance)
    yield f"- Finds: {'outlines' if document.shape == 'star' else 'upright boxes'}"
    yield f"- Pictures: at {document.mpp:.3g} µm/px ({low:.3g} to {high:.3g})"
    yield f"- Stain: {document.stain or 'not stated'}"
    yield f"- Network: {document.architecture.name}"


def _of_slides(document: SlideModelDocument) -> Iterator[str]:
    yield f"- Takes: {document.features} features of each tile, by the encoder {document.encoder}"
    if document.tile:
        yield f"- Tiles: {document.tile.size} × {document.tile.size} px at {document.tile.mpp:g} µm/px"
    yield f"- Network: {document.aggregator}"


def _learnt(document: FinderDocument) -> Iterator[str]:
    yield "## What it learnt from\n"
    training = document.training
    if training is None:
        yield "Not stated.\n"
        return
    yield f"{training.data}.\n"
    parts = training.parts
    yield f"- {training.pictures} pictures of {training.groups} groups, {training.objects} objects"
    yield f"- {parts.train} to train, {parts.validation} to choose, {parts.test} only measured"
    yield f"- Began with random weights; {training.steps} steps, seed {training.seed}"
    yield f"- Labels: sha256 {training.labels_sha256}\n"


def _training(document: ClassDocument) -> Iterator[str]:
    yield "## What it learnt from\n"
    training = document.training
    if training is None:
        yield "Not stated.\n"
        return
    yield f"{training.data}.\n"
    yield from _tiles_learnt(training) if isinstance(training, Training) else _slides_learnt(training)
    yield f"- Labels: sha256 {training.labels_sha256}\n"


def _tiles_learnt(training: Training) -> Iterator[str]:
    parts = training.parts
    yield f"- {training.tiles} tiles of {training.groups} groups"
    yield f"- {parts.train} to train, {parts.validation} to choose, {parts.test} only measured"
    epochs = f"{training.epochs} epochs, " if training.epochs else ""
    yield f"- Began with {training.initialisation}; {epochs}seed {training.seed}"
    yield from _corrected(training.corrections) if training.corrections else []


def _corrected(corrections: Corrections) -> Iterator[str]:
    """What of the labels came from reviews."""
    people = f"{corrections.reviewers} reviewer{'s' * (corrections.reviewers > 1)}"
    named = f" ({', '.join(corrections.names)})" if corrections.names else ""
    kept = corrections.labels - corrections.changed
    signed = "signed reviews" if corrections.signed else "reviews, not all signed,"
    yield (
        f"- Of the labels, {corrections.labels} came from {signed} by {people}{named}: "
        f"{corrections.changed} change what a machine had said, {kept} confirm it"
    )
    if corrections.disagreed or corrections.excluded:
        yield (
            f"- Left out: {corrections.disagreed} on which reviewers disagree, {corrections.excluded} in "
            "areas where one said that nothing counts"
        )
    if corrections.learnt_only:
        yield "- Labels from reviews were learnt from, not measured on: they were chosen for being hard"
    more = len(corrections.results) - SHOWN_RESULTS
    listed = ", ".join(corrections.results[:SHOWN_RESULTS])
    yield f"- Reviewed results: {listed}{f' and {more} more, see model.json' if more > 0 else ''}"


def _slides_learnt(training: SlideTraining) -> Iterator[str]:
    yield f"- {training.slides} slides of {training.groups} groups, {training.tiles} tiles in all"
    how = f"cross-validated in {training.folds} folds" if training.folds else "one part only measured"
    yield f"- {how}; {training.epochs} epochs, seed {training.seed}"


def _metrics(document: ClassDocument) -> Iterator[str]:
    yield "## How well it does\n"
    if document.metrics is None:
        yield "Not measured.\n"
        return
    metrics = document.metrics
    low, high = metrics.interval
    yield f"On {metrics.data}.\n"
    yield (
        f"Balanced accuracy {metrics.balanced_accuracy:.3f} ({low:.3f} to {high:.3f}, {metrics.level:.0%} "
        f"bootstrap over {metrics.groups} groups); {metrics.n} {_noun(document)}.\n"
    )
    yield from of_change(document.stain_change) if isinstance(document, ModelDocument) else []
    yield from _classes(metrics, _noun(document))
    yield from _confusion(metrics)


def _noun(document: ClassDocument) -> str:
    return "tiles" if isinstance(document, ModelDocument) else "slides"


def _classes(metrics: Metrics, noun: str) -> Iterator[str]:
    yield f"| class | {noun} | called right |"
    yield "|---|---|---|"
    for entry in metrics.classes:
        right = "none to test on" if entry.accuracy is None else f"{entry.accuracy:.1%}"
        yield f"| {_cell(entry.name)} | {entry.n} | {right} |"
    yield ""


def _confusion(metrics: Metrics) -> Iterator[str]:
    names = [_cell(entry.name) for entry in metrics.classes]
    yield f"| is ↓, called → | {' | '.join(names)} |"
    yield f"|---|{'---|' * len(names)}"
    for name, row in zip(names, metrics.confusion, strict=True):
        yield f"| {name} | {' | '.join(map(str, row))} |"
    yield ""


def _doubt(document: ClassDocument) -> Iterator[str]:
    yield "## When it doubts\n"
    calibration = document.calibration
    if calibration is None:
        yield "- Probabilities are not calibrated."
    else:
        fitted = f"fitted on {calibration.n} {_noun(document)} it did not learn from"
        yield f"- Temperature {calibration.temperature:.3g}, {fitted}."
    yield from of_reliability(document.reliability)
    yield from of_sets(document.prediction_sets, document.classes)
    yield _unfamiliar(document.out_of_distribution)
    yield _colour(document.colour) if isinstance(document, ModelDocument) else ""


def _unfamiliar(known: Familiarity | None) -> str:
    if known is None:
        return "- It cannot tell tiles unlike those it learnt from."
    return (
        f"- A tile further than {known.limit:.3g} from what it learnt from is called unfamiliar; of "
        f"tiles like those, {1 - known.quantile:.1%} are. The distance is {of_distance(known)}."
    )


def _colour(known: ColourStatistics | None) -> str:
    if known is None:
        return "- Which colours it learnt from is not known.\n"
    return (
        f"- Of tiles coloured like those it learnt from, {known.quantile:.1%} lie within {known.limit:.3g} "
        f"standard deviations; their mean density is {known.mean[0]:.2f} (log10).\n"
    )


def _foot(document: AnyDocument) -> Iterator[str]:
    made = ", ".join(f"{name} {version}" for name, version in document.created_with.items())
    yield f"Weights: sha256 {document.weights_sha256}. Made with {made or 'what is not stated'}.\n"
    yield f"**{document.research_use}**"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
