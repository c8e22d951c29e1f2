"""InstanSeg's nuclei (Goldsborough 2024, https://arxiv.org/abs/2408.15954) as a finder."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelUnavailableError
from coverslip.extras import require
from coverslip.models.device import choose_device
from coverslip.models.foreign_finder import ForeignFinder, Scores, digest_all, digest_of, keep_threads
from coverslip.models.foreign_name import ForeignName

FILE = "instanseg.pt"
# Of its brightfield model, which was trained on pictures resampled to it.
MPP = 0.5
# What decides on a pixel: 88 px in its U-Net of four levels, and 32 px around a seed in which it looks for
# an object; rounded up to whole steps.
MARGIN = 128
# Three halvings, and pictures padded to multiples of 16.
STEP = 16


def open_instanseg(name: ForeignName, threads: int | None = 1) -> ForeignFinder:
    """`name.model`: a name in InstanSeg's index, its `instanseg.pt`, or a folder that holds that.

    The model states its own µm per pixel. Nothing is downloaded.
    Raises MissingExtraError, ModelUnavailableError.
    """
    torch, package = require("torch"), require("instanseg")
    path, licence = _find(name, Path(str(files("instanseg"))))
    device = choose_device()
    try:
        script = torch.jit.load(str(path), map_location=device).eval()
        stated = float(script.pixel_size)
    except (RuntimeError, AttributeError) as error:
        raise ModelUnavailableError(
            str(path), f"is no InstanSeg model in TorchScript ({error})", "fetch or export it again"
        ) from error
    # With its memory layout for CUDA switched on it gives other figures on a GPU than on a CPU.
    model = package.InstanSeg(script, device=str(device), verbosity=0, channels_last=False)
    digest, release = digest_of(path), f"instanseg-torch {version('instanseg-torch')}"
    return ForeignFinder(
        name=name.public,
        version=release,
        weights_sha256=digest,
        document_sha256=digest_all(release, [digest]),
        licence=licence,
        mpp=name.mpp or (stated if stated > 0 else MPP),
        margin=MARGIN,
        step=STEP,
        compute={
            "device": str(device),
            "precision": "float32" if device.type == "cpu" else "float16",
            "runtime": f"{release}, torch {torch.__version__}",
        },
        segment=lambda rgb: _segment(model, rgb, threads),
    )


def _segment(model: Any, rgb: NDArray[np.uint8], threads: int | None) -> tuple[NDArray[np.integer], Scores]:
    keep_threads(threads)
    channels = require("torch").from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))
    with require("torch").inference_mode():
        labels = model.eval_small_image(channels.float(), return_image_tensor=False, target="nuclei")
    return labels[0, 0].cpu().numpy().astype(np.int32), None


def _find(name: ForeignName, package: Path) -> tuple[Path, str]:
    """(the model's file, its licence as published)."""
    given = Path(name.model)
    if given.exists():
        path = given / FILE if given.is_dir() else given
        if not path.is_file():
            raise ModelUnavailableError(name.model, f"holds no {FILE}", f"name a folder with {FILE}")
        return path, "not stated"
    shipped = package / "bioimageio_models"
    index = {row["name"]: row for row in json.loads((shipped / "model-index.json").read_text("utf-8"))}
    if name.model not in index:
        raise ModelUnavailableError(
            str(name), "is neither published nor a path", f"published are {', '.join(sorted(index))}"
        )
    row = index[name.model]
    folder = Path(os.environ.get("INSTANSEG_BIOIMAGEIO_PATH") or shipped) / row["name"] / row["version"]
    if not (folder / FILE).is_file():
        raise ModelUnavailableError(
            str(name),
            f"has no weights here ({folder / FILE} is missing)",
            f"fetch {row['url']} and unpack it into {folder}, or let InstanSeg do so: "
            f"python -c \"import instanseg; instanseg.InstanSeg('{name.model}')\"",
        )
    return folder / FILE, row.get("license", "not stated")
