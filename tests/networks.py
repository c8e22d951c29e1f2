"""Small networks with random weights, packages of them, and tiles that they tell apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from coverslip.models.document import Architecture, ModelDocument, Normalisation, TileFit
from coverslip.models.package import ModelPackage, write_package

SIZE = 32
NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def architecture_of(name: str, size: int = SIZE) -> Architecture:
    """Transformers are told their image size, others take any."""
    arguments = {"img_size": size} if name.startswith(("vit", "test_vit", "eva")) else {}
    return Architecture.model_validate({"name": name, "arguments": arguments})


def network_of(name: str = "test_resnet", size: int = SIZE):
    """Random weights. The batch norms have seen tiles: fresh ones do nothing and would hide mistakes; and the
    classifier is neither indifferent nor so sure that nothing could change its mind."""
    import torch

    from coverslip.models.network import build_network, features_and_logits, normalise

    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_network(architecture_of(name, size), 3)
        norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the mean of all they have seen, not mostly what they began with
        batch = normalise(torch.from_numpy(tiles_of(16, 0, size)), NORMALISATION)
        if norms:
            features_and_logits(network.train(), batch)
        with torch.no_grad():
            logits = features_and_logits(network.eval(), batch)[1]
            network.get_classifier().weight.mul_(2 / logits.std())
    return network


def write_network(
    folder: Path, network, name: str = "test_resnet", size: int = SIZE, **changes
) -> ModelPackage:
    from safetensors.torch import save

    weights = save({key: value.contiguous() for key, value in network.state_dict().items()})
    document = ModelDocument(
        name="demo",
        version="1",
        classes=("a", "b", "c"),
        tile=TileFit(size=size, mpp=0.5, tolerance=0.1),
        stain=None,
        normalisation=NORMALISATION,
        architecture=architecture_of(name, size),
        licence="Apache-2.0",
        intended_use="research",
        training=None,
        metrics=None,
        calibration=None,
        out_of_distribution=None,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        created_with={"coverslip": "0.1.0"},
    ).model_copy(update=changes)
    return write_package(folder, document, weights)


def tiles_of(n: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Noise around a colour of its own for each tile."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, (n, 1, 1, 3))
    return np.clip(colour + rng.normal(0, 30, (n, size, size, 3)), 0, 255).astype(np.uint8)
