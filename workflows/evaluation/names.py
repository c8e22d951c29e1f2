"""Which of the slides that were looked at a line of the truth names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from coverslip.errors import RequestError
from coverslip.workflows.inputs import SLIDE_SUFFIXES

ENDINGS = SLIDE_SUFFIXES | {".zarr", ".ome"}


def match_slides(wanted: Sequence[str], there: Mapping[str, Sequence[str]], subject: str) -> list[str | None]:
    """For each of `wanted` the key of `there` whose names it is one of; None where there is none.

    A name fits exactly, else without folder, else without folder and a slide's ending. Raises RequestError
    where two fit equally well, or two of `wanted` are the same slide.
    """
    found: list[str | None] = [None] * len(wanted)
    steps = (str, _base, _stem)
    for step in steps:
        by_name: dict[str, set[str]] = {}
        for key, names in there.items():
            for name in names:
                by_name.setdefault(step(name), set()).add(key)
        for place, name in enumerate(wanted):
            if found[place] is None:
                found[place] = _only(name, by_name.get(step(name), set()), subject)
    _refuse_twice(wanted, found, subject)
    return found


def _only(name: str, keys: set[str], subject: str) -> str | None:
    if len(keys) > 1:
        listed = ", ".join(sorted(keys))
        raise RequestError(subject, f"{name} may be any of {listed}", "write their whole names")
    return next(iter(keys), None)


def _refuse_twice(wanted: Sequence[str], found: Sequence[str | None], subject: str) -> None:
    first: dict[str, str] = {}
    for name, key in zip(wanted, found, strict=True):
        other = first.setdefault(name if key is None else key, name)
        if other is not name:
            raise RequestError(subject, f"{name} and {other} are the same slide", "keep one of these lines")


def _base(name: str) -> str:
    return os.path.basename(name.rstrip("/"))


def _stem(name: str) -> str:
    """Without the endings that slides have, and no others: what follows a dot may tell two slides apart.

    >>> _stem("a/case.1.ome.tif"), _stem("case.1")
    ('case.1', 'case.1')
    """
    base = _base(name)
    while os.path.splitext(base)[1].lower() in ENDINGS:
        base = os.path.splitext(base)[0]
    return base
