"""A correction as a sentence."""

from __future__ import annotations

from coverslip.workflows.review.corrections import (
    ChangeCall,
    Correction,
    DrawRegion,
    Exclude,
    RejectFinding,
    Relabel,
    RemoveArea,
)


def sentence(one: Correction) -> str:
    """One line, the reason last; rows are counted from 1, as people do.

    >>> sentence(Relabel(of="cells", rows=(3,), label="3+")), sentence(ChangeCall(category="low", why="x"))
    ('cell 4 is 3+', 'called low: x')
    """
    match one:
        case Relabel():
            what = (
                f"{one.of[:-1]} {one.rows[0] + 1} is"
                if len(one.rows) == 1
                else f"{len(one.rows)} {one.of} are"
            )
            said = f"{what} {one.label}"
        case DrawRegion():
            said = f"region {one.label} drawn"
        case Exclude():
            said = "area excluded"
        case RemoveArea():
            said = "area taken back"
        case RejectFinding():
            said = f"rejected {one.finding}"
        case ChangeCall():
            said = "call withdrawn" if one.category is None else f"called {one.category}"
    return f"{said}: {one.why}" if one.why else said
