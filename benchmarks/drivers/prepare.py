"""What the rows work on: tile plans, corners for the peers, model packages with weights drawn from a seed.

FOLDER SLIDE…: `<slide>-<size>.parquet` for 256 and 224 px at 0.5 µm/px, `<slide>-<size>.json` their corners
as [[x, y], …], and the packages `resnet18` and `efficientnet_b0`. Prints
how many pixels each slide and how many tiles each plan has.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save

from coverslip import Slide, find_tissue, open_slide, plan_tiles
from coverslip.models.document import Architecture, ModelDocument, Normalisation, TileFit
from coverslip.models.package import write_package
from coverslip.tiling.planfile import write_plan

MPP, SIZES = 0.5, (256, 224)
IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def write_plans(folder: Path, slide: Slide, stem: str) -> dict[str, int]:
    tissue, tiles = find_tissue(slide), {}
    for size in SIZES:
        plan = plan_tiles(slide, tissue, mpp=MPP, size=size)
        name = f"{stem}-{size}"
        write_plan(plan, folder / f"{name}.parquet")
        corners = [[int(x), int(y)] for x, y in zip(plan.x, plan.y, strict=True)]
        (folder / f"{name}.json").write_text(json.dumps(corners))
        tiles[name] = len(plan)
    return tiles


def write_model(folder: Path, name: str) -> None:
    torch.manual_seed(0)
    weights = save(timm.create_model(name, num_classes=2).state_dict())
    document = ModelDocument(
        name=name,
        version="1",
        tile=TileFit(size=224, mpp=MPP, tolerance=0.1),
        stain=None,
        architecture=Architecture(name=name),
        licence="none: weights drawn at random",
        intended_use="Measuring speed; it knows nothing.",
        classes=("one", "other"),
        normalisation=IMAGENET,
        training=None,
        metrics=None,
        calibration=None,
        out_of_distribution=None,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        created_with={"torch": torch.__version__.partition("+")[0], "timm": timm.__version__},
    )
    write_package(folder / name, document, weights)


def main() -> None:
    folder = Path(sys.argv[1])
    pixels, tiles = {}, {}
    for path in map(Path, sys.argv[2:]):
        with open_slide(path) as slide:
            pixels[path.stem] = slide.size.area
            tiles |= write_plans(folder, slide, path.stem)
    for name in ("resnet18", "efficientnet_b0"):
        write_model(folder, name)
    print(json.dumps({"pixels": pixels, "tiles": tiles}))


if __name__ == "__main__":
    main()
