"""A probe's package: the encoder's weights and the head's arrays in one safetensors file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.extras import require
from coverslip.models.document import Probe
from coverslip.models.encoders import Encoder, find_encoder
from coverslip.models.head import CentroidHead, Head, LinearHead, NeighbourHead
from coverslip.models.package import WEIGHTS, ModelPackage
from coverslip.models.pooling import pool
from coverslip.models.runtime import Recipe
from coverslip.models.weights import fill_encoder

if TYPE_CHECKING:
    import torch

ENCODER, HEAD = "encoder.", "head."


def pack_probe(encoder: torch.nn.Module, head: Head) -> bytes:
    """The bytes of a safetensors file; the same numbers give the same bytes."""
    tensors = {ENCODER + name: value.cpu().contiguous() for name, value in encoder.state_dict().items()}
    convert = require("torch").from_numpy
    tensors |= {HEAD + name: convert(np.ascontiguousarray(array)) for name, array in head.arrays().items()}
    return require("safetensors.torch").save(tensors)


def read_head(package: ModelPackage) -> Head:
    """The estimator, whose classes are numbers into those of the document.

    Raises ModelUnavailableError when it does not fit the document, or the weights changed on disk.
    """
    with _mapped(package):
        tensors = require("safetensors.torch").load(package.read_weights())
        arrays = {name: value.numpy() for name, value in _under(HEAD, tensors).items()}
        return _head(_probe(package), arrays, len(package.document.classes))


def probe_recipe(package: ModelPackage) -> Recipe:
    """How the engine computes the features; the head comes after it, in numpy, so that it is the same in
    every runtime and precision."""
    probe, document = _probe(package), package.document

    def look(network: torch.nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor]:
        return (pool(network, batch, probe.pooling),)

    return Recipe(
        name=document.name,
        load=lambda: _load(package, probe),
        look=look,
        widths=(probe.features,),
        size=document.tile.size,
        normalisation=document.normalisation,
    )


def _probe(package: ModelPackage) -> Probe:
    if package.document.probe is None:
        raise RequestError(str(package.folder), "is no probe", "name the package of one")
    return package.document.probe


def _load(package: ModelPackage, probe: Probe) -> torch.nn.Module:
    encoder: Encoder = replace(find_encoder(probe.encoder), pooling=probe.pooling)
    with _mapped(package):
        tensors = require("safetensors.torch").load(package.read_weights())
        return fill_encoder(encoder, _under(ENCODER, tensors))


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _head(probe: Probe, arrays: Mapping[str, NDArray[Any]], classes: int) -> Head:
    """Raises KeyError for an array that is missing, ValueError for one of another shape."""
    numbers, width = np.arange(classes), probe.features
    if probe.method == "linear":
        shapes = {"weight": (classes, width), "bias": (classes,)}
        return LinearHead(numbers, *_shaped(arrays, shapes))
    if probe.method == "knn":
        assert probe.neighbours is not None
        assert probe.temperature is not None
        rows = len(arrays["bank"])
        bank, labels = _shaped(arrays, {"bank": (rows, width), "labels": (rows,)})
        if not rows or labels.min() < 0 or labels.max() >= classes:
            raise ValueError("head.labels do not name classes")
        return NeighbourHead(numbers, bank, labels, probe.neighbours, probe.temperature)
    shapes = {"centroids": (classes, width), "spread": (1,)}
    if probe.method == "simpleshot":
        shapes["centre"] = (width,)
    return CentroidHead(numbers, *_shaped(arrays, shapes))


def _shaped(arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> list[NDArray[Any]]:
    """These arrays and no others."""
    found = {name: array.shape for name, array in arrays.items()}
    if found != dict(shapes):
        raise ValueError(f"head has {found}, and {dict(shapes)} are wanted")
    return [arrays[name] for name in shapes]


@contextmanager
def _mapped(package: ModelPackage) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, ValueError, require("safetensors").SafetensorError) as error:
        raise ModelUnavailableError(
            str(package.folder / WEIGHTS),
            f"does not fit the probe {package.document.name} ({error})",
            "make the package again with the same versions",
        ) from error
