"""`coverslip info`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import (
    SOME_FAILED,
    console,
    make_folder,
    opened,
    paths_argument,
    say_ruo,
    slide_mpp_option,
    slides_option,
)

if TYPE_CHECKING:
    from coverslip.errors import SlideError
    from coverslip.wsi import Slide


@click.command("info", epilog=RUO)
@paths_argument
@slides_option
@slide_mpp_option("--slide-mpp", "--mpp")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option(
    "--thumbnail", "thumbnails", type=click.Path(path_type=Path), help="Folder for a PNG of each slide."
)
def command(
    paths: tuple[str, ...],
    slides_csv: Path | None,
    slide_mpp: float | None,
    as_json: bool,
    thumbnails: Path | None,
) -> int:
    """What each slide is: format, reader, size, levels, µm/px and where it is from, digest."""
    from coverslip.errors import SlideError
    from coverslip.workflows.inputs import gather, slide_ids

    slides = gather(paths, slides_csv, slide_mpp).slides
    ids = slide_ids([item.path for item in slides])
    rows = []
    for item in slides:
        row: dict[str, Any] = {}
        try:
            with opened(item) as slide:
                row = describe(slide)
                if thumbnails:
                    _save_thumbnail(slide, make_folder(thumbnails) / f"{ids[item.path]}.png")
        except SlideError as error:
            row |= _refusal(item.path, error)
        rows.append(row)
    if as_json:
        click.echo(
            json.dumps(
                {"schema": "coverslip.info/1", "notice": RUO, "slides": rows}, indent=2, ensure_ascii=False
            )
        )
    else:
        _print(rows)
        say_ruo()
    return SOME_FAILED if any("error" in row for row in rows) else 0


def describe(slide: Slide) -> dict[str, Any]:
    """All that is known of a slide without judging it, as JSON values. `mpp_problem` says what is wrong with
    its µm/px; None when it can be used."""
    from coverslip.errors import SlideInformationError

    try:
        mpp, problem = slide.mpp, None
    except SlideInformationError as error:
        mpp, problem = slide.facts.mpp, error.problem
    facts = slide.facts
    return {
        "path": slide.path,
        "format": facts.format,
        "reader": f"{slide.reader} {slide.reader_version}",
        "size": [slide.size.width, slide.size.height],
        "levels": [[level.size.width, level.size.height, level.downsample] for level in slide.levels],
        "mpp": mpp and [mpp.x, mpp.y],
        "mpp_source": mpp and mpp.source,
        "mpp_problem": problem,
        "objective": facts.objective,
        "z_planes": facts.z_planes,
        "kind": facts.kind,
        "channels": list(facts.channels),
        "associated": list(facts.associated),
        "icc_profile": facts.icc is not None,
        "missing_fraction": facts.missing_fraction,
        "bytes": slide.bytes,
        "digest": slide.digest,
    }


def _refusal(path: str, error: SlideError) -> dict[str, Any]:
    return {"path": path, "error": type(error).__name__, "problem": error.problem, "remedy": error.remedy}


def _save_thumbnail(slide: Slide, path: Path) -> None:
    from PIL import Image

    Image.fromarray(slide.thumbnail()).save(path)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    out = console()
    table = Table(show_lines=False, pad_edge=False, box=None)
    for name in (
        "slide",
        "format",
        "reader",
        "size",
        "levels",
        "µm/px",
        "from",
        "objective",
        "z",
        "images",
        "digest",
    ):
        table.add_column(name, overflow="fold")
    good = [row for row in rows if "error" not in row]
    for row in good:
        table.add_row(*_cells(row))
    if good:
        out.print(table)
    for row in good:
        if row["mpp_problem"]:
            out.print(f"{Path(row['path']).name}: {row['mpp_problem']}", markup=False, highlight=False)
        if row["missing_fraction"]:
            missing = f"{row['missing_fraction']:.1%} of its stored tiles are absent from the file"
            out.print(f"{Path(row['path']).name}: {missing}", markup=False, highlight=False)
    for row in rows:
        if "error" in row:
            click.echo(f"Error: {row['path']}: {row['problem']}; {row['remedy']}", err=True)


def _cells(row: dict[str, Any]) -> list[str]:
    from rich.markup import escape

    mpp = row["mpp"]
    # Two figures that read the same are one.
    shown = "unknown" if mpp is None else " × ".join(dict.fromkeys(f"{side:.4g}" for side in mpp))
    texts = [
        Path(row["path"]).name,
        row["format"] if row["kind"] == "brightfield" else f"{row['format']}, {row['kind']}",
        row["reader"].split(" (")[0],
        f"{row['size'][0]} × {row['size'][1]}",
        ", ".join(f"{level[2]:.4g}" for level in row["levels"]),
        shown + (" (!)" if row["mpp_problem"] and mpp else ""),
        row["mpp_source"] or "",
        "" if row["objective"] is None else f"{row['objective']:g}×",
        str(row["z_planes"]),
        ", ".join(row["associated"]),
        row["digest"].partition(":")[2][:12],
    ]
    return [escape(text) for text in texts]
