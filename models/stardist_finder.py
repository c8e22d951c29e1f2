"""StarDist's nuclei (Schmidt 2018, https://arxiv.org/abs/1806.03535) as a finder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError, ModelUnavailableError, RequestError
from coverslip.extras import require
from coverslip.models.foreign_finder import ForeignFinder, Scores, digest_all, digest_of
from coverslip.models.foreign_name import ForeignName

CONFIG, BEST, THRESHOLDS = "config.json", "weights_best.h5", "thresholds.json"
# 2D_versatile_he states none. Its training sets, MoNuSeg and TNBC, were scanned at 40×; but nuclei of the H&E
# picture in the package measure 12 to 18 px, as at 20×, and QuPath's scripts for these weights say 0.5.
MPP = 0.5
# A candidate competes with those whose nucleus overlaps its own: 24 µm at 0.5 µm/px.
WIDEST = 48
# One scale for every picture, as in StarDist's notebook on large ones (other2D/predict_big_data.ipynb).
# Percentiles of each, as it takes of small ones, would let the glass in a tile decide on its nuclei.
WHITE = 255


def open_stardist(name: ForeignName, threads: int | None = 1) -> ForeignFinder:
    """`name.model`: a name that StarDist registers for two dimensions, or the folder of a model, which does
    not say its µm per pixel: `name.mpp` must. Nothing is downloaded. `threads` is left to TensorFlow.

    Raises MissingExtraError, ModelUnavailableError, ModelMismatchError, RequestError.
    """
    tensorflow, models = import_tensorflow(), require("stardist.models")
    folder = _find(name, models.StarDist2D)
    weights = _weights(folder)
    model = _load(models.StarDist2D, folder, weights)
    step = int(max(model._axes_div_by("YX")))
    reach = int(max(model._axes_tile_overlap("YX")))
    release = f"stardist {version('stardist')}"
    others = [folder / file for file in (CONFIG, THRESHOLDS) if (folder / file).is_file()]
    digests = [digest_of(path) for path in (weights, *others)]
    graphics = tensorflow.config.list_physical_devices("GPU")
    return ForeignFinder(
        name=name.public,
        version=release,
        weights_sha256=digests[0],
        document_sha256=digest_all(release, digests),
        licence="not stated",
        mpp=name.mpp or MPP,
        margin=ceil((reach + WIDEST) / step) * step,
        step=step,
        compute={
            "device": "cuda" if graphics else "cpu",
            "precision": "float32",
            "runtime": f"{release}, tensorflow {tensorflow.__version__}",
        },
        segment=_Segmenting(model),
    )


def import_tensorflow() -> Any:
    """TensorFlow, after the Triton that torch brings on Linux: each has an LLVM of its own, and the process
    ends when Triton's comes second (tensorflow 2.20 and 2.21, torch 2.15). Raises MissingExtraError."""
    if find_spec("triton") is not None:
        import_module("triton")
    return require("tensorflow")


class _Segmenting:
    """Keras builds its prediction function at a call and keeps it on the model: one call at a time."""

    def __init__(self, model: Any):
        self._model, self._lock = model, Lock()

    def __call__(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.integer], Scores]:
        picture = rgb.astype(np.float32) / WHITE
        with self._lock:
            labels, found = self._model.predict_instances(picture, axes="YXC", show_tile_progress=False)
        return labels, found["prob"]


def _find(name: ForeignName, kind: Any) -> Path:
    given = Path(name.model)
    if given.exists():
        if not (given / CONFIG).is_file():
            raise ModelUnavailableError(
                name.model, f"holds no {CONFIG}", "name the folder of a StarDist model"
            )
        if name.mpp is None:
            raise RequestError(
                str(name), "does not say its µm per pixel", f"add them, such as {name}@{MPP:g} for {MPP:g}"
            )
        return given
    pretrained = require("csbdeep.models.pretrained")
    published = pretrained.get_registered_models(kind, return_aliases=False)
    if name.model not in published:
        raise ModelUnavailableError(
            str(name), "is neither published nor a path", f"published are {', '.join(published)}"
        )
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    folder = home / "models" / kind.__name__ / name.model
    # Where Keras unpacks what it fetches, before 3.6 and since.
    for place in (folder, folder / name.model, folder / f"{name.model}_extracted"):
        if (place / CONFIG).is_file():
            return place
    url = pretrained.get_model_details(kind, name.model)[2]["url"]
    raise ModelUnavailableError(
        str(name),
        f"has no weights here ({folder / CONFIG} is missing)",
        f"fetch {url} and unpack it into {folder}, or let StarDist do so: "
        f"python -c \"from stardist.models import {kind.__name__} as S; S.from_pretrained('{name.model}')\"",
    )


def _weights(folder: Path) -> Path:
    """The file to load: StarDist itself would take the newest, or none and draw random weights."""
    files: Sequence[Path] = sorted((*folder.glob("*.h5"), *folder.glob("*.hdf5")))
    best = [path for path in files if path.name == BEST] or files
    if len(best) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise ModelUnavailableError(
            str(folder), f"does not tell its weights (found: {found})", f"call the file {BEST}"
        )
    return best[0]


def _load(kind: Any, folder: Path, weights: Path) -> Any:
    try:
        # It prints which files it takes.
        with redirect_stdout(StringIO()):
            model = kind(None, name=folder.name, basedir=str(folder.parent))
            model.load_weights(weights.name)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelUnavailableError(
            str(folder), f"is no StarDist model in two dimensions ({error})", "fetch or make it again"
        ) from error
    if model.config.n_channel_in != 3:
        raise ModelMismatchError(
            str(folder), f"takes {model.config.n_channel_in} channel(s), not RGB", "name a model for H&E"
        )
    return model
