"""TIAToolbox: PatchPredictor over a slide with its own tissue mask, resnet18, 224 px at 0.5 µm/px.

SLIDE FOLDER
"""

# pyright: reportMissingImports=false, reportArgumentType=false
# It runs in the peer's environment.

from __future__ import annotations

import json
import sys
from pathlib import Path

import zarr
from tiatoolbox.models.architecture.vanilla import CNNModel
from tiatoolbox.models.engine.patch_predictor import PatchPredictor

if __name__ == "__main__":
    predictor = PatchPredictor(CNNModel("resnet18", num_classes=2), batch_size=32, verbose=False)
    predictor.run(
        [Path(sys.argv[1])],
        patch_mode=False,
        patch_input_shape=(224, 224),
        stride_shape=(224, 224),
        input_resolutions=[{"units": "mpp", "resolution": 0.5}],
        save_dir=Path(sys.argv[2]),
        output_type="zarr",
    )
    store = next(Path(sys.argv[2]).rglob("*.zarr"))
    print(json.dumps({"units": zarr.open_array(store / "predictions", mode="r").shape[0]}))
