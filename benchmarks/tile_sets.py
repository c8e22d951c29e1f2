"""python -m benchmarks.tile_sets DATA [--weights FILE | --model NAME]: two sets that nothing ships from.

LC25000 lung (three classes, one tile of each photograph) and the crops of ComparisonDetector (eleven classes
of cervical cells and organisms): a linear probe on a network that stays as it is, by five-fold
cross-validation. Photographs never lie on both sides of a fold; of ComparisonDetector's crops nobody
published which slide they are of, so that figure may be too high, and its interval too narrow.

DATA: the folder with both. FILE: safetensors of timm's tf_efficientnet_lite0, published for ImageNet. NAME: a
model package whose network sees instead; by default `cervical-cells`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coverslip.models.document import Architecture, Normalisation
from coverslip.models.labels_file import numbered
from coverslip.models.library import find_model
from coverslip.models.metrics import balanced_accuracy, bootstrap_interval, confusion_matrix
from coverslip.models.network import load_network, normalise, published_normalisation
from coverslip.models.probes import LinearProbe, choose_penalty
from coverslip.models.split import fold_groups

if TYPE_CHECKING:
    import torch

NETWORK = "tf_efficientnet_lite0"
FOLDS = 5
BATCH = 32
# Directions in which the rows learnt from differ less than this share of the widest are rounding.
LEAST_WIDTH = 1e-4


@dataclass(frozen=True, slots=True)
class TileSet:
    """`folder` under the data's; `size`: side in pixels that tiles are brought to; `group`: the column that
    numbers, within a class, the photographs or slides that tiles are of."""

    folder: str
    size: int
    group: str


SETS = (
    TileSet("histology-tiles/lc25000-lung", 224, "source_image_cluster"),
    TileSet("cytology/comparisondetector-restricted", 192, "slide"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """`pixels`: uint8 (n, size, size, 3); `labels`, `groups`: numbers (n,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.intp]
    groups: NDArray[np.intp]
    classes: tuple[str, ...]


def read(data: Path, chosen: TileSet) -> Labelled:
    """Pictures of any shape, mirrored at their shorter sides' edges until they are square."""
    folder = data / chosen.folder
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = tuple(sorted({row["label"] for row in rows}))
    return Labelled(
        np.stack([_square(folder / row["file"], chosen.size) for row in rows]),
        np.array([classes.index(row["label"]) for row in rows], np.intp),
        numbered(f"{row['label']} {row.get(chosen.group) or row['file']}" for row in rows),
        classes,
    )


def _square(path: Path, size: int) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
    missing = max(rgb.shape[:2]) - np.array(rgb.shape[:2])
    (top, left), (bottom, right) = missing // 2, missing - missing // 2
    rgb = cv2.copyMakeBorder(rgb, int(top), int(bottom), int(left), int(right), cv2.BORDER_REFLECT)
    way = cv2.INTER_AREA if len(rgb) > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, (size, size), interpolation=way), np.uint8)


def open_network(weights: Path | None, model: str) -> tuple[torch.nn.Module, Normalisation]:
    from safetensors.torch import load_file

    if weights:
        architecture = Architecture(name=NETWORK)
        return load_network(architecture, 1000, load_file(weights)), published_normalisation(architecture)
    package = find_model(model)
    document = package.document
    network = load_network(document.architecture, len(document.classes), load_file(package.weights))
    return network, document.normalisation


def see(
    network: torch.nn.Module, normalisation: Normalisation, pixels: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Means over the picture of its last and its three coarsest feature maps, and over four turns: (n, d)."""
    import torch

    found = []
    with torch.inference_mode():
        for part in torch.from_numpy(pixels).split(BATCH):
            turned = [torch.rot90(part, quarters, dims=(1, 2)) for quarters in range(4)]
            found.append(
                torch.stack([_maps(network, normalise(one, normalisation)) for one in turned]).mean(0)
            )
    return torch.cat(found).numpy()


def _maps(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    import torch

    last, others = network.forward_intermediates(batch, indices=3)  # type: ignore[operator]
    return torch.cat([each.mean((2, 3)) for each in (last, *others)], dim=1)


def cross_validate(features: NDArray[np.float32], tiles: Labelled) -> NDArray[np.intp]:
    """The class called for each tile, (n,), by a probe that saw none of its fold; its penalty is chosen on
    the next fold, and then all but the tile's own are learnt from."""
    fold = fold_groups(tiles.labels, tiles.groups, FOLDS, 0, tiles.classes)
    called = np.empty(len(tiles.labels), np.intp)
    for number in range(FOLDS):
        own, next_one = fold == number, fold == (number + 1) % FOLDS
        seen = _spanned(features, ~own & ~next_one)
        rows = [seen[chosen] for chosen in (~own & ~next_one, next_one)]
        labels = [tiles.labels[chosen] for chosen in (~own & ~next_one, next_one)]
        penalty: LinearProbe = choose_penalty(rows[0], labels[0], rows[1], labels[1])
        seen = _spanned(features, ~own)
        called[own] = penalty.fit(seen[~own], tiles.labels[~own]).predict(seen[own])
    return called


def _spanned(features: NDArray[np.float32], learnt: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Each feature at mean 0 and spread 1 of the rows learnt from, turned into the space that these span: a
    penalised linear probe finds the same there, sooner."""
    mean, spread = features[learnt].mean(axis=0), features[learnt].std(axis=0)
    scaled = (features - mean) / np.maximum(spread, 1e-6)
    _, width, across = np.linalg.svd(scaled[learnt], full_matrices=False)
    return (scaled @ across[width > LEAST_WIDTH * width[0]].T).astype(np.float32)


def measure(data: Path, weights: Path | None, model: str) -> Iterator[str]:
    network, normalisation = open_network(weights, model)
    for chosen in SETS:
        tiles = read(data, chosen)
        called = cross_validate(see(network, normalisation, tiles.pixels), tiles)
        figure = balanced_accuracy(confusion_matrix(tiles.labels, called, len(tiles.classes)))
        low, high = bootstrap_interval(tiles.labels, called, tiles.groups, len(tiles.classes))
        groups = len(np.unique(tiles.groups))
        yield (
            f"{chosen.folder}: balanced accuracy {figure:.3f} ({low:.3f} to {high:.3f}), "
            f"{len(called)} tiles in {groups} groups, {len(tiles.classes)} classes"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--model", default="cervical-cells")
    given = parser.parse_args()
    for line in measure(given.data, given.weights, given.model):
        print(line, flush=True)


if __name__ == "__main__":
    main()
