"""What the documents tell the reader to type works.

README.md and docs/*.md are run from top to bottom, each in a folder of its own. Run are

- ```console blocks: the lines that begin with `$ ` or `coverslip `; the others are output, not compared;
- ```bash blocks: all of it, one script;
- ```python blocks, with one set of names per document; of those that begin with `>>>` the output is
  compared.

`<!-- not run: the reason -->` on the line before a block leaves it out. The folder holds

    slides/case-1.tiff   DAB-stained tissue, 1024 × 1024, 0.5 µm/px, 3 levels
    slides/case-2.svs    the same mirrored, as an Aperio file at 0.25 µm/px, 40×, with label and macro
    tiles.csv            file,label,group: 64-px tiles of case-1 in tiles/, pale or stained
    pictures.csv         file,label: six drawn pictures of 128 px with round nuclei, and their label images
    slides.csv           file,label,group: features of the tiles of 16 slides in features/, normal or tumour
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from discs import write_pictures
from documents import Block, blocks, run_document
from forked import served
from numpy.typing import NDArray
from PIL import Image
from slides import tissue, write_svs, write_tiff

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def write_tiles(folder: Path, rgb: NDArray[np.uint8]) -> None:
    """Tiles of the stained part, named pale or stained by their mean; eight in a group."""
    (folder / "tiles").mkdir()
    lines = ["file,label,group"]
    for number, y in enumerate(range(160, 800, 64)):
        for x in range(160, 800, 64):
            tile = rgb[y : y + 64, x : x + 64]
            label = "stained" if tile[..., 2].mean() < 130 else "pale"
            Image.fromarray(tile).save(folder / "tiles" / f"{x}-{y}.png")
            lines.append(f"tiles/{x}-{y}.png,{label},row{number}")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")


def write_bags(folder: Path) -> None:
    """As many figures as resnet10t gives, drawn from two normal distributions: in slides of tumour some tiles
    lie apart."""
    (folder / "features").mkdir()
    rng, lines = np.random.default_rng(0), ["file,label,group"]
    for number in range(16):
        features = rng.normal(size=(60, 512)).astype(np.float32)
        features[: 6 * (number % 2)] += 3
        with h5py.File(folder / f"features/{number}.h5", "w") as file:
            file["features"] = features
            file["coords"] = 448 * np.stack(np.divmod(np.arange(60), 8), axis=1)
        lines.append(f"features/{number}.h5,{('normal', 'tumour')[number % 2]},patient-{number}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """The folder in which a document is run, with the files that the documents name."""
    (tmp_path / "slides").mkdir()
    rgb = tissue()
    write_tiff(tmp_path / "slides/case-1.tiff", rgb, 0.5, levels=3)
    write_svs(tmp_path / "slides/case-2.svs", rgb[:, ::-1], 0.25, 40)
    write_tiles(tmp_path, rgb)
    write_bags(tmp_path)
    write_pictures(tmp_path, 6, name="pictures.csv")
    monkeypatch.setenv("COVERSLIP_MODELS", str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Iterator[Path]:
    with served(tmp_path_factory.mktemp("commands")) as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_shows_works(path, desk, commands):
    """The README's commands are those that are installed; of the others each process imports nothing anew."""
    run_document(path, None if path.name == "README.md" else commands)


def test_the_readme_shows_commands_and_python():
    found = blocks((ROOT / "README.md").read_text())
    assert "console" in {block.language for block in found if block.reason is None}
    assert "python" in {block.language for block in found if block.reason is None}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_not_run_has_a_reason(path):
    assert [block.line for block in blocks(path.read_text()) if block.reason == ""] == []


MARKDOWN = """# A

```console
$ echo one \\
    two > said
shown output
coverslip --help
```

<!-- not run: needs a network -->
```bash
exit 1
```

<!-- not run: -->
```python
nothing
```

```text
$ exit 1
```
"""


def test_blocks_are_found_with_their_lines_and_reasons():
    assert blocks(MARKDOWN) == [
        Block("console", "$ echo one \\\n    two > said\nshown output\ncoverslip --help\n", 3, None),
        Block("bash", "exit 1\n", 11, "needs a network"),
        Block("python", "nothing\n", 16, ""),
    ]


def test_a_console_block_runs_its_commands_and_not_its_output():
    assert blocks(MARKDOWN)[0].script == "echo one \\\n    two > said\ncoverslip --help"


def test_blocks_share_folder_and_names(desk):
    document = desk / "a.md"
    document.write_text(
        "```console\n$ echo 41 > figure\n```\n"
        "```python\nfrom pathlib import Path\nfigure = int(Path('figure').read_text())\n```\n"
        "```python\n>>> figure + 1\n42\n>>> more = figure\n```\n"
        "```python\nPath('more').write_text(str(more))\n```\n"
    )
    run_document(document)
    assert (desk / "more").read_text() == "41"


@pytest.mark.parametrize(
    "block",
    [
        "```console\n$ false | true\n```\n",
        "```bash\nfalse\ntrue\n```\n",
        "```python\nassert 1 == 2\n```\n",
        "```python\n>>> 1 + 1\n3\n```\n",
        "```console\nno prompt here\n```\n",
    ],
)
def test_a_block_that_fails_fails_the_document(desk, block):
    (desk / "a.md").write_text(block)
    with pytest.raises(AssertionError):
        run_document(desk / "a.md")


def test_the_desk_is_laid_with_tiles_of_both_classes_in_groups(desk):
    rows = [line.split(",") for line in (desk / "tiles.csv").read_text().splitlines()[1:]]
    assert {label for _, label, _ in rows} == {"pale", "stained"}
    assert len({group for _, _, group in rows}) >= 6
    assert all((desk / file).is_file() for file, _, _ in rows)
