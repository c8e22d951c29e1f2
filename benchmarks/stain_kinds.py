"""python -m benchmarks.stain_kinds DATA TOOLS: which slides each workflow takes for its own, by true kind.

Slides made of the real pictures of `benchmarks.stain_pictures` go through what every run does first. Said of
each: recognised, doubtful (the call is given), withheld (the call is not given) or refused. Thresholds of
`tiling/stain_kind.py` that rest on how stained parts lie were set on the sources of `SET_ON`; the table says
which half a source is of. Other pictures may be named: --unseen "KIND=FILE@MPP".
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import tifffile

from benchmarks.stain_pictures import Made, all_pictures, read
from coverslip.errors import StainMismatchError
from coverslip.tiling.quality import judge_quality
from coverslip.tiling.stain_kind import StainEvidence
from coverslip.tiling.tissue import TissueSettings, overview_of, tissue_in
from coverslip.workflows.quality import refuse_other_stain, stain_doubted, stain_said
from coverslip.workflows.result import Call
from coverslip.workflows.scores import wilson
from coverslip.workflows.workflow import Conclusion, Workflow
from coverslip.wsi import Slide, open_slide

WORKFLOWS = {"cytology": "Papanicolaou", "blood": "Romanowsky", "ihc": "IHC", "histology": "H&E"}
SAID = ("recognised", "doubtful", "withheld", "refused")
# Sources whose pictures set how wide, apart and joined parts must be.
SET_ON = {
    *("CRIC cells on glass", "CRIC fields", "Mendeley LBC"),
    *("BCCD", "BCCD, no white cells"),
    *("CRC tiles", "LC25000 lung", "OS-1", "photographs"),
    *("OS-2", "scikit-image"),
}
UM_PER_CM = 10_000
CALL = Call(category="found", text="found", confidence=0.9, urgency="attention")


@dataclass(frozen=True, slots=True)
class Seen:
    """One slide, and what each workflow says of it."""

    kind: str
    source: str
    name: str
    said: dict[str, str]
    stain: StainEvidence


def look(made: Made, scratch: Path) -> Seen | None:
    """None where no tissue is found."""
    path = scratch / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        rgb = made.rgb
        for level in range(3 if min(rgb.shape[:2]) > 1024 else 1):
            tiff.write(
                rgb,
                tile=(256, 256),
                photometric="rgb",
                compression="deflate",
                subfiletype=1 if level else 0,
                resolution=(UM_PER_CM / made.mpp / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            even = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2].astype(np.uint16)
            halves = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
            rgb = ((halves + 2) // 4).astype(np.uint8)
    with open_slide(str(path)) as slide:
        overview = overview_of(slide, TissueSettings())
        tissue = tissue_in(slide, overview, TissueSettings())
        if tissue.is_empty:
            return None
        stain = judge_quality(slide, overview, tissue).stain
        said = {name: outcome(slide, stain, name) for name in WORKFLOWS}
    return Seen(made.kind, made.source, made.name, said, stain)


def outcome(slide: Slide, stain: StainEvidence, name: str) -> str:
    """One of `SAID`."""
    workflow = cast(Workflow, SimpleNamespace(name=name, expects=(WORKFLOWS[name],)))
    try:
        refuse_other_stain(slide, stain, workflow)
    except StainMismatchError:
        return "refused"
    if not str(stain_said(stain, workflow)).startswith("doubtful"):
        return "recognised"
    call = stain_doubted(Conclusion("", (), call=CALL), stain, workflow).call
    return "doubtful" if call == CALL else "withheld"


def table(seen: Sequence[Seen]) -> Iterator[str]:
    """Markdown: for each kind and half, and each workflow, how many slides were said to be what."""
    yield "| slides of | sources | " + " | ".join(f"`{name}`" for name in WORKFLOWS) + " |"
    yield "|---" * (2 + len(WORKFLOWS)) + "|"
    for kind in dict.fromkeys(one.kind for one in seen):
        for half in ("set on", "held out"):
            rows = [o for o in seen if o.kind == kind and (o.source in SET_ON) == (half == "set on")]
            if rows:
                cells = (_counted([row.said[name] for row in rows]) for name in WORKFLOWS)
                yield f"| {kind} | {half}: {_sources(rows)} | " + " | ".join(cells) + " |"


def _counted(said: Sequence[str]) -> str:
    counts = Counter(said)
    found = [name for name in SAID if counts[name]]
    return ", ".join(f"{counts[name]} {name} {_share(counts[name], len(said))}" for name in found)


def _share(part: int, whole: int) -> str:
    interval = wilson(part, whole)
    return f"({interval.low:.2f} to {interval.high:.2f})"


def _sources(rows: Sequence[Seen]) -> str:
    return ", ".join(f"{name} {number}" for name, number in Counter(row.source for row in rows).items())


def _unseen(words: Sequence[str]) -> Iterator[Made]:
    for word in words:
        kind, _, rest = word.partition("=")
        file, _, mpp = rest.rpartition("@")
        rgb = read(Path(file))
        # Mirrored twice: a single field of a smear has too few cells.
        rgb = np.concatenate([rgb, rgb[:, ::-1]], axis=1)
        yield Made(kind, "unseen", Path(file).name, np.concatenate([rgb, rgb[::-1]]), float(mpp))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stain_kinds", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("tools", type=Path)
    parser.add_argument("--unseen", action="append", default=[], metavar="KIND=FILE@MPP")
    parser.add_argument("--each", action="store_true", help="a line for each slide, too")
    chosen = parser.parse_args(words)
    seen = []
    with tempfile.TemporaryDirectory() as scratch:
        for made in chain(_unseen(chosen.unseen), all_pictures(chosen.data, chosen.tools)):
            one = look(made, Path(scratch))
            if one is None:
                print(f"no tissue: {made.source} {made.name}", file=sys.stderr)
                continue
            seen.append(one)
            if chosen.each:
                print(one.kind, one.source, one.name, one.said, one.stain, file=sys.stderr, flush=True)
    print("\n".join(table(seen)))


if __name__ == "__main__":
    main()
