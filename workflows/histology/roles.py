"""Which of a model's classes is tumour, which stroma, and so on: as the user says, or by usual names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from coverslip.errors import RequestError
from coverslip.workflows.rules.guideline import Guideline


@dataclass(frozen=True, slots=True)
class RoleSettings:
    """The model's classes by what they are, as names of its own; None recognises usual names, [] is none.

    `gleason`: pattern → class, such as {3: G3}. Classes of patterns are tumour, too.
    """

    tumour: tuple[str, ...] | None = None
    stroma: tuple[str, ...] | None = None
    lymphocytes: tuple[str, ...] | None = None
    mitosis: tuple[str, ...] | None = None
    background: tuple[str, ...] | None = None
    gleason: dict[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Roles:
    """The model's classes in each role, in the model's order; () where it has none. `gleason`: pattern and
    class, by pattern; these classes are in `tumour`, too."""

    tumour: tuple[str, ...] = ()
    stroma: tuple[str, ...] = ()
    lymphocytes: tuple[str, ...] = ()
    mitosis: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    gleason: tuple[tuple[int, str], ...] = ()


PLAIN = ("tumour", "stroma", "lymphocytes", "mitosis", "background")


def find_roles(classes: Sequence[str], given: RoleSettings, names: Guideline) -> Roles:
    """The roles of a model's classes. `names`: usual names by role, as `guidelines/histology-classes.yaml`.

    Raises RequestError for a class the model lacks, or one that is said to be two things.
    """
    found = {role: _found(classes, getattr(given, role), names[role], role) for role in PLAIN}
    gleason = _gleason(classes, given.gleason, names["gleason"])
    patterns = {name for _, name in gleason}
    found["tumour"] = tuple(name for name in classes if name in found["tumour"] or name in patterns)
    for name in classes:
        roles = [role for role in PLAIN if name in found[role]]
        if len(roles) > 1:
            raise RequestError(f"class {name}", f"is said to be {' and '.join(roles)}", "say one of them")
    return Roles(**found, gleason=gleason)


def recognised(classes: Sequence[str], usual: Collection[str]) -> tuple[str, ...]:
    """Those of the classes that have one of the usual names.

    >>> recognised(["TUM", "STR", "lung_aca"], ["tum", "lung aca"])
    ('TUM', 'lung_aca')
    """
    known = {_plain(name) for name in usual}
    return tuple(name for name in classes if _plain(name) in known)


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]+", " ", name).strip().casefold()


def _found(
    classes: Sequence[str], given: Sequence[str] | None, usual: Collection[str], role: str
) -> tuple[str, ...]:
    if given is None:
        return recognised(classes, usual)
    _refuse_unknown(classes, given, role)
    return tuple(name for name in classes if name in given)


def _gleason(
    classes: Sequence[str], given: Mapping[int, str] | None, usual: Mapping[int, Collection[str]]
) -> tuple[tuple[int, str], ...]:
    if given is None:
        each = {pattern: recognised(classes, names) for pattern, names in usual.items()}
        return tuple((pattern, name) for pattern, found in sorted(each.items()) for name in found)
    _refuse_unknown(classes, tuple(given.values()), "gleason")
    return tuple(sorted(given.items()))


def _refuse_unknown(classes: Sequence[str], given: Sequence[str], role: str) -> None:
    unknown = [name for name in given if name not in classes]
    if unknown:
        raise RequestError(
            f"roles.{role}",
            f"names no class of the model: {', '.join(unknown)}",
            f"name {', '.join(classes)}",
        )
