"""The last step of a slide: from the parts of all shards to the files people and programs read."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from coverslip.atomic import clear_temporaries, discard
from coverslip.errors import StoreIncompleteError
from coverslip.tiling.cascade import write_region
from coverslip.tiling.coords import is_square
from coverslip.tiling.geojson import tissue_features, write_geojson
from coverslip.tiling.ome_zarr import finish_store
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.route import choose_route
from coverslip.workflows.canvas import write_class_map, write_quality, write_tissue
from coverslip.workflows.clock import now
from coverslip.workflows.files import Part, read_part, write_json, write_table
from coverslip.workflows.job import LAYOUT, Job
from coverslip.workflows.layout import Layout, too_damaged, write_layout
from coverslip.workflows.outputs import (
    ANNOTATIONS,
    FEATURES,
    FEATURES_H5,
    REPORT,
    RESULT,
    REVIEW,
    RULES,
    STORE,
    digests,
    read_result,
)
from coverslip.workflows.quality import (
    evaluated,
    good_area_mm2,
    seen,
    stain_doubted,
    stain_said,
    with_evaluable,
)
from coverslip.workflows.report import write_report
from coverslip.workflows.result import (
    Abstention,
    MppValue,
    Provenance,
    Quality,
    SlideIdentity,
    SlideResult,
    Times,
)
from coverslip.workflows.rules_file import write_rules
from coverslip.workflows.steps import Prepared, layout_of, let_go, opened, painter_of, pyramid_of, vectors_of
from coverslip.workflows.vectors import read_vectors, write_h5
from coverslip.workflows.workflow import VECTOR, Conclusion, Grounds, grounds_of
from coverslip.wsi import Slide

# Whatever can change a number or a pixel.
PACKAGES = (
    *("numpy", "scipy", "opencv-python-headless", "pillow", "openslide-python", "openslide-bin", "tiffslide"),
    *("tifffile", "imagecodecs", "wsidicom", "zarr", "pyarrow", "dask", "torch", "timm"),
)


def finish(job: Job, prepared: Prepared) -> SlideResult:
    """Put the parts together and write everything; `result.json` last, since it says that all is there.

    Raises DamagedSlideError when too much of the tiles could not be read.
    """
    if prepared.done:
        return read_result(job.home)
    slide = opened(job.ref)
    layout = layout_of(job, prepared)
    plan, tissue = layout.plan, layout.tissue
    # of a worker killed on the way, whose tasks another has done since
    clear_temporaries(job.home, keep=REVIEW)
    parts = [_part(job.shard_path(n), prepared) for n in range(prepared.shares)]
    copies = [_part(job.copy_path(n), prepared) for n in range(prepared.copies)]
    quality = _quality(job, slide, layout, parts, copies)
    grounds = grounds_of(job.workflow, slide, plan, tissue) if parts else Grounds(plan, tissue)
    conclusion = _evaluated(job, layout, _conclude(job, grounds, parts))
    result = _result(job, prepared, slide, quality, conclusion, _derived(layout, grounds))
    names = [*_write_tables(job, conclusion), *_write_grounds(job, prepared, layout, grounds)]
    names += [REPORT, ANNOTATIONS, *_finish_vectors(job, slide, plan)]
    names += [STORE] if job.settings.pyramid else []
    write_geojson(job.home / ANNOTATIONS, [*tissue_features(tissue), *conclusion.features], prepared.request)
    _finish_store(job, slide, layout, conclusion, copies)
    corner = (float(plan.x.min()), float(plan.y.min())) if len(plan) else (0.0, 0.0)
    write_report(job.home, result, slide, conclusion.class_map, corner)
    result = result.model_copy(update={"outputs": digests(job.home, names)})
    write_json(job.home / RESULT, result.model_dump(mode="json"))
    discard(job.parts)
    let_go(job, prepared)
    return result


def _part(path: Path, prepared: Prepared) -> Part:
    part = read_part(path, prepared.request)
    if part is None:
        raise StoreIncompleteError(str(path), "is missing or altered", "run again: it continues")
    return part


def _damaged(copies: list[Part], level: int) -> int:
    return sum(copy.numbers.get(str(level), 0) for copy in copies)


def _quality(job: Job, slide: Slide, layout: Layout, parts: list[Part], copies: list[Part]) -> Quality:
    plan, tissue = layout.plan, layout.tissue
    looked = len(plan) * plan.size**2
    in_tiles = sum(part.numbers["damaged"] for part in parts) / looked if looked else 0.0
    in_slide = _damaged(copies, 0) / slide.bounds.size.area
    most = job.settings.max_damage
    for fraction, where in ((in_tiles, "of the tissue's pixels"), (in_slide, "of its pixels")):
        if fraction > most:
            raise too_damaged(slide, fraction, f"{where} are missing or corrupt", most)
    return Quality(
        tissue_fraction=tissue.fraction,
        tissue_area_mm2=tissue.area_mm2,
        tiles=len(plan),
        damaged_fraction=max(in_tiles, in_slide),
        damaged_slide_fraction=in_slide,
        damaged_tiles_fraction=in_tiles,
        missing_fraction=slide.facts.missing_fraction,
        pen_fraction=tissue.pen_fraction,
        artefacts=layout.quality.artefacts,
        evaluable_area_mm2=good_area_mm2(layout.quality, tissue),
        stain=stain_said(layout.quality.stain, job.workflow, job.settings.accept_stain),
    )


def _evaluated(job: Job, layout: Layout, conclusion: Conclusion) -> Conclusion:
    """With what the slide's quality says of it, and how good the tissue of each tile is."""
    plan, tissue, quality = layout.plan, layout.tissue, layout.quality
    tables = {name: with_evaluable(table, plan, tissue, quality) for name, table in conclusion.tables.items()}
    conclusion = replace(conclusion, tables=tables)
    conclusion = stain_doubted(conclusion, quality.stain, job.workflow, job.settings.accept_stain)
    return evaluated(conclusion, quality, tissue, job.settings.min_evaluable)


def _derived(layout: Layout, grounds: Grounds) -> dict[str, Any]:
    return {**grounds.derived.values, "quality": seen(layout.quality)}


def _conclude(job: Job, grounds: Grounds, parts: list[Part]) -> Conclusion:
    plan, tissue = grounds.plan, grounds.tissue
    if not parts:
        tables = {"tiles.parquet": pa.table({"x": plan.x, "y": plan.y, "tissue": plan.tissue})}
        if tissue.is_empty:
            return Conclusion("no tissue", (), tables=tables)
        why = (
            f"there are {tissue.area_mm2:.2g} mm² of tissue, but no tile of {plan.size * plan.mpp:g} µm "
            f"holds {job.workflow.grid.min_tissue:.0%} of it"
        )
        nothing = Abstention(what="everything", why=why)
        return Conclusion("too little tissue in any tile", (), abstentions=(nothing,), tables=tables)
    table = pa.concat_tables([part.table for part in parts])
    vectors = job.workflow.vectors
    if vectors is not None and vectors.concluded:
        table = table.append_column(VECTOR, _vectors(job, vectors.width))
    return job.workflow.conclude(grounds, table)


def _vectors(job: Job, width: int) -> pa.Array:
    """All figures, a list of `width` per tile; no copy of what is read."""
    figures = read_vectors(job.vectors if job.vectors.exists() else job.home / FEATURES)
    return pa.FixedSizeListArray.from_arrays(pa.array(figures.reshape(-1)), width)


def _result(
    job: Job,
    prepared: Prepared,
    slide: Slide,
    quality: Quality,
    conclusion: Conclusion,
    derived: dict[str, Any],
) -> SlideResult:
    mpp = slide.mpp
    return SlideResult(
        slide=SlideIdentity(
            id=job.id,
            path=slide.path,
            digest=prepared.digest,
            bytes=slide.bytes,
            format=slide.facts.format,
            reader=slide.reader,
            reader_version=slide.reader_version,
            size=(slide.size.width, slide.size.height),
            mpp=MppValue(x=mpp.x, y=mpp.y, source=mpp.source),
            mpp_declared=_declared(slide),
            case=job.case,
            stain=job.stain,
        ),
        workflow=job.workflow.name,
        status="done" if quality.tissue_fraction else "no tissue",
        summary=conclusion.summary,
        call=conclusion.call,
        findings=conclusion.findings,
        measurements=conclusion.measurements,
        guidelines=conclusion.guidelines,
        quality=quality,
        abstentions=conclusion.abstentions,
        provenance=_provenance(job, prepared, slide, derived),
        outputs={},
        times=Times(started=prepared.started, finished=now()),
    )


def _declared(slide: Slide) -> MppValue | None:
    """What the file states, where something else was given."""
    declared, used = slide.facts.mpp, slide.mpp
    if declared is None or (declared.x, declared.y) == (used.x, used.y):
        return None
    return MppValue(x=declared.x, y=declared.y, source=declared.source)


def _provenance(job: Job, prepared: Prepared, slide: Slide, derived: dict[str, Any]) -> Provenance:
    return Provenance(
        coverslip=version("coverslip"),
        request=prepared.request,
        workflow=job.workflow.name,
        settings={
            "run": asdict(job.settings),
            "workflow": job.workflow.settings(),
            "grid": asdict(job.workflow.grid),
        },
        derived=derived,
        model=job.workflow.model,
        device=job.workflow.device(),
        supply=choose_route(slide, job.workflow.grid.mpp, exact=job.workflow.grid.exact).text,
        seed=job.settings.seed,
        packages=dict(package_versions()),
    )


@cache
def package_versions() -> tuple[tuple[str, str], ...]:
    """Names and versions of the packages in `PACKAGES` that are installed; a millisecond each."""
    found = []
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def _write_tables(job: Job, conclusion: Conclusion) -> list[str]:
    for name, table in conclusion.tables.items():
        write_table(job.home / name, table, f"coverslip.{name.partition('.')[0]}/1")
    return list(conclusion.tables)


def _write_grounds(job: Job, prepared: Prepared, layout: Layout, grounds: Grounds) -> list[str]:
    """What a review needs to conclude again, without the slide and the model."""
    write_layout(job.home / LAYOUT, replace(layout, regions=grounds.derived.regions), prepared.request)
    judge = job.workflow.judge
    if judge is None:
        return [LAYOUT]
    write_rules(job.home / RULES, judge)
    return [LAYOUT, RULES]


def _finish_vectors(job: Job, slide: Slide, plan: TilePlan) -> list[str]:
    """Move the figures to their place, where there are any, and write them as HDF5 too; the files' names.

    Killed between the move and `result.json`, the next run finds them there and leaves them.
    """
    if vectors_of(job, plan) is None:
        return []
    if job.vectors.exists():
        os.replace(job.vectors, job.home / FEATURES)
    if not is_square(plan.slide_mpp):
        return [FEATURES]
    write_h5(job.home / FEATURES, plan, slide, job.home / FEATURES_H5)
    return [FEATURES, FEATURES_H5]


def _finish_store(job: Job, slide: Slide, layout: Layout, conclusion: Conclusion, copies: list[Part]) -> None:
    """Make the levels that no stored level gives, add the labels, and move the store to its place.

    Killed between the move and `result.json`, the next run finds it there and leaves it.
    """
    if not job.store.exists():
        return
    pyramid = pyramid_of(job, slide)
    for number, level in enumerate(pyramid.levels):
        if level.stored is None:
            for box in pyramid.regions(number):
                write_region(slide, pyramid, job.store, number, box)
    finish_store(job.store, [_damaged(copies, number) for number in range(len(pyramid.levels))])
    write_tissue(job.store, layout.tissue)
    write_quality(job.store, layout.quality, layout.tissue)
    painter = painter_of(job, layout.plan)
    if painter is not None:
        painter.finish()
    if conclusion.class_map is not None:
        write_class_map(job.store, conclusion.class_map, layout.plan)
    os.replace(job.store, job.home / STORE)
