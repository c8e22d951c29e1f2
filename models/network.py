"""timm networks: built by name, split before the classifier, started from cached weights if there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coverslip.errors import ModelUnavailableError
from coverslip.extras import require
from coverslip.models.document import Architecture, Normalisation

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Start:
    """Where the first weights come from: `weights` is a local file, or None for random ones."""

    weights: Path | None
    sentence: str


def build_network(architecture: Architecture, classes: int) -> torch.nn.Module:
    """The network with random weights, on the CPU, channels-last. Raises ModelUnavailableError."""
    return _create(architecture, classes, None)


def load_network(
    architecture: Architecture, classes: int, weights: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """The network with these weights, float32, on the CPU, for evaluation; it may keep the tensors given.

    Raises ModelUnavailableError when timm cannot build it, RuntimeError when a name or shape does not fit.
    """
    return with_weights(lambda: _create(architecture, classes, None), weights)


def with_weights(make: Callable[[], torch.nn.Module], weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """As `load_network`, for what `make` builds."""
    network = _laid_out(make, weights)
    if network is None:
        network = make()
        network.load_state_dict(weights, strict=True)
    return network.float().eval().requires_grad_(False)


def _laid_out(
    make: Callable[[], torch.nn.Module], weights: Mapping[str, torch.Tensor]
) -> torch.nn.Module | None:
    """Around the given tensors, without drawing random ones first: a second of work for a ViT-B.

    None where timm cannot build it without memory, or it computes tables that the weights do not hold.
    """
    try:
        with require("torch").device("meta"):
            network = make()
    except ModelUnavailableError:
        return None
    network.load_state_dict(weights, strict=True, assign=True)
    whole = not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    return network if whole else None


def start_network(architecture: Architecture, classes: int, start: Start) -> torch.nn.Module:
    """The network with the weights of `start` and a fresh classifier. Raises ModelUnavailableError."""
    return _create(architecture, classes, start.weights)


def find_start(architecture: Architecture, pretrained: bool, cache: Path | None = None) -> Start:
    """Look for published weights in the local Hugging Face cache; the network is never asked.

    `cache`: the cache folder, None for the user's own. Only safetensors count, never a pickle.
    """
    name = architecture.name
    if not pretrained:
        return Start(None, "random weights, as asked")
    repo = require("timm.models").get_pretrained_cfg(name)
    if repo is None or not repo.hf_hub_id:
        return Start(None, f"random weights: no pretrained weights are published for {name}")
    found = require("huggingface_hub").try_to_load_from_cache(
        repo.hf_hub_id, "model.safetensors", cache_dir=cache
    )
    if isinstance(found, str):
        return Start(
            Path(found), f"pretrained weights {repo.hf_hub_id} (licence {repo.license or 'not stated'})"
        )
    return Start(
        None,
        f"random weights: {repo.hf_hub_id} is not in the local cache; where there is a connection, "
        f"fetch it with: hf download {repo.hf_hub_id} model.safetensors config.json",
    )


def published_normalisation(architecture: Architecture) -> Normalisation:
    """The mean and std that the network's published weights want; ImageNet's where none are stated."""
    stated = require("timm.models").get_pretrained_cfg(architecture.name)
    data = require("timm.data")
    mean, std = (
        (stated.mean, stated.std) if stated else (data.IMAGENET_DEFAULT_MEAN, data.IMAGENET_DEFAULT_STD)
    )
    return Normalisation(mean=mean, std=std)


def _create(architecture: Architecture, classes: int, weights: Path | None) -> torch.nn.Module:
    return create(architecture.name, architecture.arguments.model_dump(exclude_none=True), classes, weights)


def create(
    name: str, arguments: Mapping[str, Any], classes: int, weights: Path | None = None
) -> torch.nn.Module:
    """timm's network of that name, channels-last. `classes`: 0 for none to tell apart, and no classifier.

    `weights`: a local file of published weights, None for random ones. Raises ModelUnavailableError.
    """
    torch, timm = require("torch"), require("timm")
    overlay = {"file": str(weights)} if weights else None
    try:
        network = timm.create_model(
            name,
            pretrained=weights is not None,
            pretrained_cfg_overlay=overlay,
            num_classes=classes,
            **arguments,
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ModelUnavailableError(
            name,
            f"timm {timm.__version__} cannot build it ({error})",
            "name one of timm.list_models() and arguments it takes",
        ) from error
    return network.to(memory_format=torch.channels_last)


def features_and_logits(network: torch.nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What enters the classifier, (n, features), and what leaves it, (n, classes).

    Every timm network is forward_features → forward_head → classifier; taking it apart there gives the
    same logits as calling it.
    """
    features = network.forward_head(network.forward_features(batch), pre_logits=True)  # type: ignore[operator]
    return features, network.get_classifier()(features)  # type: ignore[operator]


def normalise(tiles: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    """uint8 (n, h, w, 3) on any device to float32 (n, 3, h, w), channels-last in memory, no second copy."""
    mean = tiles.new_tensor([255 * m for m in normalisation.mean], dtype=require("torch").float32)
    std = tiles.new_tensor([255 * s for s in normalisation.std], dtype=mean.dtype)
    batch = tiles.permute(0, 3, 1, 2).to(mean.dtype)
    return batch.sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
