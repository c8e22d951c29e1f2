"""What a report shows of a smear: galleries, counts, and what was not looked for."""

from __future__ import annotations

import numpy as np

from coverslip.models.pap_finder import CLUMP, SMALL
from coverslip.workflows.cytology.calls import Reading
from coverslip.workflows.result import Abstention, Finding, Measurement, TileReference
from coverslip.workflows.rules.adequacy import Adequacy
from coverslip.workflows.rules.bethesda import Judged, severity
from coverslip.workflows.rules.guideline import Guideline

CROWDS_SHOWN = 6


def abstentions_of(reading: Reading, guideline: Guideline, model: str) -> tuple[Abstention, ...]:
    """What was not looked for, by name: a model without a class for it cannot say that it is absent."""
    roles, found = reading.cells.roles, []
    if reading.adequacy.satisfactory is None:
        found.append(Abstention(what="adequacy", why=reading.adequacy.why))
    if reading.obscured is None:
        found.append(Abstention(what="obscuring", why="the picture of the slide does not show it"))
    if "endocervical" not in roles:
        why = f"not assessed: {model} has no class for endocervical or metaplastic cells"
        found.append(Abstention(what="endocervical component", why=why))
    missing = [name for name in guideline["organisms"] if name not in roles]
    if missing:
        why = f"not assessed: {model} has no class for {', '.join(missing)}"
        found.append(Abstention(what="organisms", why=why))
    glandular = [name for name in guideline["glandular"] if name not in roles]
    if glandular:
        why = f"not assessed: {model} has no class for {', '.join(glandular)}"
        found.append(Abstention(what="glandular lesions", why=why))
    judged = {each.category for each in reading.judged.excesses}
    unmeasured = [name for name in severity(guideline) if name in roles and name not in judged]
    if unmeasured:
        why = "too few such cells were measured to tell them from false positives; they count as milder ones"
        found.append(Abstention(what=f"category {', '.join(unmeasured)}", why=why))
    return tuple(found)


def findings_of(reading: Reading, guideline: Guideline, per_category: int) -> tuple[Finding, ...]:
    """Adequacy; the most suspicious cells; a gallery per category, worst first; organisms; crowds."""
    cells, adequacy = reading.cells, reading.adequacy
    found = [_adequacy(adequacy)]
    familiar = np.flatnonzero(cells.familiar)
    most = cells.top(familiar, reading.suspicion, guideline["triage_cells"])
    text = f"triage score {reading.triage:.2f}: how suspicious the {len(most)} most suspicious cells are"
    tiles = tuple(cells.tile(row, float(reading.suspicion[row])) for row in most)
    found.append(Finding(name="most suspicious cells", text=text, tiles=tiles))
    abnormal = [name for name in reversed(severity(guideline)) if name in cells.roles]
    organisms = [name for name in guideline["organisms"] if name in cells.roles]
    others = [name for name in ("endocervical", "endometrial") if name in cells.roles]
    for role in (*abnormal, *organisms, *others):
        found.append(_gallery(reading, role, per_category))
    strange = np.flatnonzero(cells.called & ~cells.familiar)
    if len(strange):
        text = f"{len(strange)} cells unlike those the model learnt from; they count towards no category"
        rows = cells.top(strange, cells.score, per_category)
        shown = tuple(cells.tile(row, float(cells.score[row])) for row in rows)
        found.append(Finding(name="strange cells", text=text, tiles=shown))
    return (*found, *_crowds(reading))


def _adequacy(adequacy: Adequacy) -> Finding:
    said = adequacy.category or "not judged"
    zone = {True: "; transformation zone present", False: "; transformation zone absent", None: ""}
    return Finding(name="adequacy", text=f"{said}: {adequacy.why}{zone[adequacy.transformation_zone]}")


def _gallery(reading: Reading, role: str, most: int) -> Finding:
    cells = reading.cells
    rows = np.flatnonzero(cells.familiar & (cells.best == role))
    score = cells.of_role(role)
    tiles = tuple(cells.tile(row, float(score[row])) for row in cells.top(rows, score, most))
    text = f"{len(rows)} cells whose most probable class is {role}; false positives are among them"
    return Finding(name=f"cells called {role}", text=text, tiles=tiles)


def _crowds(reading: Reading) -> tuple[Finding, ...]:
    cells, crowds = reading.cells, reading.crowds
    if not crowds.any():
        return ()
    tiles = []
    x, y = cells.x, cells.y
    for number in range(1, min(int(crowds.max()), CROWDS_SHOWN) + 1):
        inside = crowds == number
        rim = np.array([cells.side_um / 2 / cells.mpp.x, cells.side_um / 2 / cells.mpp.y])
        low = np.maximum(np.array([x[inside].min(), y[inside].min()]) - rim, 0)
        size = np.array([x[inside].max(), y[inside].max()]) + rim - low
        score = float(reading.suspicion[inside].mean())
        tiles.append(
            TileReference(
                x=round(low[0]), y=round(low[1]), width=size[0], height=size[1], score=min(score, 1.0)
            )
        )
    text = f"{int(crowds.max())} crowds of nuclei, the largest of {int((crowds == 1).sum())}"
    return (Finding(name="crowded nuclei", text=text, tiles=tuple(tiles)),)


def measurements_of(reading: Reading, method: str) -> tuple[Measurement, ...]:
    """Counts of what was found and called, and per category what was observed and what was expected."""
    cells = reading.cells
    called, familiar = int(cells.called.sum()), int(cells.familiar.sum())
    undecided = int(cells.undecided.sum())
    how = "nuclei found on the smear, each once"
    rows = [
        Measurement(name="cells", value=called, unit="1", method=how),
        _share("strange cells", called - familiar, called, "unlike those the model learnt from"),
        _share("undecided cells", undecided, familiar, "several classes or none in the prediction set"),
    ]
    rows += [
        Measurement(
            name=f"{name} cells",
            value=int((cells.familiar & (cells.names == name)).sum()),
            unit="1",
            method="most probable class, strange cells left out",
            n=familiar,
        )
        for name in cells.classes
    ]
    for kind, name, what in (
        (SMALL, "small bodies", "below the area of a nucleus"),
        (CLUMP, "clumps", "in which no nucleus stands out"),
    ):
        count = int((cells.names == kind).sum())
        rows.append(Measurement(name=name, value=count, unit="1", method=f"dark objects {what}"))
    share = None if reading.obscured is None else 100 * reading.obscured
    rows.append(
        Measurement(
            name="obscured",
            value=share,
            unit="%",
            method="of the cellular area, too dense for nuclei to show; or as a person judged",
        )
    )
    rows.append(
        Measurement(
            name="triage score",
            value=reading.triage,
            unit="1",
            method="mean weighed probability of abnormal classes over the most suspicious cells",
        )
    )
    return (*rows, *_excesses(reading.judged, method))


def _share(name: str, part: int, whole: int, method: str) -> Measurement:
    value = 100 * part / whole if whole else None
    return Measurement(name=name, value=value, unit="%", method=method, n=whole)


def _excesses(judged: Judged, method: str) -> tuple[Measurement, ...]:
    rows = []
    for each in judged.excesses:
        name = f"{each.category} or worse"
        note = f"{each.expected:.1f} expected from false positives, p {each.p:.2g}"
        rows.append(
            Measurement(
                name=f"{name}, cells counted",
                value=each.observed,
                unit="1",
                method=method,
                n=each.cells,
                note=note,
            )
        )
        rows.append(
            Measurement(
                name=f"{name}, smallest share seen in four of five such slides",
                value=None if each.visible is None else 100 * each.visible,
                unit="%",
                method="beta-binomial false positives, see the guideline",
                n=each.cells,
                note="no share would be seen" if each.visible is None else None,
            )
        )
    return tuple(rows)
