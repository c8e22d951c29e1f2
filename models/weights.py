"""An encoder's weights: from the local Hugging Face cache or a file, checked before anything else is done.

The network is never asked, and a pickle is never opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

from coverslip.errors import ModelUnavailableError
from coverslip.extras import require
from coverslip.models.encoders import Encoder, build_encoder
from coverslip.models.naming import to_timm
from coverslip.models.network import with_weights
from coverslip.models.package import PICKLES

if TYPE_CHECKING:
    import torch

FILE = "model.safetensors"
RANDOM = "random weights"
SEED = 0
CONVERT = (
    "a pickle can run code and is never opened: in a place you trust, write the same numbers with "
    'safetensors.torch.save_file(torch.load("FILE", weights_only=True), "FILE.safetensors")'
)


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights, for whoever loads them and for provenance. `path`: a safetensors file, "" for random
    ones; `version`: the commit they were published in, the file's name, or "random weights"."""

    path: str
    sha256: str
    version: str


def cached_weights(encoder: Encoder, cache: Path | None = None) -> Path | None:
    """The file in the local Hugging Face cache. `cache`: the folder, None for the user's own."""
    if not encoder.repository:
        return None
    lookup = require("huggingface_hub").try_to_load_from_cache
    found = lookup(encoder.repository, FILE, cache_dir=cache)
    return Path(found) if isinstance(found, str) else None


def find_weights(encoder: Encoder, file: str | Path | None = None, cache: Path | None = None) -> Weights:
    """The weights in `file`, or else in the cache; that they fit is told by their names and shapes.

    Raises ModelUnavailableError when there are none, with the commands that fetch them, or they do not fit.
    """
    if file is None:
        path = cached_weights(encoder, cache)
        if path is None:
            raise _missing(encoder)
        version = path.parent.name
    else:
        path = Path(file)
        version = path.name
    _check_file(path)
    _check_fit(encoder, path)
    return Weights(os.path.abspath(path), _file_digest(path), version)


def random_weights(encoder: Encoder) -> Weights:
    """Those that this version of torch and timm draws; the same each time."""
    digest = hashlib.sha256()
    for name, value in sorted(_random_network(encoder).state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return Weights("", digest.hexdigest(), RANDOM)


def load_encoder(encoder: Encoder, weights: Weights) -> torch.nn.Module:
    """The network on the CPU, float32, for evaluation.

    Raises ModelUnavailableError when the weights are no longer what they were.
    """
    if not weights.path:
        return _random_network(encoder).float().eval().requires_grad_(False)
    path = Path(weights.path)
    _check_file(path)
    if _file_digest(path) != weights.sha256:
        raise ModelUnavailableError(weights.path, "was replaced during the run", "run again")
    with _mapped(encoder, path):
        tensors = _named(encoder, to_timm(require("safetensors.torch").load_file(path)))
        return fill_encoder(encoder, tensors)


def fill_encoder(encoder: Encoder, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """As `load_encoder`, with weights under timm's names; it may keep the tensors given.

    Raises RuntimeError or KeyError when a name or shape does not fit.
    """
    size = _image_size(encoder, tensors)
    return with_weights(lambda: build_encoder(encoder, size), tensors)


def _random_network(encoder: Encoder) -> torch.nn.Module:
    torch = require("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build_encoder(encoder)


def _missing(encoder: Encoder) -> ModelUnavailableError:
    place = encoder.repository
    if not place:
        return ModelUnavailableError(
            encoder.name, "has no published weights", "name a file with --weights FILE.safetensors"
        )
    problem, files = "its weights are not in the local Hugging Face cache", f"{FILE} config.json"
    then = ""
    if encoder.published == "pickle":
        problem += f" as safetensors; {place} published a pickle only, when last seen"
        files, then = "pytorch_model.bin config.json", f"; {CONVERT}, and name that with --weights"
    accept = f"accept its licence ({encoder.licence}) at {encoder.page}, then " if encoder.gated else ""
    log_in = "hf auth login; " if encoder.gated else ""
    where = "where there is a connection: "
    remedy = f"{accept}{where}{log_in}hf download {place} {files}{then}"
    if not encoder.gated:
        remedy += f"; its licence is {encoder.licence}: {encoder.page}"
    return ModelUnavailableError(encoder.name, problem, remedy)


def _check_file(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise ModelUnavailableError(str(path), "is a pickle", CONVERT)
    if not path.is_file():
        raise ModelUnavailableError(str(path), "is no file", "name one that ends in .safetensors")


def _check_fit(encoder: Encoder, path: Path) -> None:
    """By names and shapes alone: the numbers are not read."""
    torch, safe_open = require("torch"), require("safetensors").safe_open
    with _mapped(encoder, path), torch.device("meta"):
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        tensors = _named(encoder, to_timm({name: torch.empty(shape) for name, shape in shapes.items()}))
        network = build_encoder(encoder, _image_size(encoder, tensors))
        network.load_state_dict(tensors, strict=True, assign=True)


@contextmanager
def _mapped(encoder: Encoder, path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, OSError, require("safetensors").SafetensorError) as error:
        said = str(error).strip().splitlines()
        raise ModelUnavailableError(
            str(path),
            f"does not fit the encoder {encoder.name} ({' '.join(said[:2])[:300]})",
            f"name the weights of {encoder.repository or encoder.name}",
        ) from error


def _named(encoder: Encoder, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without those of a classifier, which features do not pass through."""
    stated = require("timm.models").get_pretrained_cfg(encoder.tower.name)
    names = stated.classifier if stated else None
    heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names or ()))
    return {name: value for name, value in tensors.items() if not heads or not name.startswith(heads)}


def _image_size(encoder: Encoder, tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Of the positions in the file, in pixels a side: a network may be published with those of another size
    than its tiles, and has them resampled. None where that cannot be told, or is not possible.
    """
    if "img_size" not in encoder.tower.arguments or "pos_embed" not in tensors:
        return None
    with require("torch").device("meta"):
        network = build_encoder(encoder)
    beside = network.pos_embed.shape[1] - network.patch_embed.num_patches  # type: ignore[union-attr,operator]
    side = isqrt(max(0, tensors["pos_embed"].shape[1] - int(beside)))
    return side * network.patch_embed.patch_size[0] or None  # type: ignore[union-attr,index]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
