"""Self-attention over many tiles in linear time (Nyströmformer, Xiong 2021, AAAI)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coverslip.extras import require

if TYPE_CHECKING:
    import torch

# As in TransMIL: landmarks are half the width, the inverse takes six steps; a convolution over 33 neighbours
# keeps values beside what attention makes of them.
HEADS, INVERSE_STEPS, NEIGHBOURS, DROPOUT = 8, 6, 33, 0.1


class Nystrom:
    """`layers` are learnt. Tokens are (n, width)."""

    def __init__(self, width: int):
        nn = require("torch").nn
        self.layers: torch.nn.ModuleDict = nn.ModuleDict(
            {
                "qkv": nn.Linear(width, 3 * width, bias=False),
                "out": nn.Sequential(nn.Linear(width, width), nn.Dropout(DROPOUT)),
                "near": nn.Conv2d(
                    HEADS, HEADS, (NEIGHBOURS, 1), padding=(NEIGHBOURS // 2, 0), groups=HEADS, bias=False
                ),
            }
        )


def attend(
    layers: torch.nn.Module, tokens: torch.Tensor, landmarks: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens after attention, (n, width), and what the first token attends to, (n,), mean over heads.

    Softmax(QKᵀ)V is taken through landmarks, means of neighbouring tokens: F · A⁺ · B · V, where A is
    among landmarks, F from tokens to them and B back. With no more tokens than landmarks it is exact.
    """
    torch = require("torch")
    q, k, v = _heads(layers.get_submodule("qkv")(tokens))
    q = q / q.shape[-1] ** 0.5
    if len(tokens) <= landmarks:
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        mixed, first = weights @ v, weights[:, 0]
    else:
        q_mean, k_mean = _means(q, landmarks), _means(k, landmarks)
        to = (q @ k_mean.transpose(-1, -2)).softmax(-1)
        among = pseudo_inverse((q_mean @ k_mean.transpose(-1, -2)).softmax(-1))
        back = (q_mean @ k.transpose(-1, -2)).softmax(-1)
        mixed, first = to @ (among @ (back @ v)), (to[:, :1] @ among @ back)[:, 0]
    mixed = mixed + layers.get_submodule("near")(v[None])[0]
    joined = mixed.transpose(0, 1).reshape(len(tokens), -1)
    return layers.get_submodule("out")(joined), torch.relu(first).mean(0)


def _heads(qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = qkv.reshape(len(qkv), 3, HEADS, -1).permute(1, 2, 0, 3)
    return q, k, v


def _means(tokens: torch.Tensor, landmarks: int) -> torch.Tensor:
    """(heads, landmarks, width): of stretches as equally long as their number allows."""
    torch = require("torch")
    return torch.nn.functional.adaptive_avg_pool1d(tokens.transpose(-1, -2), landmarks).transpose(-1, -2)


def pseudo_inverse(matrix: torch.Tensor) -> torch.Tensor:
    """Moore–Penrose, by iteration (Razavi 2014, as in the paper's equation 13)."""
    torch = require("torch")
    size = matrix.abs()
    inverse = matrix.transpose(-1, -2) / (size.sum(-1).amax() * size.sum(-2).amax())
    unit = torch.eye(matrix.shape[-1], device=matrix.device)
    for _ in range(INVERSE_STEPS):
        product = matrix @ inverse
        inverse = 0.25 * inverse @ (13 * unit - product @ (15 * unit - product @ (7 * unit - product)))
    return inverse
