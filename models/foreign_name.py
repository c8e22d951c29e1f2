"""How a model of another package is named: `PACKAGE:MODEL`, or `PACKAGE:MODEL@MPP`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from coverslip.errors import RequestError

PACKAGES = ("instanseg", "stardist", "cellpose")
_MPP = re.compile(r"(?P<model>.+)@(?P<mpp>[0-9.]+)$")


@dataclass(frozen=True, slots=True)
class ForeignName:
    """`model`: a published name, or a path. `mpp`: µm per pixel that the caller states for it."""

    package: str
    model: str
    mpp: float | None = None

    def __str__(self) -> str:
        scale = "" if self.mpp is None else f"@{self.mpp:g}"
        return f"{self.package}:{self.model}{scale}"

    @property
    def public(self) -> str:
        """For results: a path by its last part, so that they are the same wherever the file lies."""
        return str(replace(self, model=os.path.basename(self.model.rstrip("/\\"))))


def is_foreign(text: str) -> bool:
    return text.partition(":")[0] in PACKAGES and ":" in text


def parse_foreign(text: str) -> ForeignName:
    """A path that is there is made absolute. Raises RequestError.

    >>> parse_foreign("stardist:2D_versatile_he@0.25")
    ForeignName(package='stardist', model='2D_versatile_he', mpp=0.25)
    """
    package, _, model = text.partition(":")
    scaled = None if os.path.exists(model) else _MPP.match(model)
    mpp = _scale(text, scaled["mpp"]) if scaled else None
    model = scaled["model"] if scaled else model
    if package not in PACKAGES or not model:
        raise RequestError(
            text, "names no model of another package", f"say PACKAGE:MODEL, PACKAGE one of {PACKAGES}"
        )
    return ForeignName(package, os.path.abspath(model) if os.path.exists(model) else model, mpp)


def _scale(text: str, figure: str) -> float:
    try:
        mpp = float(figure)
    except ValueError:
        mpp = 0.0
    if not 0.05 <= mpp <= 10:
        raise RequestError(text, f"@{figure} is no µm per pixel", "give one from 0.05 to 10, such as @0.5")
    return mpp
