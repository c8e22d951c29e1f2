"""The cells of one tile: where each is, how dense its stains are, how strongly it counts as stained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.models.compartments import CellShape, grow, measure_compartments
from coverslip.models.nuclei import Labels, Nuclei, find_nuclei, measure_nuclei
from coverslip.tiling.stain import StainVectors, separate
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.palette import INTENSITY

NAMES = tuple(name for name, _ in INTENSITY.values())
Bins = NDArray[np.int64]
# Of the stained cells, the share with a nucleus denser than its cytoplasm was 11 and 12 % with an antibody of
# membrane and cytoplasm (one field at two scales), 48 to 94 % with Ki-67 (four fields).
MOST_NUCLEAR = 0.3
# Fewer stained cells than these tell nothing.
ENOUGH_STAINED = 20


@dataclass(frozen=True, slots=True, eq=False)
class TileCells:
    """All cells of a tile with its halo. `drawn`: int32 (h, w), the nuclei or, for membrane markers, the
    cells; `bins`: 0 to 3 of each. `columns`: what the table says of each besides its place and class."""

    nuclei: Nuclei
    drawn: Labels
    bins: Bins
    columns: dict[str, NDArray[np.float64]]

    def rows(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        keep: NDArray[np.bool_],
        told: Mapping[str, NDArray[np.bool_]],
    ) -> pa.Table:
        """Of the kept cells; `x`, `y`: level-0 pixels. `told`: columns of the kept ones alone."""
        columns = {name: values[keep] for name, values in self.columns.items()}
        classes = pa.array(NAMES).take(pa.array(self.bins[keep], pa.int64()))
        return pa.table({"x": x[keep], "y": y[keep], **columns, **told, "class": classes})


def find_cells(rgb: NDArray[np.uint8], vectors: StainVectors, choices: IhcSettings) -> TileCells:
    """uint8 (h, w, 3) at `choices.mpp`."""
    stains = separate(rgb, vectors)
    haematoxylin, dye = np.ascontiguousarray(stains[..., 0]), np.ascontiguousarray(stains[..., 1])
    labels = find_nuclei(haematoxylin, dye, choices.mpp, choices.found_by)
    nuclei = measure_nuclei(labels, haematoxylin, dye, choices.mpp)
    of_dye = vectors.names[1].lower()
    columns = {
        "area_um2": nuclei.area_um2,
        "haematoxylin_od_mean": nuclei.haematoxylin,
        f"{of_dye}_od_mean": nuclei.dab,
    }
    if not choices.whole_cells:
        return TileCells(nuclei, labels, intensity_bins(nuclei.dab, choices), columns)
    cells = grow(labels, choices.cell.expansion_um / choices.mpp)
    found = measure_compartments(labels, cells, nuclei, dye, choices.mpp, choices.cell)
    weak = choices.score.thresholds[0]
    membrane, complete = found.membrane(weak), found.completeness(weak)
    columns |= {
        "cell_area_um2": found.cell_area_um2,
        f"cytoplasm_{of_dye}_od_mean": found.cytoplasm,
        f"membrane_{of_dye}_od": membrane,
        "membrane_complete": complete,
    }
    if not choices.kind.in_membrane:
        return TileCells(nuclei, labels, intensity_bins(nuclei.dab, choices), columns)
    bins = intensity_bins(membrane, choices)
    bins = pattern_bins(bins, complete, choices.cell) if choices.kind.reading == "HER2" else bins
    bins[complete < choices.cell.partial] = 0
    return TileCells(nuclei, cells, bins, columns)


def intensity_bins(density: NDArray[np.float64], choices: IhcSettings) -> Bins:
    """0 to 3 for negative to 3+; a threshold is reached at equality."""
    return np.searchsorted(np.asarray(choices.score.thresholds), density, side="right").astype(np.int64)


def pattern_bins(intensity: Bins, complete: NDArray[np.float64], shape: CellShape) -> Bins:
    """HER2's score of single cells: 3 for intense complete, 2 for weak or moderate complete and for moderate
    or intense incomplete, 1 for faint incomplete."""
    whole = complete >= shape.complete
    return np.where(whole, np.maximum(intensity, np.minimum(intensity * 2, 2)), np.minimum(intensity, 2))


def nuclear_doubt(cells: pa.Table, dye: str, weak: float) -> str | None:
    """Why cells cannot be read by their membranes: the antibody stains nuclei; None where it does not.

    `weak`: least density of a stained nucleus or membrane.
    """
    nucleus, cytoplasm = (cells[f"{part}{dye.lower()}_od_mean"].to_numpy() for part in ("", "cytoplasm_"))
    stained = np.asarray(cells["class"].to_numpy(zero_copy_only=False)) != NAMES[0]
    stained |= nucleus >= weak
    if stained.sum() < ENOUGH_STAINED:
        return None
    share = float(np.mean(nucleus[stained] > cytoplasm[stained]))
    if share <= MOST_NUCLEAR:
        return None
    said = f"{100 * share:.0f} % of the stained cells have a nucleus denser than their cytoplasm"
    return f"{said}: no membrane marker"
