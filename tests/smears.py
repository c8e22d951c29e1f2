"""A drawn blood smear: round red cells, and white cells with purple nuclei of one, two or three lobes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

GLASS, RED, CYTOPLASM, PLATELET = (250, 232, 208), (214, 172, 160), (222, 196, 200), (150, 90, 160)
NUCLEI = ((96, 52, 128), (120, 70, 150), (70, 40, 110))
MPP = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Smear:
    """`rgb`: uint8 (h, w, 3) at `MPP`. `white`: (n, 2) centres x, y of white cells, `lobes` (n,) of each;
    `red`: (m, 2)."""

    rgb: NDArray[np.uint8]
    white: NDArray[np.float64]
    lobes: NDArray[np.intp]
    red: NDArray[np.float64]


def draw_smear(width: int = 900, height: int = 700, seed: int = 0) -> Smear:
    """One cell in each square of 64 px: every fourth is white; between them lie platelets."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), GLASS, np.uint8)
    white, lobes, red = [], [], []
    for number, (x, y) in enumerate(
        (x, y) for y in range(40, height - 40, 64) for x in range(40, width - 40, 64)
    ):
        place = int(x + rng.integers(-4, 5)), int(y + rng.integers(-4, 5))
        if number % 4 == 1:
            count = int(rng.integers(1, 4))
            _white(picture, place, count, NUCLEI[count - 1])
            white.append(place)
            lobes.append(count)
        else:
            cv2.circle(picture, place, 15, RED, -1, cv2.LINE_AA)
            red.append(place)
        cv2.circle(picture, (place[0] + 30, place[1] + 30), 3, PLATELET, -1, cv2.LINE_AA)
    noisy = cv2.GaussianBlur(picture, (0, 0), 0.8) + rng.normal(0, 2, picture.shape)
    rgb = np.clip(noisy, 0, 255).astype(np.uint8)
    return Smear(rgb, np.array(white, float) + 0.5, np.array(lobes, np.intp), np.array(red, float) + 0.5)


def _white(
    picture: NDArray[np.uint8], place: tuple[int, int], lobes: int, nucleus: tuple[int, int, int]
) -> None:
    """12 µm wide; lobes lie 2 µm apart at most."""
    cv2.circle(picture, place, 24, CYTOPLASM, -1, cv2.LINE_AA)
    if lobes == 1:
        cv2.circle(picture, place, 15, nucleus, -1, cv2.LINE_AA)
        return
    for turn in np.arange(lobes) * 2 * np.pi / lobes:
        lobe = round(place[0] + 11 * np.cos(turn)), round(place[1] + 11 * np.sin(turn))
        cv2.circle(picture, lobe, 8, nucleus, -1, cv2.LINE_AA)
