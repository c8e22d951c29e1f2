"""Batch norms folded into the convolutions before them: the same figures, a tenth to a third less work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from coverslip.extras import require
from coverslip.models.document import Normalisation
from coverslip.models.network import features_and_logits, normalise
from coverslip.models.runtime import Look

if TYPE_CHECKING:
    import torch


def fold_norms(
    network: torch.nn.Module, size: int, normalisation: Normalisation, look: Look = features_and_logits
) -> int:
    """Fold, in place, every batch norm that alone uses a convolution's output; how many there were.

    In evaluation a norm is one scale and shift per channel, which the convolution's weights can carry. Which
    norm follows which convolution is read off one blank tile of `size` px sent through the network by `look`,
    since the tree of modules does not say it. Activations that timm keeps inside a norm stay; what is no
    plain batch norm is left alone.
    """
    torch = require("torch")
    calls = _observe(network, size, normalisation, look)
    convolutions = {id(m.weight): m for m in network.modules() if isinstance(m, torch.nn.Conv2d)}
    norms = {id(m.running_mean): name for name, m in network.named_modules() if type(m) in _plain_norms()}
    pairs = [pair for pair in calls.pairs() if pair[0] in convolutions and pair[1] in norms]
    for weight, mean in pairs:
        _fold(network, convolutions[weight], norms[mean])
    return len(pairs)


@dataclass(slots=True)
class _Calls:
    """What one pass did: outputs of convolutions by id, with the id of the weight; how often each was used;
    and each norm's running mean, by id, after which of those outputs if any.

    The outputs are held, so that no id of theirs is given twice.
    """

    outputs: dict[int, tuple[torch.Tensor, int]] = field(default_factory=dict)
    uses: Counter[int] = field(default_factory=Counter)
    norms: list[tuple[int | None, int]] = field(default_factory=list)

    def pairs(self) -> list[tuple[int, int]]:
        """(id of a convolution's weight, id of a norm's running mean), neither used anywhere else."""
        weights = Counter(weight for _, weight in self.outputs.values())
        means = Counter(mean for _, mean in self.norms)
        alone = [(key, mean) for key, mean in self.norms if key is not None and self.uses[key] == 1]
        pairs = [(self.outputs[key][1], mean) for key, mean in alone]
        return [(weight, mean) for weight, mean in pairs if weights[weight] == means[mean] == 1]


def _observe(network: torch.nn.Module, size: int, normalisation: Normalisation, look: Look) -> _Calls:
    torch = require("torch")
    calls = _Calls()
    tile = normalise(torch.from_numpy(np.zeros((1, size, size, 3), np.uint8)), normalisation)
    with torch.inference_mode(), _recorder(calls):
        look(network, tile)
    return calls


def _recorder(calls: _Calls) -> AbstractContextManager[object]:
    torch, functional = require("torch"), require("torch.nn.functional")
    leaves = require("torch.utils._pytree").tree_leaves

    class Recorder(require("torch.overrides").TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict | None = None
        ) -> Any:
            output = function(*args, **(kwargs or {}))
            # What gives no tensor, such as a look at a shape, uses none of the values.
            if any(isinstance(leaf, torch.Tensor) for leaf in leaves(output)):
                calls.uses.update(id(leaf) for leaf in leaves((args, kwargs)) if id(leaf) in calls.outputs)
            if function is functional.conv2d and len(args) > 1:
                calls.outputs[id(output)] = output, id(args[1])
            elif function is functional.batch_norm:
                source = id(args[0])
                calls.norms.append((source if source in calls.outputs else None, id(args[1])))
            return output

    return Recorder()


def _plain_norms() -> tuple[type, ...]:
    return require("torch").nn.BatchNorm2d, require("timm.layers").BatchNormAct2d


def _fold(network: torch.nn.Module, convolution: Any, name: str) -> None:
    nn, fuse = require("torch.nn"), require("torch.nn.utils.fusion").fuse_conv_bn_weights
    norm: Any = network.get_submodule(name)
    convolution.weight, convolution.bias = fuse(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    left = nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.drop, norm.act)
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, left)
