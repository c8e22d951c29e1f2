"""Optional parts: imported when first used, and when absent an error that says what to type."""

from __future__ import annotations

import importlib
from types import ModuleType

from coverslip.errors import MissingExtraError

EXTRA_OF = {
    "torch": "torch",
    "torchvision": "torch",
    "timm": "torch",
    "safetensors": "torch",
    "huggingface_hub": "torch",
    "openvino": "openvino",
    "napari": "napari",
    "qtpy": "napari",
    "wsidicom": "dicom",
    "pydicom": "dicom",
    "aiohttp": "remote",
    "requests": "remote",
    "weasyprint": "pdf",
    "instanseg": "instanseg",
    "stardist": "stardist",
    "csbdeep": "stardist",
    "tensorflow": "stardist",
    "cellpose": "cellpose",
}


def require(module: str) -> ModuleType:
    """Import an optional module by its dotted name.

    Raises MissingExtraError, naming the pip command, when its extra is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = EXTRA_OF[module.partition(".")[0]]
        raise MissingExtraError(
            module, f"is not installed ({error})", f"install it with: pip install 'coverslip[{extra}]'"
        ) from error
