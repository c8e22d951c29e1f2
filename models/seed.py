"""Random numbers that are the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coverslip.extras import require


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from `seed` and only deterministic kernels inside; both as before afterwards."""
    torch = require("torch")
    with (
        torch.random.fork_rng(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(seed)
        yield
