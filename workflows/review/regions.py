"""The regions and exclusions of a reviewer: as outlines of a report, and as a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from coverslip.ruo import RUO
from coverslip.tiling.geojson import VERSION
from coverslip.workflows.deep_zoom import Named
from coverslip.workflows.review.annotations import review_features
from coverslip.workflows.review.base import Base
from coverslip.workflows.review.corrections import Correction, DrawRegion, Exclude, areas_of
from coverslip.workflows.review.durable import write_durably

# Okabe and Ito (2008): apart for the colour-blind too.
DRAWN, EXCLUDED = "#cc79a7", "#000000"


def outlines_of(standing: tuple[Correction, ...]) -> list[Named]:
    """Those that stand, in the order they were first drawn."""
    return [_outline(area) for area in areas_of(standing).values()]


def _outline(area: DrawRegion | Exclude) -> Named:
    parts = area.geometry["coordinates"]
    polygons = [parts] if area.geometry["type"] == "Polygon" else parts
    rings = [[np.asarray(ring, np.float64)[:, :2] for ring in polygon] for polygon in polygons]
    if isinstance(area, Exclude):
        return "excluded by the reviewer", EXCLUDED, rings
    return f"drawn by the reviewer: {area.label}", DRAWN, rings


def write_review(path: Path, base: Base, standing: tuple[Correction, ...], reviewer: str) -> None:
    """GeoJSON that QuPath opens, and that `coverslip review import` reads without loss."""
    head = {"type": "FeatureCollection", "schema": "coverslip.geojson", "version": VERSION, "note": RUO}
    document = head | {"features": list(review_features(base, standing, reviewer))}
    write_durably(path, (json.dumps(document, ensure_ascii=False) + "\n").encode())
