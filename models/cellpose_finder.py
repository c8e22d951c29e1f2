"""Cellpose-SAM's objects (Pachitariu 2025, https://doi.org/10.1101/2025.04.28.651001) as a finder."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.extras import require
from coverslip.models.device import choose_device
from coverslip.models.foreign_finder import ForeignFinder, Scores, digest_all, digest_of, keep_threads
from coverslip.models.foreign_name import ForeignName

# Those on SAM's backbone; the others need DINOv3, which no package index has.
PUBLISHED = ("cpsam", "cpsam_v2")
BACKBONE = "sam_vitl"
# The weights are filed as BSD-3-Clause; the package's README says of the data that all were trained on.
LICENCE = "BSD-3-Clause, trained on CC-BY-NC data"
# Cellpose looks for objects around 30 px wide and is not told a diameter here, so nothing is resampled: a
# nucleus of 6 to 10 µm is 12 to 20 px. At 0.25 it would be 24 to 40 px, for four times the work.
MPP = 0.5
# Half of the block of 256 px in which each pixel is seen together with all others.
MARGIN = 128
# The side of a token; blocks are laid out anew in each picture, so no step makes two pictures alike.
STEP = 8


def open_cellpose(name: ForeignName, threads: int | None = 1) -> ForeignFinder:
    """`name.model`: "cpsam", "cpsam_v2", or the file of a model trained further, for which `name.mpp` must be
    stated. Nothing is downloaded; the file is opened as numbers only, never as a pickle that runs code.

    Raises MissingExtraError, ModelUnavailableError, RequestError.
    """
    torch, models = require("torch"), require("cellpose.models")
    path = _find(name, models)
    device = choose_device()
    model = _load(models, path, device)
    digest, release = digest_of(path), f"cellpose {version('cellpose')}"
    return ForeignFinder(
        name=name.public,
        version=release,
        weights_sha256=digest,
        document_sha256=digest_all(release, [digest]),
        licence=LICENCE if name.model in PUBLISHED else "not stated",
        mpp=name.mpp or MPP,
        margin=MARGIN,
        step=STEP,
        compute={
            "device": str(device),
            "precision": str(model.net.dtype).removeprefix("torch."),
            "runtime": f"{release}, torch {torch.__version__}",
        },
        segment=lambda rgb: _segment(model, rgb, threads),
    )


def _segment(model: Any, rgb: NDArray[np.uint8], threads: int | None) -> tuple[NDArray[np.integer], Scores]:
    keep_threads(threads)
    masks, _, _ = model.eval(rgb, channel_axis=2)
    return np.asarray(masks).reshape(rgb.shape[:2]).astype(np.int32), None


def _find(name: ForeignName, models: Any) -> Path:
    given = Path(name.model)
    if given.is_file():
        if name.mpp is None:
            raise RequestError(
                str(name), "does not say its µm per pixel", f"add them, such as {name}@{MPP:g} for {MPP:g}"
            )
        return given
    if name.model not in PUBLISHED:
        raise ModelUnavailableError(
            str(name), "is neither known here nor a file", f"known are {' and '.join(PUBLISHED)}"
        )
    path = models.MODEL_DIR / name.model
    if not path.is_file():
        raise ModelUnavailableError(
            str(name),
            f"has no weights here ({path} is missing)",
            f"fetch {models._MODEL_URL}{name.model} to {path}, or let Cellpose do so: "
            f"python -c \"from cellpose import models; models.cache_model_path('{name.model}')\"",
        )
    return path


def _load(models: Any, path: Path, device: Any) -> Any:
    try:
        backbone = models.get_backbone(str(path))
        if backbone != BACKBONE:
            raise ValueError(f"its backbone is {backbone}, not {BACKBONE}")
        # On a CPU bfloat16 is slower than float32 (see `coverslip.models.device`).
        return models.CellposeModel(
            pretrained_model=str(path), device=device, use_bfloat16=device.type != "cpu"
        )
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, UnpicklingError) as error:
        raise ModelUnavailableError(
            str(path), f"is no Cellpose model that can be used here ({error})", "name one of Cellpose 4"
        ) from error
