"""The cells of a whole smear: what each was called, and which crowd together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from coverslip.workflows.result import TileReference
from coverslip.wsi import Mpp

# A column of rows that a person gave a class to.
SURE = "sure"


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Objects of a slide, arrays of length n; make one with `cells_of`.

    `x`, `y`: level-0 pixels. `names`: the model's class, or the kind of what it was not asked about; `best`:
    the guideline's name for that class, "" for none. `score`: its probability. `probabilities`: (n, classes),
    0 where the model was not asked. `called`: nuclei it was asked about; `familiar`: of these, the ones that
    are not strange to it, which alone count towards a category; `undecided`: of these, those with several
    classes or none in the prediction set. `sure`: a person says what they are. `side_um`: of the tile that
    the model saw.
    """

    classes: tuple[str, ...]
    roles: tuple[str, ...]
    mpp: Mpp
    side_um: float
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    names: NDArray[np.object_]
    best: NDArray[np.object_]
    score: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    called: NDArray[np.bool_]
    familiar: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    sure: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.x)

    def of_role(self, role: str) -> NDArray[np.float32]:
        """The probability of all classes that the guideline calls so, (n,)."""
        return self.probabilities[:, [role == other for other in self.roles]].sum(axis=1)

    def tile(self, row: int, score: float) -> TileReference:
        """The part of the slide that the model saw of a cell."""
        width, height = self.side_um / self.mpp.x, self.side_um / self.mpp.y
        return TileReference(
            x=max(0, round(self.x[row] - width / 2)),
            y=max(0, round(self.y[row] - height / 2)),
            width=width,
            height=height,
            score=min(score, 1.0),
        )

    def top(self, rows: NDArray[np.intp], score: NDArray[np.floating], most: int) -> list[int]:
        """Rows of highest score; among equals the ones further up, then left, whatever tile they are from."""
        order = np.lexsort((self.x[rows], self.y[rows], -score[rows]))
        return rows[order][:most].tolist()


def cells_of(
    table: pa.Table, classes: Sequence[str], roles: Sequence[str], mpp: Mpp, side_um: float
) -> Cells:
    """From the rows of all tiles, as `coverslip.workflows.cytology.look` writes them."""
    column = {name: table[name].to_numpy() for name in ("x", "y", "class", "score", "strange", "undecided")}
    role_of = dict(zip(classes, roles, strict=True))
    names = np.asarray(column["class"], object)
    called = np.isin(names.astype(str), list(classes))
    familiar = called & ~np.asarray(column["strange"], bool)
    probabilities = np.stack([table[f"p_{name}"].to_numpy() for name in classes], axis=1)
    return Cells(
        classes=tuple(classes),
        roles=tuple(roles),
        mpp=mpp,
        side_um=side_um,
        x=column["x"],
        y=column["y"],
        names=names,
        best=np.array([role_of.get(name, "") for name in names], object),
        score=column["score"],
        probabilities=np.nan_to_num(probabilities.astype(np.float32)),
        called=called,
        familiar=familiar,
        undecided=familiar & np.asarray(column["undecided"], bool),
        sure=table[SURE].to_numpy() if SURE in table.column_names else np.zeros(len(table), bool),
    )


def crowds_of(cells: Cells, reach_um: float, least: int) -> NDArray[np.int32]:
    """Which crowd each row belongs to, 0 for none: nuclei each nearer than `reach_um` to the next, `least` or
    more. Numbered by size, then from the top, then from the left."""
    rows = np.flatnonzero(cells.called)
    numbers = np.zeros(len(cells), np.int32)
    if not len(rows):
        return numbers
    place = np.stack([cells.x[rows] * cells.mpp.x, cells.y[rows] * cells.mpp.y], axis=1)
    pairs = KDTree(place).query_pairs(reach_um, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(rows),) * 2)
    count, member = connected_components(graph, directed=False)
    size = np.bincount(member, minlength=count)
    first = np.full((count, 2), np.inf)
    np.minimum.at(first, member, place[:, ::-1])
    order = [part for part in np.lexsort((first[:, 1], first[:, 0], -size)) if size[part] >= least]
    number = np.zeros(count, np.int32)
    number[order] = np.arange(1, len(order) + 1)
    numbers[rows] = number[member]
    return numbers
