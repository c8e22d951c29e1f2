"""The mean of a network's weights over the last steps of training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from coverslip.extras import require

if TYPE_CHECKING:
    import torch

# About the last 500 steps count.
DECAY = 0.998


class MeanNetwork:
    """An exponential mean of weights and statistics (Polyak and Juditsky 1992), which generalises better than
    the last state and swings less from one epoch to the next. `network`: in evaluation mode, only to be
    read."""

    def __init__(self, network: torch.nn.Module):
        self.network = copy.deepcopy(network).eval()
        self._steps = 0

    def follow(self, network: torch.nn.Module) -> None:
        """Take in its present state; the first states, of a network that knows nothing, fade soon."""
        self._steps += 1
        decay = min(DECAY, self._steps / (self._steps + 10))
        with require("torch").no_grad():
            pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
            for kept, now in pairs:
                if kept.dtype.is_floating_point:
                    kept.lerp_(now, 1 - decay)
                else:
                    kept.copy_(now)

    def state(self) -> dict[str, Any]:
        """To go on from, see `restore`."""
        return {"network": self.network.state_dict(), "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self._steps = state["steps"]
