"""Lymphocytes in the stroma of a tumour, and stroma per tumour, from areas of tiles."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from coverslip.workflows.histology.reading import Reading, lacking
from coverslip.workflows.histology.tumour import Tumour
from coverslip.workflows.result import Finding, Measurement
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.stroma import in_steps, stroma_category, stroma_share, stromal_til, til_band

TIL, RATIO = "stromal lymphocytes", "stroma of tumour and stroma"


def tumour_bed(grid: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """What lies between tumour: the mask closed by a disc and filled, bool (rows, columns).

    `grid`: tiles of tumour; `reach`: the disc's radius in tiles. Stands for "inside the invasive border",
    which tiles of classes do not show.
    """
    if not grid.any():
        return grid
    # Room for the disc, so that the border of the grid is no border of the tissue.
    wide = np.pad(grid, ceil(reach) + 1)
    grown = _distance(~wide) <= reach
    closed = _distance(grown) > reach
    filled = ndimage.binary_fill_holes(closed | wide)
    inner = slice(ceil(reach) + 1, -ceil(reach) - 1)
    return np.asarray(filled)[inner, inner]


def _distance(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each place inside to the nearest outside, in tiles."""
    return np.asarray(ndimage.distance_transform_edt(inside), np.float64)


def read_stroma(
    tumour: Tumour, bed_mm: float, least_mm2: float, til_rules: Guideline, ratio_rules: Guideline
) -> Reading:
    """Both measurements, within the tumour's bed; not evaluable on less than `least_mm2` of it."""
    if not tumour.roles.tumour:
        return lacking(TIL, "tumour") + lacking(RATIO, "tumour")
    tiles = tumour.tiles
    bed = tiles.on_grid(tumour_bed(tiles.grid(tumour.inside), bed_mm / tiles.side_mm))
    where = f"within the tumour's bed (tumour tiles closed over {bed_mm:g} mm, holes filled), on average"
    return _lymphocytes(tumour, bed, where, least_mm2, til_rules) + _ratio(
        tumour, bed, where, least_mm2, ratio_rules
    )


def _lymphocytes(
    tumour: Tumour, bed: NDArray[np.bool_], where: str, least_mm2: float, rules: Guideline
) -> Reading:
    tiles, roles = tumour.tiles, tumour.roles
    if not roles.lymphocytes:
        return lacking(TIL, "lymphocytes")
    if not roles.stroma:
        return lacking(TIL, "stroma")
    infiltrate = bed & tiles.of(roles.lymphocytes)
    stroma = infiltrate | (bed & tiles.of(roles.stroma))
    area = tiles.area_mm2(stroma)
    enough = area > 0 and area >= least_mm2
    value = stromal_til(tiles.area_mm2(infiltrate), area) if enough else None
    method = (
        f"area of lymphocyte tiles per area of stroma and lymphocyte tiles, {where}; an approximation: "
        "a tile is all lymphocytes or none, scattered ones in stroma count as none, cells are not counted"
    )
    note = None if enough else _too_little(area, "stroma", least_mm2)
    measured = Measurement(name=TIL, value=value, unit="%", method=method, n=int(stroma.sum()), note=note)
    if value is None:
        return Reading((measured,))
    bands = " and ".join(f"{cut:g} %" for cut in rules["cut_offs"])
    return _found(measured, f"{til_band(value, rules)} by {bands}", rules)


def _ratio(tumour: Tumour, bed: NDArray[np.bool_], where: str, least_mm2: float, rules: Guideline) -> Reading:
    tiles, roles = tumour.tiles, tumour.roles
    if not roles.stroma:
        return lacking(RATIO, "stroma")
    stroma, cancer = bed & tiles.of(roles.stroma), bed & tumour.inside
    areas = tiles.area_mm2(stroma), tiles.area_mm2(cancer)
    enough = sum(areas) > 0 and sum(areas) >= least_mm2
    value = stroma_share(*areas) if enough else None
    method = (
        f"area of stroma tiles per area of stroma and tumour tiles, {where}; the guideline scores by eye, "
        "in the field of most stroma"
    )
    note = None if enough else _too_little(sum(areas), "stroma and tumour", least_mm2)
    n = int((stroma | cancer).sum())
    measured = Measurement(name=RATIO, value=value, unit="%", method=method, n=n, note=note)
    return Reading((measured,)) if value is None else _found(measured, stroma_category(value, rules), rules)


def _found(measured: Measurement, category: str, rules: Guideline) -> Reading:
    """A share that could be measured, as the rule reports it."""
    steps = f"{in_steps(measured.value or 0.0, rules)} % in steps of {rules['step']} %"
    finding = Finding(name=measured.name, text=f"{category}; {steps}")
    return Reading((measured,), (finding,), guidelines=(rules.use(),))


def _too_little(area: float, of: str, least_mm2: float) -> str:
    return f"{area:.2g} mm² of {of} in the tumour's bed, less than the {least_mm2:g} mm² asked for"
