"""From what a user types to the list of slides: files, folders, globs, URLs, and the slides file."""

from __future__ import annotations

import csv
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coverslip.errors import RequestError, SlideInformationError
from coverslip.wsi import Mpp
from coverslip.wsi.mpp import parse_mpp

# What a folder is searched for. A file named by the user is tried whatever its ending.
SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".bif", ".svslide", ".czi", ".vsi"}
    | {".dcm", ".dicom", ".qptiff", ".png", ".jpg", ".jpeg", ".bmp"}
)
# Columns of the slides file, and the names other programs give them.
COLUMN_NAMES = {
    "wsi": "wsi", "slide": "wsi", "file": "wsi", "filename": "wsi", "path": "wsi", "slide_id": "wsi",
    "mpp": "mpp", "mpp_x": "mpp_x", "mpp_y": "mpp_y",
    "case": "case", "case_id": "case", "patient": "case", "stain": "stain",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Input:
    """One slide to work on. `mpp`: given for it; None leaves it to the file."""

    path: str
    mpp: Mpp | None = None
    case: str | None = None
    stain: str | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """`slides` in the order found; `ignored`: files below a folder that are no slides by their ending."""

    slides: tuple[Input, ...]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the slides file; `wsi` as written there."""

    wsi: str
    mpp: Mpp | None
    case: str | None
    stain: str | None


def gather(paths: Sequence[str], slides_csv: Path | None = None, mpp: float | None = None) -> Inputs:
    """All slides named by `paths`, or by the slides file alone when there are no paths.

    What the slides file says of a slide goes before `mpp`, which holds for all the others.
    Raises RequestError for a path that leads to nothing, a slides file that cannot be understood, or a line
    of it that matches none of the slides.
    """
    rows = read_slides_csv(slides_csv) if slides_csv else ()
    found: list[str] = []
    ignored: list[str] = []
    for path in paths or [_beside(slides_csv, row.wsi) for row in rows]:
        slides, others = _expand(path)
        found += slides
        ignored += others
    if not found:
        raise RequestError(
            ", ".join(paths) or "no paths", "lead to no slide", "name files, folders or globs of slides"
        )
    given = None if mpp is None else parse_mpp(mpp, "given")
    by_path = _match(rows, list(dict.fromkeys(found)), slides_csv)
    slides = tuple(
        Input(path, (row and row.mpp) or given, row and row.case, row and row.stain)
        for path, row in by_path.items()
    )
    return Inputs(slides, tuple(ignored))


def _beside(slides_csv: Path | None, wsi: str) -> str:
    assert slides_csv is not None
    return wsi if "://" in wsi or os.path.isabs(wsi) else str(slides_csv.parent / wsi)


def _expand(path: str) -> tuple[list[str], list[str]]:
    if "://" in path:
        return [path], []
    if os.path.isdir(path):
        return _walk(Path(path)) if not is_slide_folder(Path(path)) else ([os.path.abspath(path)], [])
    if os.path.exists(path):
        return [os.path.abspath(path)], []
    slides: list[str] = []
    for match in sorted(glob.glob(path, recursive=True)):
        slides += _expand(match)[0]
    if not slides:
        raise RequestError(path, "there is no such file or folder", "check the path")
    return slides, []


def is_slide_folder(folder: Path) -> bool:
    """An OME-Zarr store, or a folder of nothing but DICOM files (the instances of one slide)."""
    if any((folder / name).is_file() for name in (".zattrs", ".zgroup", "zarr.json")):
        return True
    entries = sorted(folder.iterdir())
    return (
        bool(entries)
        and all(_is_dicom(entry) for entry in entries)
        and len(entries) > 1
        and _one_series(entries)
    )


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def _one_series(files: Sequence[Path]) -> bool:
    return len({_series_uid(file) for file in files}) == 1


def _series_uid(path: Path) -> bytes:
    """SeriesInstanceUID (0020,000E) from the first 64 KiB, without a DICOM library; the path if not found."""
    with path.open("rb") as handle:
        head = handle.read(1 << 16)
    at = head.find(b"\x20\x00\x0e\x00UI")
    if at < 0:
        return os.fsencode(path)
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ")


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """Slides below a folder, sorted; companions of a slide and other files apart."""
    slides: list[str] = []
    ignored: list[str] = []
    series: set[bytes] = set()
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if _is_companion(entry):
                continue
            inner = ([os.path.abspath(entry)], []) if is_slide_folder(entry) else _walk(entry)
            slides += inner[0]
            ignored += inner[1]
        elif entry.suffix.lower() not in SLIDE_SUFFIXES:
            ignored.append(os.path.abspath(entry))
        elif not _is_dicom(entry):
            slides.append(os.path.abspath(entry))
        elif (uid := _series_uid(entry)) not in series:
            series.add(uid)
            slides.append(os.path.abspath(entry))
    return slides, ignored


def _is_companion(folder: Path) -> bool:
    """`slide/` beside `slide.mrxs`, `_slide_/` beside `slide.vsi`: they hold that slide's pixels."""
    parent = folder.parent
    return (parent / f"{folder.name}.mrxs").is_file() or (parent / f"{folder.name.strip('_')}.vsi").is_file()


def read_slides_csv(path: Path) -> tuple[Row, ...]:
    """The slides file: a column `wsi` (file name or path), and any of mpp, mpp_x and mpp_y, case, stain.

    Raises RequestError naming every line that cannot be understood.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            names = {name: COLUMN_NAMES.get((name or "").strip().lower()) for name in reader.fieldnames or ()}
            lines = [
                {names[key]: (text or "").strip() for key, text in line.items() if names.get(key)}
                for line in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(str(path), f"cannot be read ({error})", "give a CSV file in UTF-8") from error
    if "wsi" not in names.values():
        raise RequestError(str(path), "has no column wsi", "give the columns wsi[,mpp][,case][,stain]")
    problems: list[str] = []
    rows = tuple(row for number, line in enumerate(lines, 2) if (row := _row(line, number, problems)))
    if problems:
        raise RequestError(str(path), "; ".join(problems), "mend these lines")
    return rows


def _row(line: dict[str | None, str], number: int, problems: list[str]) -> Row | None:
    if not line.get("wsi"):
        problems.append(f"line {number} names no slide")
        return None
    try:
        mpp = _row_mpp(line)
    except (ValueError, SlideInformationError) as error:
        problems.append(
            f"line {number}: µm/px {line.get('mpp') or line.get('mpp_x')!r} is no number above 0 ({error})"
        )
        return None
    return Row(line["wsi"], mpp, line.get("case") or None, line.get("stain") or None)


def _row_mpp(line: dict[str | None, str]) -> Mpp | None:
    x, y = line.get("mpp_x") or line.get("mpp"), line.get("mpp_y") or line.get("mpp")
    return parse_mpp((float(x), float(y)), "given by --slides") if x and y else None


def _match(rows: Sequence[Row], paths: Sequence[str], slides_csv: Path | None) -> dict[str, Row | None]:
    """Each path with its line: by full path, else by name, else by name without ending."""
    matched: dict[str, Row | None] = dict.fromkeys(paths)
    strays: list[str] = []
    for row in rows:
        hits = [path for path in paths if _names(row.wsi, path, slides_csv)]
        if not hits:
            strays.append(row.wsi)
        matched.update(dict.fromkeys(hits, row))
    if strays:
        raise RequestError(
            str(slides_csv), f"names {', '.join(strays)}, which is none of the slides", "mend the names"
        )
    return matched


def _names(wsi: str, path: str, slides_csv: Path | None) -> bool:
    full = _beside(slides_csv, wsi)
    if path == wsi or ("://" not in path and os.path.abspath(full) == os.path.abspath(path)):
        return True
    name = os.path.basename(path.rstrip("/"))
    return wsi in {name, os.path.splitext(name)[0]}


def printable(path: str) -> str:
    """The path as text; what is not UTF-8 in it as backslash escapes.

    >>> printable("/a/Pr\\udce4parat.svs")
    '/a/Pr\\\\xe4parat.svs'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def slide_ids(paths: Sequence[str]) -> dict[str, str]:
    """A folder name for each path: its own name made safe; a short digest of the path where two are alike.

    >>> slide_ids(["/a/x y.svs", "/b/z.svs"])
    {'/a/x y.svs': 'x y.svs', '/b/z.svs': 'z.svs'}
    """
    plain = {path: _safe(os.path.basename(path.rstrip("/"))) for path in paths}
    counts = Counter(name.casefold() for name in plain.values())
    return {
        path: name
        if counts[name.casefold()] == 1
        else f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        for path, name in plain.items()
    }


def _safe(name: str) -> str:
    """Letters, digits, space, dot, dash, bracket and underscore stay; no leading dot; at most 120 long."""
    return re.sub(r"[^\w .()+—-]", "_", name).lstrip(". ")[:120].strip() or "slide"
