"""The same forward in plain torch: eager, float32, one thread: ARCHITECTURE TILES SIDE"""

from __future__ import annotations

import sys

import numpy as np
import timm
import torch
from clock import report

network, count, side = (
    timm.create_model(sys.argv[1], num_classes=2).eval(),
    int(sys.argv[2]),
    int(sys.argv[3]),
)
tiles = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
mean, std = (torch.tensor(three).view(3, 1, 1) for three in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def forward(stop: int = count) -> int:
    with torch.inference_mode():
        for start in range(0, stop, 32):
            batch = torch.from_numpy(tiles[start : start + 32]).permute(0, 3, 1, 2).contiguous()
            network((batch.float() / 255 - mean) / std).softmax(1).numpy()
    return stop


torch.set_num_threads(1)
forward(32)
report(forward)
