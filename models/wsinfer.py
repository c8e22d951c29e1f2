"""Models in WSInfer's format: `config.json` and `model.safetensors`, as its model zoo has them.

https://github.com/SBU-BMI/wsinfer-zoo: the configuration names a network of timm, the classes, the side of a
patch in pixels, its µm/px, and the transforms before the network.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coverslip.errors import ModelUnavailableError
from coverslip.extras import require
from coverslip.models.document import Architecture, ModelDocument, NetworkName, Normalisation, TileFit
from coverslip.models.network import load_network
from coverslip.models.package import CONVERT, PICKLES, check_files, file_problems

CONFIGURATION, WEIGHTS = "config.json", "model.safetensors"
# As for models trained here: objectives named alike differ by as much between scanners.
TOLERANCE = 0.1
AS_STORED = Normalisation(mean=(0, 0, 0), std=(1, 1, 1))
LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Side(_Part):
    size: Annotated[int, Field(ge=16, le=4096)]


class Resize(_Part):
    name: Literal["Resize"]
    arguments: Side


class ToTensor(_Part):
    name: Literal["ToTensor"]


class Normalize(_Part):
    name: Literal["Normalize"]
    arguments: Normalisation


Transform = Annotated[Resize | ToTensor | Normalize, Field(discriminator="name")]


class Configuration(_Part):
    """Version 1.0 of its specification; a transform it does not name is refused, not left out."""

    spec_version: Literal["1.0"]
    architecture: NetworkName
    num_classes: Annotated[int, Field(ge=2)]
    class_names: tuple[str, ...]
    patch_size_pixels: Annotated[int, Field(ge=1)]
    spacing_um_px: Annotated[float, Field(gt=0)]
    transform: tuple[Transform, ...]

    @property
    def tile(self) -> TileFit:
        """What the network sees: the patch, resized."""
        sizes = [step.arguments.size for step in self.transform if isinstance(step, Resize)]
        size = sizes[-1] if sizes else self.patch_size_pixels
        return TileFit(size=size, mpp=self.patch_size_pixels * self.spacing_um_px / size, tolerance=TOLERANCE)

    @property
    def normalisation(self) -> Normalisation:
        stated = [step.arguments for step in self.transform if isinstance(step, Normalize)]
        return stated[-1] if stated else AS_STORED


def is_wsinfer(folder: Path) -> bool:
    return (folder / CONFIGURATION).is_file() and not (folder / "model.json").exists()


def read_wsinfer(folder: Path, name: str, revision: str, licence: str | None) -> tuple[ModelDocument, bytes]:
    """The same model as a document of ours and its weights. `licence`: None for what its README states.

    Raises ModelUnavailableError for a configuration of another kind, weights kept as a pickle, or a network
    that timm does not know or the weights do not fit.
    """
    check_files(folder, (CONFIGURATION,))
    if not (folder / WEIGHTS).is_file():
        held = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLES)
        listed = f" ({', '.join(held)})" if held else ""
        raise ModelUnavailableError(str(folder), f"lacks {WEIGHTS}{listed}", CONVERT)
    check_files(folder, (WEIGHTS,))
    configuration = _configuration(folder / CONFIGURATION)
    weights = (folder / WEIGHTS).read_bytes()
    try:
        document = ModelDocument(
            name=name,
            version=revision,
            classes=configuration.class_names,
            tile=configuration.tile,
            stain=None,
            normalisation=configuration.normalisation,
            architecture=Architecture(name=configuration.architecture),
            licence=licence or _licence(folder) or "not stated",
            intended_use="as its maker states; taken over from WSInfer's format, which does not say",
            training=None,
            metrics=None,
            calibration=None,
            out_of_distribution=None,
            weights_sha256=hashlib.sha256(weights).hexdigest(),
            created_with={"coverslip": version("coverslip"), "wsinfer-zoo": configuration.spec_version},
        )
    except ValidationError as error:
        raise ModelUnavailableError(
            str(folder / CONFIGURATION), file_problems(error), "mend these fields"
        ) from error
    _check_weights(folder, document, weights)
    return document, weights


def _configuration(path: Path) -> Configuration:
    try:
        found = Configuration.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        raise ModelUnavailableError(str(path), file_problems(error), "mend these fields") from error
    except (ValueError, RecursionError) as error:
        raise ModelUnavailableError(str(path), f"is not JSON ({error})", "get the file again") from error
    if len(found.class_names) != found.num_classes:
        raise ModelUnavailableError(
            str(path),
            f"names {len(found.class_names)} classes and says there are {found.num_classes}",
            "mend one of the two",
        )
    return found


def _licence(folder: Path) -> str | None:
    """What stands in the head of the README, as Hugging Face has it: between two lines of three hyphens."""
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---", 2)
    found = LICENCE.search(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    return found[1] if found else None


def _check_weights(folder: Path, document: ModelDocument, weights: bytes) -> None:
    safetensors = require("safetensors.torch")
    try:
        held = safetensors.load(weights)
    except (ValueError, require("safetensors").SafetensorError) as error:
        raise ModelUnavailableError(
            str(folder / WEIGHTS), f"is no safetensors file ({error})", "get the file again"
        ) from error
    try:
        load_network(document.architecture, len(document.classes), held)
    except RuntimeError as error:
        raise ModelUnavailableError(
            str(folder / WEIGHTS),
            f"does not fit timm's {document.architecture.name} ({str(error).splitlines()[0]})",
            "only networks that timm builds can be taken over",
        ) from error
