"""What a cell model's classes are in the Bethesda System, and how often it is known to be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.document import Metrics, ModelDocument
from coverslip.workflows.result import GuidelineUse
from coverslip.workflows.rules.bethesda import OperatingPoint, Rate, chain_of, severity
from coverslip.workflows.rules.guideline import Guideline, known_guidelines, load_guideline

# Files of operating points that come with Coverslip are named so.
POINTS = "-points"


@dataclass(frozen=True, slots=True)
class Points:
    """`points`: one for each category that can be given. `use`: of the file they are from, None where they
    are the model's own confusion. `preparations`: those the points hold for; () where none is stated."""

    points: tuple[OperatingPoint, ...]
    method: str
    use: GuidelineUse | None = None
    preparations: tuple[str, ...] = ()


def roles_of(classes: Sequence[str], guideline: Guideline) -> tuple[str, ...]:
    """What each class is called in the guideline: a category, an organism, …; "" for one it does not know.

    >>> from coverslip.workflows.rules.guideline import load_guideline
    >>> roles_of(["asc_us", "Trichomonas", "dust"], load_guideline("bethesda-2014"))
    ('ASC-US', 'Trichomonas vaginalis', '')
    """
    known = {_plain(name): role for role, names in guideline["names"].items() for name in (role, *names)}
    return tuple(known.get(_plain(name), "") for name in classes)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def check_roles(document: ModelDocument, guideline: Guideline) -> tuple[str, ...]:
    """`roles_of` its classes. Raises ModelMismatchError for one without normal or without abnormal cells."""
    roles = roles_of(document.classes, guideline)
    abnormal = set(severity(guideline))
    if guideline["negative"] not in roles or not abnormal & set(roles):
        raise ModelMismatchError(
            document.name,
            f"has classes ({', '.join(document.classes)}) that are not those of cervical cells",
            "name a model with NILM and abnormal classes, or name its classes in a guideline of your own",
        )
    return roles


def at_least(
    probabilities: NDArray[np.floating], roles: Sequence[str], category: str, guideline: Guideline
) -> NDArray[np.float64]:
    """The probability of this category or a worse one: (n, classes) to (n,)."""
    chain = chain_of(category, guideline)
    return np.asarray(probabilities[:, [role in chain for role in roles]], np.float64).sum(axis=1)


def counts_towards(
    probabilities: NDArray[np.floating], roles: Sequence[str], point: OperatingPoint, guideline: Guideline
) -> NDArray[np.bool_]:
    """Which cells count towards a category, (n,)."""
    if point.threshold is not None:
        return at_least(probabilities, roles, point.category, guideline) >= point.threshold
    chain = chain_of(point.category, guideline)
    return np.array([role in chain for role in roles])[probabilities.argmax(axis=1)]


def points_of(document: ModelDocument, guideline: Guideline, given: str | None) -> Points:
    """The operating points of a model.

    `given`: a YAML file, or the id of one that comes with Coverslip; by default the one that was measured for
    these weights, else what the model's test part says of its most probable classes. Raises RequestError for
    a file of other weights, ModelMismatchError for a model that states no confusion.
    """
    if given is not None:
        file = load_guideline(given)
        if file["weights_sha256"] != document.weights_sha256:
            raise RequestError(given, f"is not of the weights of {document.name}", "measure this model's own")
        return _from_file(file)
    for name in known_guidelines():
        if name.endswith(POINTS) and load_guideline(name)["weights_sha256"] == document.weights_sha256:
            return _from_file(load_guideline(name))
    if document.metrics is None:
        raise ModelMismatchError(
            document.name,
            "does not say how often it takes normal cells for abnormal ones",
            "name a model with a test part, or give operating points",
        )
    return _from_confusion(document.metrics, document.classes, guideline)


def _from_file(file: Guideline) -> Points:
    points = tuple(_point(category, values, file.id) for category, values in file["points"].items())
    return Points(points, file["method"], file.use(), tuple(file["preparations"]))


def _point(category: str, values: Mapping[str, Any], subject: str) -> OperatingPoint:
    try:
        normal, found = (Rate(*values[name]) for name in ("normal", "found"))
        milder = Rate(*values["milder"]) if values.get("milder") else None
        return OperatingPoint(category, values["threshold"], normal, milder, found)
    except (KeyError, TypeError) as error:
        raise RequestError(
            f"{subject}, {category}", "is no operating point", "give threshold, normal, milder and found"
        ) from error


def _from_confusion(metrics: Metrics, classes: Sequence[str], guideline: Guideline) -> Points:
    """Each category for which the test part had cells: its rates among the most probable classes."""
    roles, confusion = roles_of(classes, guideline), np.array(metrics.confusion)
    negative = guideline["negative"]
    abnormal = set(severity(guideline))
    points = []
    for category in severity(guideline):
        chain = chain_of(category, guideline)
        if category not in roles:
            continue
        called = confusion[:, [role in chain for role in roles]].sum(axis=1)
        rows = {
            "normal": [role == negative for role in roles],
            "milder": [role in abnormal and role not in chain for role in roles],
            "found": [role in chain for role in roles],
        }
        rates = {name: Rate(int(called[row].sum()), int(confusion[row].sum())) for name, row in rows.items()}
        milder = rates["milder"] if rates["milder"].of else None
        points.append(OperatingPoint(category, None, rates["normal"], milder, rates["found"]))
    return Points(tuple(points), f"most probable class; false positives as in {metrics.data}")
