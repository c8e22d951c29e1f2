"""What napari finds through the manifest `coverslip/napari.yaml`: slides, OME-Zarr and results as layers.

Dropping a path on napari and `coverslip view` make the same layers, with `layer_data`.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coverslip.errors import CoverslipError
from coverslip.workflows.layers import LayerSpec, Rgba, Scene, describe

LayerData = tuple[Any, dict[str, Any], str]
ReaderFunction = Callable[[Any], list[LayerData]]
# Not an argument of napari's labels: `outline_labels` sets it when the layer is in a viewer.
OUTLINE = "coverslip outline"
# What stands for a run where it is dropped.
WORKLISTS = ("worklist.parquet", "worklist.csv", "worklist.html")
# What the layer is, one of `coverslip.workflows.layers.Role`.
ROLE = "coverslip role"
UNITS = {"µm": "micrometer", "pixel": "pixel"}


def get_reader(path: str | list[str]) -> ReaderFunction | None:
    """napari's `napari_get_reader`: a function for paths that are ours, None for others.

    A file is ours when a slide reader opens its index, which takes milliseconds; pictures that are no slides
    are left to napari.
    """
    if not isinstance(path, str):
        return None
    if Path(path).name in WORKLISTS:
        run = Path(path).parent
        return read if (run / WORKLISTS[0]).is_file() and (run / "slides").is_dir() else None
    return read if (_is_folder_of_ours(Path(path)) if Path(path).is_dir() else _is_slide(path)) else None


def _is_folder_of_ours(path: Path) -> bool:
    """By the names in it: a result, a run with results, an OME-Zarr."""
    if (path / "result.json").is_file() or any((path / "slides").glob("*/result.json")):
        return True
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup")) and _is_slide(str(path))


def _is_slide(path: str) -> bool:
    try:
        scene = describe(path)
    except CoverslipError:
        return False
    scene.close()
    return scene.slide.reader != "image"


def read(path: str) -> list[LayerData]:
    """The layers of a path; the slide is closed when napari lets go of them.

    In a viewer, a result, a run's folder or its worklist is opened at the desk of that window instead, which
    adds the layers itself.
    """
    from coverslip.workflows.desk.window import dock_current, first_shown
    from coverslip.workflows.view import dress_current

    if dock_current(Path(path)):
        return [(None,)]  # type: ignore[list-item]  # napari's sign for "read, and nothing to add"
    path = str(first_shown(Path(path)))
    scene = describe(path)
    dress_current(scene)
    return scene_data(scene)


def scene_data(scene: Scene) -> list[LayerData]:
    """Layer data tuples, bottom first."""
    return [layer_data(layer, scene) for layer in scene.layers]


def layer_data(layer: LayerSpec, scene: Scene) -> LayerData:
    """(data, arguments of the layer, its type), as napari takes them."""
    arguments: dict[str, Any] = {
        "name": layer.name,
        "scale": layer.scale,
        "translate": layer.translate,
        "units": (UNITS[scene.unit],) * 2,
        "visible": layer.visible,
        "opacity": layer.opacity,
        "metadata": {**layer.metadata, OUTLINE: layer.outline, ROLE: layer.role},
        "cache": False,  # the tiles have their own, of bounded size
    }
    # napari takes a list of one labels array for an array of its rows
    arguments["multiscale"] = len(layer.levels) > 1
    data = list(layer.levels) if arguments["multiscale"] else layer.levels[0]
    if layer.kind == "labels":
        return data, {**arguments, **_labels(layer)}, "labels"
    return data, {**arguments, "rgb": True, "interpolation2d": "linear"}, "image"


def _labels(layer: LayerSpec) -> dict[str, Any]:
    """Names go into the features: napari's status bar shows them under the cursor."""
    colours = {value: _unit(colour) for value, colour in layer.colours.items()}
    arguments: dict[str, Any] = {}
    if colours or layer.colour:
        fallback = _unit(layer.colour) if layer.colour and not colours else (0.5, 0.5, 0.5, 1.0)
        arguments["colormap"] = {**colours, 0: (0.0, 0.0, 0.0, 0.0), None: fallback}
    if layer.names:
        arguments["features"] = {"index": list(layer.names), "class": list(layer.names.values())}
    return arguments


def _unit(colour: Rgba) -> tuple[float, float, float, float]:
    red, green, blue, alpha = colour
    return red / 255, green / 255, blue / 255, alpha / 255


def sample() -> list[LayerData]:
    """A field of immunohistochemistry (DAB, haematoxylin; scikit-image's, 512×512) as a slide at 0.5 µm/px.

    The µm/px is assumed: the picture states none. The slide is written to a temporary folder, which is
    removed when its layers are gone.
    """
    import skimage.data
    import tifffile

    folder = tempfile.mkdtemp(prefix="coverslip-")
    path = Path(folder) / "immunohistochemistry.tif"
    field = skimage.data.immunohistochemistry()
    # TIFF knows pixels per centimetre: 20000 are 0.5 µm each
    tifffile.imwrite(
        path,
        field,
        photometric="rgb",
        tile=(256, 256),
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    layers = read(str(path))
    weakref.finalize(layers[0][0], shutil.rmtree, folder, ignore_errors=True)
    return layers
