"""From what a user types to the list of slides."""

from __future__ import annotations

from pathlib import Path

import pytest

from coverslip.errors import RequestError
from coverslip.workflows.inputs import gather, read_slides_csv, slide_ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.svs", "a.tif", "notes.txt", "deep/a.tif", "deep/.hidden.svs", "x.mrxs", "x/Data0.dat"):
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    return tmp_path / "slides"


def names(folder: Path, paths: tuple[str, ...]) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in paths]


def test_a_folder_gives_its_slides_sorted_and_names_what_is_left_out(folder: Path) -> None:
    inputs = gather([str(folder)])
    assert names(folder, tuple(item.path for item in inputs.slides)) == [
        "a.tif",
        "b.svs",
        "deep/a.tif",
        "x.mrxs",
    ]
    assert names(folder, inputs.ignored) == ["notes.txt"]


def test_a_glob_gives_what_it_matches(folder: Path) -> None:
    inputs = gather([str(folder / "**" / "*.tif")])
    assert names(folder, tuple(item.path for item in inputs.slides)) == ["a.tif", "deep/a.tif"]


def test_a_slide_named_twice_is_one_slide(folder: Path) -> None:
    assert len(gather([str(folder / "a.tif"), str(folder)]).slides) == 4


@pytest.mark.parametrize("path", ["nothing.svs", "*.none"])
def test_a_path_that_leads_to_nothing_is_an_error(folder: Path, path: str) -> None:
    with pytest.raises(RequestError, match="no such file"):
        gather([str(folder / path)])


def test_no_paths_at_all_is_an_error() -> None:
    with pytest.raises(RequestError, match="lead to no slide"):
        gather([])


def test_the_slides_file_goes_before_the_mpp_of_all(folder: Path) -> None:
    csv = folder.parent / "slides.csv"
    csv.write_text("wsi,mpp,case,stain\na.tif,0.25,C1,Ki-67\nb,,C2,\n")
    found = gather([str(folder)], csv, 0.5).slides
    slides = {Path(item.path).relative_to(folder).as_posix(): item for item in found}
    assert (slides["a.tif"].mpp.x, slides["a.tif"].mpp.source) == (0.25, "given by --slides")
    assert slides["deep/a.tif"].case == "C1"
    assert (slides["b.svs"].mpp.x, slides["b.svs"].case) == (0.5, "C2")


def test_the_slides_file_alone_names_the_slides_beside_it(folder: Path) -> None:
    csv = folder / "slides.csv"
    csv.write_text("slide,mpp_x,mpp_y\na.tif,0.5,0.25\n")
    (only,) = gather([], csv).slides
    assert (only.mpp.x, only.mpp.y) == (0.5, 0.25)
    assert only.path == str(folder / "a.tif")


def test_a_line_that_matches_no_slide_is_an_error(folder: Path) -> None:
    csv = folder.parent / "slides.csv"
    csv.write_text("wsi,mpp\nmisspelt.svs,0.5\n")
    with pytest.raises(RequestError, match=r"misspelt\.svs"):
        gather([str(folder)], csv)


@pytest.mark.parametrize("figure", ["0", "-1", "abc", "nan", "inf"])
def test_every_bad_line_is_named_at_once(tmp_path: Path, figure: str) -> None:
    csv = tmp_path / "slides.csv"
    csv.write_text(f"wsi,mpp\na.svs,{figure}\n,0.5\n")
    with pytest.raises(RequestError, match=r"line 2: .*line 3"):
        read_slides_csv(csv)


def test_a_file_without_the_column_wsi_says_so(tmp_path: Path) -> None:
    csv = tmp_path / "slides.csv"
    csv.write_text("name,resolution\na,1\n")
    with pytest.raises(RequestError, match="no column wsi"):
        read_slides_csv(csv)


def test_slides_of_one_name_get_folders_of_their_own() -> None:
    ids = slide_ids(["/x/a.svs", "/y/A.svs", "/y/b.svs"])
    assert len({id.casefold() for id in ids.values()}) == 3
    assert ids["/y/b.svs"] == "b.svs"


AWKWARD = ["/x/..", "/x/a\n\tb.svs", "/x/ünïcode — 7 (копия).tif", "/x/" + "n" * 300 + ".svs"]


@pytest.mark.parametrize("path", AWKWARD)
def test_an_id_is_one_plain_folder_name(tmp_path: Path, path: str) -> None:
    (name,) = slide_ids([path]).values()
    (tmp_path / name).mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
