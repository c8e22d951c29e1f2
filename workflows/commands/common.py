"""What the commands share: options, consoles, and going on past a bad slide."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from coverslip.errors import SlideError
from coverslip.ruo import RUO
from coverslip.workflows.cli import SOME_FAILED

if TYPE_CHECKING:
    from rich.console import Console

    from coverslip.workflows.inputs import Input
    from coverslip.wsi import Slide

Function = TypeVar("Function", bound=Callable)

# A table cut to 80 columns in a file or a pipe would lose what it is for.
LEAST_WIDTH = 160

paths_argument = click.argument("paths", nargs=-1, type=str)
output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the results."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there.")
slides_option = click.option(
    "--slides", "slides_csv", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with the columns wsi[,mpp][,case][,stain]: µm/px and names per slide.",
)  # fmt: skip

max_damage_option = click.option(
    "--max-damage",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Damaged share above which a slide fails.",
)
exact_option = click.option(
    "--exact", is_flag=True, help="Decode stored tiles in full; otherwise within 40 dB of that."
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads of the cluster in this process; by default one per core.",
)
scheduler_option = click.option(
    "--scheduler", help="Address of a running Dask scheduler, such as tcp://host:8786."
)


def slide_mpp_option(*names: str) -> Callable[[Function], Function]:
    """µm per level-0 pixel, for slides whose files do not say or say wrongly."""
    return click.option(
        *names, "slide_mpp", type=click.FloatRange(min=0, min_open=True),
        help="µm per pixel of the slides, where their files do not say or say wrongly.",
    )  # fmt: skip


def console() -> Console:
    """To standard output; as wide as needed when that is not a terminal."""
    from rich.console import Console

    plain = Console()
    return plain if plain.is_terminal else Console(width=max(plain.width, LEAST_WIDTH))


def say_ruo() -> None:
    """The sentence that every screen carries; on standard error, so that output can be piped."""
    click.echo(RUO, err=True)


def each_slide(
    paths: Sequence[str],
    slides_csv: Path | None,
    mpp: float | None,
    do: Callable[[Slide, str], None],
    check: Callable[[Sequence[str]], None] | None = None,
) -> int:
    """Open each slide and do something with it (it gets the slide and its id); go on past the bad ones.

    `check` is given all ids before anything is opened, to refuse what cannot be done for all of them.
    Returns the exit code: 0, or 3 when some failed; each failure is one line on standard error.
    """
    from coverslip.workflows.inputs import gather, slide_ids

    slides = gather(paths, slides_csv, mpp).slides
    ids = slide_ids([item.path for item in slides])
    if check is not None:
        check(list(ids.values()))
    failed = 0
    for item in slides:
        try:
            with opened(item) as slide:
                do(slide, ids[item.path])
        except SlideError as error:
            failed += 1
            click.echo(f"Error: {error}", err=True)
    if failed and len(slides) > 1:
        click.echo(f"{failed} of {len(slides)} slides failed", err=True)
    say_ruo()
    return SOME_FAILED if failed else 0


@contextmanager
def opened(item: Input) -> Iterator[Slide]:
    from coverslip.wsi import open_slide

    with open_slide(item.path, mpp=item.mpp) as slide:
        yield slide


def make_folder(path: Path) -> Path:
    """Make an output folder; RequestError where that is not possible."""
    from coverslip.errors import RequestError

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            str(path), f"cannot be made ({error.strerror})", "name another output folder"
        ) from error
    if not os.access(path, os.W_OK):
        raise RequestError(str(path), "may not be written", "name another output folder")
    return path
