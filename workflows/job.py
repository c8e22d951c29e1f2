"""One slide's part of a batch, as a value that crosses processes, and where it keeps its files."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

from coverslip.errors import RequestError
from coverslip.tiling.pyramid import PyramidSettings
from coverslip.tiling.quality import QualitySettings
from coverslip.tiling.tissue import TissueSettings
from coverslip.workflows.result import SCHEMA, SCHEMA_VERSION
from coverslip.workflows.workflow import Workflow
from coverslip.wsi import Slide, SlideRef

LAYOUT = "layout.parquet"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What holds for every slide of a batch, whatever the workflow.

    `max_damage`: a slide with a larger damaged share fails; 5 % of the tissue lost can hide a focus.
    `seed`: for whatever draws at random. `pyramid`: how the slide is copied as OME-Zarr beside the result;
    None for no copy, and no label images, which are part of it. `quality`: how artefacts are told.
    `min_evaluable`: least share of the tissue without artefacts for a slide to count as evaluable. Half:
    where most of the tissue cannot be seen, that nothing was found in the rest says nothing of the slide. It
    is our choice; no guideline names a figure. `accept_stain`: go on with a slide whose colours are not those
    of any stain that the workflow is made for.
    """

    max_damage: float = 0.05
    seed: int = 0
    tissue: TissueSettings = field(default_factory=TissueSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    min_evaluable: float = 0.5
    accept_stain: bool = False
    pyramid: PyramidSettings | None = field(default_factory=PyramidSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.min_evaluable <= 1:
            raise RequestError(f"min_evaluable {self.min_evaluable:g}", "is no share", "give 0 to 1")


@dataclass(frozen=True, slots=True)
class Job:
    """A slide, what to do with it, and the folder `OUT/slides/<id>` its results go to."""

    id: str
    ref: SlideRef
    folder: str
    workflow: Workflow
    settings: RunSettings
    case: str | None = None
    stain: str | None = None

    @property
    def home(self) -> Path:
        return Path(self.folder)

    @property
    def parts(self) -> Path:
        """What shards have written so far; gone once the result stands."""
        return self.home / ".parts"

    @property
    def store(self) -> Path:
        """The pyramid and its labels while they are being written."""
        return self.parts / "slide.ome.zarr"

    @property
    def vectors(self) -> Path:
        """The figures of all tiles while they are being written."""
        return self.parts / "features.zarr"

    @property
    def layout(self) -> Path:
        """Where tissue and tiles lie, while the shards need it; a copy stays with the result."""
        return self.parts / LAYOUT

    @property
    def result(self) -> Path:
        return self.home / "result.json"

    def shard_path(self, number: int) -> Path:
        return self.parts / f"shard-{number:05d}.parquet"

    def copy_path(self, number: int) -> Path:
        return self.parts / f"copy-{number:05d}.parquet"

    def request(self, slide: Slide) -> str:
        """sha256 over all that decides the result: input, how it is read, settings, model, versions."""
        asked = {
            "schema": [SCHEMA, SCHEMA_VERSION],
            "coverslip": own_version(),
            "input": slide.digest,
            "reader": [slide.reader, slide.reader_version],
            "mpp": [slide.mpp.x, slide.mpp.y, slide.mpp.source],
            "z": slide.facts.z_plane,
            "workflow": self.workflow.name,
            "workflow_settings": self.workflow.settings(),
            "model": None if self.workflow.model is None else self.workflow.model.sha256,
            "settings": asdict(self.settings),
            "identity": [self.id, self.case, self.stain, slide.path],
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


@cache
def own_version() -> str:
    """Of the Coverslip that runs; looking it up takes a millisecond."""
    return version("coverslip")


def stored_bytes(job: Job) -> int:
    """About how large the slide is on disk, without opening it; 0 for a URL.

    Of a folder, and of a folder beside the file with the same name (as MRXS has), the files directly in it.
    """
    path = Path(job.ref.path)
    try:
        total = 0 if path.is_dir() else path.stat().st_size
        for folder in {path, path.with_suffix("")}:
            if folder.is_dir():
                total += sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
    except (OSError, ValueError):
        # What is wrong with it is said when it is opened.
        return 0
    return total
