"""Which pixels of a tile speak for a class: Grad-CAM for convolutional networks, tokens for transformers.

Both are of one kind: activations late in the network, weighed by how much the class's logit grows with them.
They say what the network used, and not that it was right to; two maps of equally good networks may differ.

Convolutional networks (and others whose last activations are a map): Grad-CAM (Selvaraju 2017, ICCV,
equations 1 and 2) on what `forward_features` gives, α being the mean of the gradient over the map:
ReLU(Σ_k α_k A_k).

Vision transformers: gradient × activation of the patch tokens that enter the last block, ReLU(Σ_d g_d a_d)
for each. After that block the tokens of a network which classifies by its class token get no gradient at all;
before it they do in every network that has blocks, however it pools, and a mean of gradients over positions
would mix what attention keeps apart. Attention rollout (Abnar & Zuidema 2020, ACL) was not taken: it is the
same for every class, leaves out values and MLPs, and needs attention matrices, which fused attention never
makes and which relative positions, registers and pooling by attention each give another meaning. A token
holds mostly what lies under its patch, and some of what earlier blocks brought there.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError, RequestError
from coverslip.extras import require
from coverslip.models.document import Normalisation
from coverslip.models.network import normalise

if TYPE_CHECKING:
    import torch


def attribute_tile(
    network: torch.nn.Module, tile: NDArray[np.uint8], number: int, normalisation: Normalisation
) -> NDArray[np.float32]:
    """What speaks for class `number`, float32 (height, width), 0 to 1; all 0 where nothing does.

    `network`: of timm, in evaluation mode, used by nobody else meanwhile. `tile`: RGB uint8 (height, width,
    3) at the network's µm/px. The largest value is 1 however much it is: maps of two tiles or classes do not
    compare. As fine as the network's last map or patches, and interpolated linearly between their centres.

    Raises RequestError for another tile or class, ModelMismatchError for a network that keeps no places.
    """
    torch = require("torch")
    _check(tile)
    device = next(network.parameters()).device
    batch = normalise(torch.from_numpy(np.ascontiguousarray(tile)[None].copy()).to(device), normalisation)
    with torch.enable_grad():
        coarse = _coarse(network, batch, number)
    fine = torch.nn.functional.interpolate(
        coarse[None, None], size=tile.shape[:2], mode="bilinear", align_corners=False
    )[0, 0]
    most = float(fine.max())
    found = fine / most if most > 0 else torch.zeros_like(fine)
    return np.asarray(found.clamp(0, 1).cpu().numpy(), np.float32)


def _check(tile: NDArray[np.uint8]) -> None:
    if tile.dtype != np.uint8 or tile.ndim != 3 or tile.shape[2] != 3 or not tile.size:
        raise RequestError(f"tile {tile.dtype} {tile.shape}", "is no RGB tile", "give uint8 (h, w, 3)")


def _coarse(network: torch.nn.Module, batch: torch.Tensor, number: int) -> torch.Tensor:
    """What speaks for the class, at least 0, (rows, columns) of the network's own map."""
    features = network.forward_features(batch).detach()  # type: ignore[operator]
    if features.ndim == 4:
        return _map_evidence(network, features, number)
    if features.ndim == 3 and hasattr(network, "blocks"):
        return _token_evidence(network, batch, number)
    raise ModelMismatchError(
        type(network).__name__,
        f"gives features of shape {tuple(features.shape)}, which keep no places",
        "explain a model whose network is convolutional or a vision transformer",
    )


def _map_evidence(network: torch.nn.Module, features: torch.Tensor, number: int) -> torch.Tensor:
    """Grad-CAM. `features`: (1, channels, rows, columns), or with the channels last where timm says so."""
    features.requires_grad_(True)
    # A copy goes on: heads may change it in place, which the tensor that gets the gradient does not allow.
    logit = _logit(network, features.clone(), number)
    gradient = require("torch").autograd.grad(logit, features)[0]
    if _channels_last(network):
        features, gradient = features.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features.detach()).sum(dim=1)[0].relu()


def _channels_last(network: torch.nn.Module) -> bool:
    return str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")


def _token_evidence(network: torch.nn.Module, batch: torch.Tensor, number: int) -> torch.Tensor:
    """Gradient × activation of the patch tokens before the last block."""
    kept: list[torch.Tensor] = []

    def keep(block: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        kept.append(inputs[0].detach().requires_grad_(True))
        return (kept[0].clone(), *inputs[1:])

    hook = network.blocks[-1].register_forward_pre_hook(keep)  # type: ignore[index,union-attr,operator]
    try:
        logit = _logit(network, network.forward_features(batch), number)  # type: ignore[operator]
    finally:
        hook.remove()
    tokens = kept[0]
    gradient = require("torch").autograd.grad(logit, tokens)[0]
    # Before the patches come the class token and registers, which lie nowhere.
    first = int(getattr(network, "num_prefix_tokens", 0))
    evidence = (gradient * tokens.detach()).sum(dim=2)[0, first:].relu()
    return evidence.reshape(_grid(network, len(evidence), batch))


def _grid(network: torch.nn.Module, tokens: int, batch: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of the patches, which are square on the tile."""
    rows = isqrt(tokens * batch.shape[2] // batch.shape[3])
    if not rows or tokens % rows or rows * batch.shape[3] != tokens // rows * batch.shape[2]:
        raise ModelMismatchError(
            type(network).__name__,
            f"has {tokens} tokens in its last block, which are no grid over the tile",
            "explain a model whose network is convolutional or a plain vision transformer",
        )
    return rows, tokens // rows


def _logit(network: torch.nn.Module, features: torch.Tensor, number: int) -> torch.Tensor:
    """Of one class, from what `forward_features` gave, as `features_and_logits` has it."""
    pooled = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
    logits = network.get_classifier()(pooled)[0]  # type: ignore[operator]
    if not 0 <= number < len(logits):
        raise RequestError(
            f"class {number}", f"the network has {len(logits)}", f"name one of 0 to {len(logits) - 1}"
        )
    return logits[number]
