"""A review goes to QuPath and comes back: nothing is lost, nothing is invented, and no file is trusted."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from slides import tissue, write_tiff

import coverslip
from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.workflows import cli
from coverslip.workflows.cell_table import OUTLINE, pack_outlines
from coverslip.workflows.exports.qupath import cell_features, tile_features, write_features
from coverslip.workflows.ihc.workflow import Ihc, IhcSettings
from coverslip.workflows.result import Finding
from coverslip.workflows.review import annotations, area_edits, json_stream, row_edits
from coverslip.workflows.review.annotations import (
    REVIEW,
    Brought,
    classes_of,
    read_annotations,
    review_features,
)
from coverslip.workflows.review.base import Base, read_base
from coverslip.workflows.review.corrections import (
    ChangeCall,
    Correction,
    DrawRegion,
    Exclude,
    RejectFinding,
    Relabel,
    RemoveArea,
    areas_of,
)
from coverslip.workflows.review.json_stream import read_features
from coverslip.workflows.review.row_match import RowIds

CELLS, TILES = 40, 12
LABELS = {"cells": ("negative", "1+", "2+", "3+"), "tiles": ("normal", "tumour", "Stroma: loose")}
SQUARE = {"type": "Polygon", "coordinates": [[[20, 20], [90, 20], [90, 70], [20, 70], [20, 20]]]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of IHC: cells as points."""
    folder = tmp_path_factory.mktemp("annotations")
    slide = write_tiff(folder / "a.tif", tissue(700, 500), 0.5)
    assert coverslip.run([str(slide)], folder / "out", Ihc(IhcSettings()), workers=1).failures == ()
    return folder / "out" / "slides" / "a.tif"


@dataclass(frozen=True, slots=True)
class Scene:
    """A result with outlined cells and classed tiles, and how it is written."""

    base: Base
    folder: Path

    def write(self, corrections: Sequence[Correction], name: str = "out.geojson") -> Path:
        standing = tuple(corrections)
        key, store = self.base.result.provenance.request, self.folder / "none"
        drawn = review_features(self.base, standing, "Ada")
        cells = cell_features(
            self.folder / "cells.parquet", store, key, classes_of(self.base, standing, "cells")
        )
        tiles = tile_features(
            self.folder / "tiles.parquet", store, (100, 100), key, classes_of(self.base, standing, "tiles")
        )
        write_features(self.folder / name, chain(drawn, cells, tiles))
        return self.folder / name

    def read(self, file: Path, standing: Sequence[Correction] = (), *, deleted: bool = False) -> Brought:
        return read_annotations(self.base, tuple(standing), file, deleted=deleted)

    def edit(self, corrections: Sequence[Correction], change: Callable[[list[dict[str, Any]]], Any]) -> Path:
        """What `write` wrote, with its features changed, as QuPath would write it."""
        features = json.loads(self.write(corrections).read_text(encoding="utf-8"))["features"]
        changed = change(features)
        return self.save(features if changed is None else changed)

    def save(self, document: Any, name: str = "edited.geojson") -> Path:
        if isinstance(document, list):
            document = {"type": "FeatureCollection", "features": document}
        (self.folder / name).write_text(json.dumps(document, indent=1), encoding="utf-8")
        return self.folder / name


def cells_table(count: int) -> pa.Table:
    """Octagons in rows of ten, the last one without an outline."""
    place = np.arange(count)
    x, y = 30.0 * (place % 10) + 20.37, 30.0 * (place // 10) + 15.61
    turn = np.linspace(0, 2 * np.pi, 9)
    rings = [
        np.stack([a + 8 * np.cos(turn), b + 7 * np.sin(turn)], axis=1) for a, b in zip(x, y, strict=True)
    ]
    rings[-1] = np.zeros((0, 2))
    kinds = [LABELS["cells"][n % 4] for n in range(count)]
    columns = {"x": x, "y": y, "dab": np.where(place == 3, np.nan, place / 7), "class": kinds}
    return pa.table(columns).append_column(OUTLINE, pack_outlines(rings, x, y))


@pytest.fixture(scope="module")
def scene(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    tiles = pa.table(
        {
            "x": np.arange(TILES) % 4 * 100,
            "y": np.arange(TILES) // 4 * 100,
            "class": [LABELS["tiles"][n % 3] for n in range(TILES)],
        }
    )
    cells = cells_table(CELLS)
    pq.write_table(cells, folder / "cells.parquet")
    pq.write_table(tiles, folder / "tiles.parquet")
    plain = read_base(home)
    provenance = plain.result.provenance.model_copy(
        update={"settings": {**plain.result.provenance.settings, "grid": {"size": 100, "mpp": 0.5}}}
    )
    findings = (Finding(name="mitoses", text="many"), Finding(name="necrosis", text="some"))
    result = plain.result.model_copy(update={"findings": findings, "provenance": provenance})
    with pytest.MonkeyPatch.context() as patch:
        for module in (annotations, row_edits):
            patch.setattr(module, "labels_of", lambda base, of: LABELS[of])
        yield Scene(replace(plain, result=result, cells=cells, tiles=tiles), folder)


def rows_of(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    rows = st.sets(st.integers(0, count - 1), min_size=1, max_size=6)
    return rows.map(lambda some: tuple(sorted(some)))


@st.composite
def geometries(draw: st.DrawFn, least: float) -> dict[str, Any]:
    """Boxes that lie apart, one with a hole; with `least` below 0 one may reach beyond the slide."""
    parts = []
    for number in range(draw(st.integers(1, 3))):
        x, y = 230.0 * number + draw(st.floats(least, 50)), draw(st.floats(least, 200))
        box = shapely.box(x, y, x + draw(st.floats(20, 150)), y + draw(st.floats(20, 150)))
        parts.append(box.difference(shapely.box(x + 5, y + 5, x + 11.13, y + 12.7)) if number == 1 else box)
    shape = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return json.loads(shapely.to_geojson(shape))


WHY = st.sampled_from(["", "pale", "Fußnote: “ja”"])
IDS = st.sampled_from(["r1", "7", "4b3d2f80-2f6f-4f1b-9d3e-0a1b2c3d4e5f"])
REGIONS = ["Tumor", "tumour: invasive", "tumour:in situ", "", "Ignore*", "Stroma: Loose", "Ä"]


@st.composite
def reviews(draw: st.DrawFn, least: float = -20) -> tuple[Correction, ...]:
    """Any corrections that a trail could hold, in any order."""
    found: list[Correction] = []
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["cells", "tiles", "draw", "exclude", "remove", "reject", "call"]))
        why = draw(WHY)
        match kind:
            case "cells" | "tiles":
                rows = draw(rows_of(CELLS if kind == "cells" else TILES))
                label = draw(st.sampled_from(LABELS[kind]))
                found.append(Relabel(of=kind, rows=rows, label=label, why=why))
            case "draw":
                label = draw(st.sampled_from(REGIONS))
                found.append(DrawRegion(id=draw(IDS), label=label, geometry=draw(geometries(least)), why=why))
            case "exclude":
                found.append(Exclude(id=draw(IDS), geometry=draw(geometries(least)), why=why or "fold"))
            case "remove":
                standing = sorted(areas_of(tuple(found)))
                found += [RemoveArea(id=draw(st.sampled_from(standing)), why=why)] if standing else []
            case "reject":
                gone = {one.finding for one in found if isinstance(one, RejectFinding)}
                left = sorted({"mitoses", "necrosis"} - gone)
                found += [RejectFinding(finding=left[0], why=why or "no")] if left else []
            case _:
                category = draw(st.sampled_from([None, "high", "low"]))
                found.append(ChangeCall(category=category, why=why or "seen"))
    return tuple(found)


def through_qupath(features: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """As QuPath keeps objects: corners in 24 bits, two decimals, rings turned, classes taken apart at colons
    and joined with a blank, whatever order."""
    for feature in features:
        geometry, properties = feature["geometry"], feature["properties"]
        if geometry["type"] in ("Polygon", "MultiPolygon"):
            turned = shapely.reverse(shapely.normalize(shapely.geometry.shape(geometry)))
            whole = shapely.transform(turned, lambda at: np.round(at.astype(np.float32).astype(float), 2))
            feature["geometry"] = json.loads(shapely.to_geojson(whole))
        said = properties.get("classification")
        if said:
            names = [part.strip() for part in said["name"].split(":")]
            named = {"name": names[0]} if len(names) == 1 else {"names": names}
            properties["classification"] = {**named, "color": said["color"]}
    random.Random(seed).shuffle(features)
    return features


def same_standing(scene: Scene, first: Sequence[Correction], second: Sequence[Correction]) -> None:
    """Labels and who gave them, areas, rejected findings and the call."""
    for of in ("cells", "tiles"):
        one, other = classes_of(scene.base, tuple(first), of), classes_of(scene.base, tuple(second), of)
        assert one is not None
        assert other is not None
        assert [one.names[n] for n in one.now] == [other.names[n] for n in other.now]
        assert np.array_equal(one.reason >= 0, other.reason >= 0)
    areas, others = areas_of(tuple(first)), areas_of(tuple(second))
    assert set(areas) == set(others)
    for name, area in areas.items():
        assert area_edits._same(area, others[name]), (area, others[name])
    assert {c.finding for c in first if isinstance(c, RejectFinding)} == {
        c.finding for c in second if isinstance(c, RejectFinding)
    }
    calls = [[c for c in some if isinstance(c, ChangeCall)] for some in (first, second)]
    assert calls[0][-1:] == calls[1][-1:]


@given(reviews())
@settings(max_examples=40, deadline=None)
def test_what_nobody_edited_is_no_correction(scene, review):
    assert scene.read(scene.write(review), review).corrections == ()


@given(reviews(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_on_a_fresh_review_all_is_there_again_also_through_qupath(scene, review, seed):
    assert scene.read(scene.write(review)).corrections == review
    file = scene.edit(review, lambda features: through_qupath(features, seed))
    assert scene.read(file, review).corrections == ()
    brought = scene.read(file)
    assert brought.corrections == review
    assert brought.notes == ()


@given(reviews(0), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_without_the_object_that_keeps_the_review_classes_and_areas_still_come(scene, review, seed):
    def without(features: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            one
            for one in through_qupath(features, seed)
            if REVIEW not in one["properties"].get("metadata", {})
        ]

    file = scene.edit(review, without)
    brought = scene.read(file)
    only = [one for one in review if not isinstance(one, RejectFinding | ChangeCall)]
    same_standing(scene, brought.corrections, only)
    assert scene.read(file, only).corrections == ()


@given(reviews(), reviews())
@settings(max_examples=40, deadline=None)
def test_a_review_that_went_on_keeps_what_it_has_since(scene, review, later):
    both = (*review, *(one for one in later if not isinstance(one, RemoveArea | RejectFinding)))
    if review:
        assert scene.read(scene.write(review), both).corrections == ()


def feature(features: list[dict[str, Any]], kind: str, number: int) -> dict[str, Any]:
    return [one for one in features if one["properties"]["objectType"] == kind][number]


def reclass(one: dict[str, Any], name: str) -> None:
    one["properties"]["classification"] = {"name": name, "color": [1, 2, 3]}


def test_a_class_changed_in_qupath_is_a_relabel_whatever_its_case(scene):
    def change(features):
        reclass(feature(features, "detection", 4), "NEGATIVE")
        reclass(feature(features, "detection", 6), "3+")
        reclass(feature(features, "detection", 8), "3+")
        reclass(feature(features, "detection", 0), "Negative")  # as it was
        feature(features, "tile", 5)["properties"]["classification"] = "Stroma:Loose"

    earlier = (Relabel(of="cells", rows=(4, 5), label="2+", why="brown"),)
    brought = scene.read(scene.edit(earlier, change), earlier)
    cells, more = brought.corrections[:2]
    assert cells == Relabel(of="cells", rows=(4,), label="negative")
    assert more == Relabel(of="cells", rows=(6, 8), label="3+")
    assert brought.notes == ("1 tiles have the class Stroma:Loose, which they cannot have here: left",) or (
        brought.corrections[2:] == ()
    )
    again = scene.read(scene.folder / "edited.geojson", (*earlier, *brought.corrections))
    assert again.corrections == (), "the same file a second time"


def test_unknown_and_lost_classes_are_told_and_left(scene):
    def change(features):
        reclass(feature(features, "detection", 1), "Lymphocyte")
        del feature(features, "detection", 2)["properties"]["classification"]
        features.append({**feature(features, "detection", 3), "id": str(uuid.uuid4())})
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid4()),
                "geometry": {"type": "Point", "coordinates": [5, 5]},
                "properties": {"objectType": "detection"},
            }
        )

    brought = scene.read(scene.edit((), change))
    assert brought.corrections == ()
    assert set(brought.notes) == {
        "1 cells have the class Lymphocyte, which they cannot have here: left",
        "1 cells have lost their class: left as they were",
        "1 cells are there twice: the first counts",
        "1 cells of the file are none of this result: left out",
    }


def test_ignored_cells_and_tiles_are_excluded_once(scene):
    def change(features):
        reclass(feature(features, "detection", 11), "Ignore*")
        reclass(feature(features, "detection", CELLS - 1), "ignore*")
        reclass(feature(features, "tile", 2), "Ignore*")

    file = scene.edit((), change)
    brought = scene.read(file)
    cells, tiles = brought.corrections
    assert isinstance(cells, Exclude)
    assert isinstance(tiles, Exclude)
    out = shapely.geometry.shape(cells.geometry)
    table = scene.base.cells
    inside = shapely.contains_xy(out, table["x"].to_numpy(), table["y"].to_numpy())
    assert np.flatnonzero(inside).tolist() == [11, CELLS - 1]
    assert shapely.geometry.shape(tiles.geometry).bounds == (200, 0, 300, 100)
    assert scene.read(file, brought.corrections).corrections == ()


def test_objects_whose_ids_were_made_anew_are_known_by_their_place(scene):
    review = (
        Relabel(of="cells", rows=(7,), label="3+"),
        DrawRegion(id="r1", label="Tumor", geometry=SQUARE),
        Exclude(
            id="e1",
            geometry={**SQUARE, "coordinates": [[[200, 9], [300, 9], [250, 99], [200, 9]]]},
            why="fold",
        ),
    )

    def change(features):
        for one in features:
            one["id"] = str(uuid.uuid4())
            one["properties"].pop("metadata", None)
        reclass(feature(features, "detection", 12), "3+")
        reclass(feature(features, "tile", 1), "normal")

    brought = scene.read(scene.edit(review, change), review)
    assert brought.corrections == (
        Relabel(of="cells", rows=(12,), label="3+"),
        Relabel(of="tiles", rows=(1,), label="normal"),
    )
    assert brought.notes == ("1 annotations are points or lines, which are no areas: left out",)


def test_regions_edited_drawn_and_deleted_in_qupath(scene):
    review = (
        DrawRegion(id="r1", label="Tumor", geometry=SQUARE, why="seen"),
        DrawRegion(id="r2", label="Stroma", geometry=SQUARE),
        Exclude(id="e1", geometry=SQUARE, why="fold"),
    )

    def change(features):
        moved, gone, out = (feature(features, "annotation", n) for n in (1, 2, 3))
        moved["geometry"]["coordinates"][0][1] = [95.5, 20]
        features.remove(gone)
        out["properties"]["metadata"]["ANNOTATION_DESCRIPTION"] = "pen"
        reclass({"properties": moved["properties"]}, "TUMOUR")
        features.append(
            {
                "type": "Feature",
                "id": "1dd5d1b1-6cb1-4ba2-a5f1-50b9fdbe3a1f",
                "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]},
                "properties": {"objectType": "annotation", "name": "look here"},
            }
        )

    file = scene.edit(review, change)
    brought = scene.read(file, review)
    moved, out, new, gone = brought.corrections
    assert isinstance(moved, DrawRegion)
    assert (moved.id, moved.label, moved.why) == ("r1", "tumour", "seen")
    assert shapely.geometry.shape(moved.geometry).bounds == (20, 20, 95.5, 70)
    assert out == review[2].model_copy(update={"why": "pen"})
    assert isinstance(new, DrawRegion)
    assert (new.id, new.label) == ("1dd5d1b1-6cb1-4ba2-a5f1-50b9fdbe3a1f", "look here")
    assert gone == RemoveArea(id="r2", why="deleted in QuPath")
    assert brought.notes == (
        "1 new annotations of class look here, which is none of this workflow: kept as regions",
    )
    assert scene.read(file, (*review, *brought.corrections)).corrections == ()


def test_deleted_cells_are_told_and_excluded_only_when_asked(scene):
    def change(features):
        for number in (30, 9):
            features.remove(feature(features, "detection", number))

    file = scene.edit((), change)
    told = scene.read(file)
    assert told.corrections == ()
    assert told.notes == ("2 cells of the result are not in the file: left as they were",)
    (out,) = scene.read(file, deleted=True).corrections
    assert isinstance(out, Exclude)
    assert out.why == "deleted in QuPath"
    assert scene.read(file, (out,), deleted=True).corrections == ()
    few = scene.edit((), lambda features: features[:10])
    with pytest.raises(RequestError, match="too many to have been deleted"):
        scene.read(few, deleted=True)
    none = scene.edit((), lambda features: features[:1])
    assert scene.read(none, deleted=True).corrections == ()


# As QuPath 0.5 and 0.6 write it, and 0.2 and 0.3 did: kept by hand, odd on purpose.
QUPATH = """\ufeff[
  {"type": "Feature", "id": "PathAnnotationObject",
   "geometry": {"type": "Polygon",
     "coordinates": [[[10, 10, 0], [60, 60, 0], [60, 10, 0], [10, 60, 0]]]},
   "properties": {"classification": {"name": "Positive", "colorRGB": -3670016,
     "parentClass": {"name": "Tumor", "colorRGB": -3670016}}, "isLocked": true, "measurements": []}},
  {"type": "Feature", "id": "57c3ab9b-3ae5-4d94-a9e5-7fd1dd8b4ea7",
   "geometry": {"type": "MultiPolygon", "plane": {"c": -1, "z": 2, "t": 0}, "coordinates": [
     [[[100, 100], [200, 100], [200, 200], [100, 200], [100, 100]],
      [[120, 120], [140, 120], [140, 140], [120, 120]]],
     [[[600, 100], [900, 100], [900, 200], [600, 200], [600, 100]]]]},
   "properties": {"objectType": "annotation", "color": [255, 0, 0],
     "classification": {"names": ["Tumour", "Invasive"], "color": [200, 0, 0]},
     "measurements": {"Area": NaN, "Length": "Infinity", "Odd": -Infinity},
     "childObjects": [{"type": "Feature", "id": "7c0c19b2-7d7f-4e9f-a5ad-9c1a1c3c6d0e",
       "geometry": {"type": "Polygon", "isEllipse": true, "coordinates": [[[1, 1], [9, 1], [9, 9], [1, 1]]]},
       "properties": {"objectType": "annotation",
         "classification": {"name": "Ignore*", "color": [180, 180, 180]}}}]}},
  {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[1, 1], [5, 5]]},
   "properties": {"objectType": "annotation", "classification": {}}},
  {"type": "Feature",
   "geometry": {"type": "Polygon", "coordinates": [[[900, 900], [950, 900], [950, 950], [900, 900]]]},
   "properties": {"object_type": "annotation", "classification": "Tumor"}},
  {"type": "Feature", "geometry": {"type": "Point", "coordinates": [5, 5]},
   "properties": {"objectType": "tmaCore"}},
  {"type": "Feature", "id": "7c0c19b2-7d7f-4e9f-a5ad-9c1a1c3c6d0f",
   "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [60, 0], [60, 60], [0, 0]]]},
   "nucleusGeometry": %s,
   "properties": {"objectType": "cell", "classification": {"name": "3+", "color": [1, 1, 1]},
     "measurements": {"a": NaN}}}
]
"""


def test_files_of_several_versions_of_qupath_are_read_as_it_reads_them(scene):
    exported = json.loads(scene.write(()).read_text(encoding="utf-8"))["features"]
    nucleus = feature(exported, "detection", 20)["geometry"]
    file = scene.folder / "qupath.geojson"
    file.write_text(QUPATH.replace("%s", json.dumps(nucleus)), encoding="utf-8")
    brought = scene.read(file)
    crossed, multi, ignored, cell = brought.corrections
    assert isinstance(crossed, DrawRegion)
    assert crossed.label == "Tumor: Positive"
    assert shapely.geometry.shape(crossed.geometry).area == pytest.approx(50 * 50 / 2)
    assert isinstance(multi, DrawRegion)
    assert multi.label == "Tumour: Invasive"
    whole = shapely.geometry.shape(multi.geometry)
    assert whole.area == 100 * 100 - 200 + 100 * 100, (
        "the hole is kept, and what lies beyond the slide is not"
    )
    assert isinstance(ignored, Exclude)
    assert ignored.why == "ignored in QuPath"
    assert cell == Relabel(of="cells", rows=(20,), label="3+")
    assert set(brought.notes) == {
        "1 objects are cores of a tissue array or the whole image: left out",
        "1 objects lie on another focal plane or time: taken for what they cover",
        "1 annotations are points or lines, which are no areas: left out",
        "1 annotations cross themselves: made whole",
        "2 annotations reach beyond the slide: cut off there",
        "1 annotations enclose nothing of the slide: left out",
        "1 new annotations of class Tumor: Positive, which is none of this workflow: kept as regions",
        "1 new annotations of class Tumour: Invasive, which is none of this workflow: kept as regions",
        f"{CELLS - 1} cells of the result are not in the file: left as they were",
    }
    assert scene.read(file, brought.corrections).corrections == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is no whole GeoJSON"),
        (b"\x1f\x8b\x08\x00\xff", "is no text: compressed"),
        (b'{"type": "FeatureCollection", "features": [{"type": "Feature"', "cut off, or broken"),
        (b'{"type": "FeatureCollection", "features": []} and more', "more after its end"),
        (b'{"type": "FeatureCollection", "features": []}', "holds no object"),
        (b'{"type": "Topology"}', "holds no features"),
        (b"[1, 2]", "a feature is no object"),
        (b"[" * 200_000, "is no whole GeoJSON"),
        (b'[{"id": ' + b"1" * 5000 + b"}]", "is no whole GeoJSON"),
        (b'[{"type": "Feature", "properties": []}, {"type": "Feature", "properties": 3}]', "no object"),
        (
            b'[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [NaN, 1], [1, 1], [0, 0]]]}}]',
            "no number",
        ),
        (b'[{"geometry": {"type": "Polygon", "coordinates": "no"}}]', "geometry cannot be read"),
        (b'[{"geometry": null, "properties": {"name": "x"}}]', "geometry cannot be read"),
        (
            b'[{"geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {"classification": 3}}]',
            "object 1",
        ),
        (b'[{"properties": {"metadata": {"coverslip.review": "[]"}}}]', "cannot be read"),
        (b'[{"properties": {"metadata": {"coverslip.review": "{}"}}}]', "cannot be read"),
    ],
)
def test_what_is_no_such_file_is_refused(scene, text, said):
    file = scene.folder / "bad.geojson"
    file.write_bytes(text)
    with pytest.raises(RequestError, match=said):
        scene.read(file)


def kept_changed(scene: Scene, **members: Any) -> Path:
    def change(features):
        kept = json.loads(features[0]["properties"]["metadata"][REVIEW])
        features[0]["properties"]["metadata"][REVIEW] = json.dumps({**kept, **members})

    return scene.edit((Relabel(of="cells", rows=(1,), label="3+"),), change)


def test_a_file_of_another_slide_or_with_impossible_corrections_is_refused(scene):
    with pytest.raises(RequestError, match="another slide"):
        scene.read(kept_changed(scene, digest="sha256:0"))
    beyond = {"kind": "relabel", "of": "cells", "rows": "1-99", "label": "3+", "why": ""}
    for wrong, said in (
        (beyond, "relabels cells that"),
        ({**beyond, "rows": "1", "label": "blue"}, "relabels cells that"),
        ({"kind": "reject", "finding": "ghosts", "why": "no"}, "which was not found"),
        ({"kind": "erase"}, "holds no correction"),
    ):
        with pytest.raises(RequestError, match=said):
            scene.read(kept_changed(scene, corrections=[wrong]))
    other = scene.read(kept_changed(scene, request="another run"))
    assert other.corrections == (Relabel(of="cells", rows=(1,), label="3+"),)
    assert other.notes == (
        "1 file was exported from another result of this slide: objects are matched by place",
    )

    def twice(features):
        features += json.loads(scene.write((ChangeCall(category="a", why="b"),), "b").read_text())[
            "features"
        ][:1]

    with pytest.raises(RequestError, match="several exported reviews"):
        scene.read(scene.edit((), twice))


def test_objects_are_read_whatever_pieces_they_come_in(tmp_path, monkeypatch):
    features = [{"type": "Feature", "id": str(n), "v": [n, 0.125, 'ü\\"]}'], "n": 10**n} for n in range(20)]
    plain = {"type": "FeatureCollection", "note": 12345, "features": features, "after": -1}
    layouts = [json.dumps(plain), json.dumps(plain, indent=3), json.dumps(features, ensure_ascii=False)]
    for piece in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(json_stream, "CHUNK", piece)
        for text in layouts:
            (tmp_path / "a.json").write_text(text, encoding="utf-8")
            assert list(read_features(tmp_path / "a.json")) == features
    monkeypatch.setattr(json_stream, "LARGEST_OBJECT", 100)
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    (tmp_path / "a.json").write_text(json.dumps([{"v": "x" * 1000}]))
    with pytest.raises(RequestError, match="more than 100 characters"):
        list(read_features(tmp_path / "a.json"))


def test_ids_of_rows_are_those_that_the_export_writes(scene):
    features = json.loads(scene.write(()).read_text(encoding="utf-8"))["features"]
    ids = [one["id"] for one in features if one["properties"]["objectType"] == "detection"]
    made = RowIds(scene.base.result.provenance.request, "detection", CELLS)
    assert made.rows([*ids[::-1], str(uuid.uuid4()), "no", None]).tolist() == [
        *range(CELLS)[::-1],
        -1,
        -1,
        -1,
    ]


def test_memory_does_not_grow_with_the_objects(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 1 << 14)
    monkeypatch.setattr(annotations, "AT_ONCE", 128)
    peaks = []
    for count in (1000, 4000):
        table = cells_table(count)
        pq.write_table(table, tmp_path / "cells.parquet", row_group_size=500)
        base = replace(scene.base, cells=table)
        key = base.result.provenance.request
        write_features(tmp_path / "c.geojson", cell_features(tmp_path / "cells.parquet", tmp_path, key))
        tracemalloc.start()
        try:
            assert read_annotations(base, (), tmp_path / "c.geojson").corrections == ()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 3000 * 250, f"{peaks}: a feature as text alone has 1000 bytes"


def test_the_machines_own_outlines_are_nobodys_regions(home, tmp_path):
    base = read_base(home)
    file = tmp_path / "all.geojson"
    features = list(read_features(home / "annotations.geojson"))
    assert features
    write_features(file, features)
    assert read_annotations(base, (), file).corrections == ()
    features[0]["geometry"]["coordinates"][0][0][0] += 40
    features[0]["geometry"]["coordinates"][0][-1][0] += 40
    write_features(file, features)
    (edited,) = read_annotations(base, (), file).corrections
    assert isinstance(edited, DrawRegion)
    assert edited.label == "Tissue"


def test_from_the_command_line_to_qupath_and_back(home, tmp_path, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.run([str(one) for one in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    before = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    file = tmp_path / "q.geojson"
    code, _, said = run("export", home, "-o", file, "--to", "geojson", "--reviewer", "Ada")
    assert (code, "has no review by Ada; nobody has, yet" in said) == (2, True)
    assert run("export", home, "-o", file, "--to", "geojson")[0] == 0
    features = json.loads(file.read_text(encoding="utf-8"))["features"]
    was = features[5]["properties"]["classification"]["name"]
    reclass(features[5], "3+" if was != "3+" else "negative")
    features.append({"type": "Feature", "geometry": SQUARE, "properties": {"name": "here"}})
    file.write_text(json.dumps(features), encoding="utf-8")
    asked = ("review", "import", home, file, "--reviewer", "Ada", "--role", "pathologist")
    code, out, said = run(*asked, "--dry-run")
    assert code == 0
    assert "2 corrections would be made" in out
    assert not (home / "review").exists()
    code, out, said = run(*asked)
    assert code == 0
    assert re.search(r"cell \d+ is (3\+|negative)", out)
    assert "2 corrections made by Ada (pathologist)" in out
    assert "new annotations of class here" in said
    assert RUO in said
    assert "no correction" in run(*asked)[1]
    code, out, _ = run("review", "show", home)
    assert code == 0
    assert "Ada (pathologist): 2 corrections, not signed" in out
    assert "region here drawn" in out
    code, out, _ = run("export", home, "-o", file, "--to", "geojson", "--reviewer", "ada")
    assert code == 2
    code, out, _ = run("export", home, "-o", file, "--to", "geojson", "--reviewer", "Ada")
    assert f"{len(features) + 1} objects" in out
    assert "2 corrections would be made" in run(*asked[:4], "--reviewer", "Bo", "--dry-run")[1]
    assert run("export", home, "-o", tmp_path / "x", "--to", "csv", "--reviewer", "Ada")[0] == 2
    assert run("export", home, "-o", file, "--to", "geojson", "--signed")[0] == 2
    code, out, _ = run(
        "export", home, "-o", file, "--to", "geojson", "--what", "regions", "--reviewer", "Ada"
    )
    assert "no correction" in run("review", "import", home, file, "--reviewer", "Ada")[1]
    assert {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()} == before
