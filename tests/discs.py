"""Drawn pictures of round things whose place is known, with their marks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def discs(
    side: int,
    count: int,
    rng: np.random.Generator,
    radii: tuple[float, float] = (6, 11),
    sharp: bool = False,
) -> NDArray[np.int32]:
    """Discs that do not touch, numbered; `sharp`: of these two radii only."""
    labels, taken = np.zeros((side, side), np.int32), []
    for _ in range(40 * count):
        radius = rng.choice((7, 11)) if sharp else rng.uniform(*radii)
        x, y = rng.uniform(radius, side - radius, 2)
        if all(np.hypot(x - a, y - b) > radius + r + 2 for a, b, r in taken):
            taken.append((x, y, radius))
            cv2.circle(labels, (round(x), round(y)), round(radius), len(taken), -1)
        if len(taken) == count:
            break
    return labels


def stained(labels: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Purple where there is a disc, pink elsewhere, noise on both."""
    rgb = np.where(labels[..., None] > 0, (110, 70, 150), (230, 190, 215)).astype(np.float64)
    return np.clip(rgb + rng.normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)


def write_pictures(folder: Path, count: int, boxes: bool = False, name: str = "labels.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,label"]
    for number in range(count):
        rng = np.random.default_rng(number)
        labels = discs(128, 12, rng, sharp=boxes)
        Image.fromarray(stained(labels, rng)).save(folder / f"{number}.png")
        if boxes:
            (folder / f"{number}.xml").write_text(voc(labels), encoding="utf-8")
        else:
            Image.fromarray(labels.astype(np.uint16)).save(folder / f"{number}_l.png")
        lines.append(f"{number}.png,{number}.xml" if boxes else f"{number}.png,{number}_l.png")
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def voc(labels: NDArray[np.int32]) -> str:
    """Large discs are called large, small ones small."""
    objects = []
    for number in range(1, labels.max() + 1):
        y, x = np.nonzero(labels == number)
        name = "large" if np.ptp(x) > 16 else "small"
        sides = {"xmin": x.min() + 1, "ymin": y.min() + 1, "xmax": x.max() + 1, "ymax": y.max() + 1}
        corners = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
        objects.append(f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>")
    return f"<annotation>{''.join(objects)}</annotation>"
