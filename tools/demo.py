"""The demonstration: a real immunohistochemistry field as a slide, through the workflow ihc, to a report and
a picture of the napari view. `tools/demo.py [FOLDER]` runs it on your own slides instead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import skimage.data
import tifffile
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
COVERSLIP = [sys.executable, "-m", "coverslip"]
# The field states no resolution; 0.5 µm/px gives its nuclei the 6 to 10 µm that nuclei of colon glands have.
FIELD_MPP = 0.5


def write_field(path: Path) -> None:
    """scikit-image's field (colon, FHL2 with DAB, haematoxylin) as a tiled pyramid, µm/px in its tags."""
    field = Image.fromarray(skimage.data.immunohistochemistry())
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tif:
        for factor in (1, 2, 4):
            per_cm = 10_000 / (FIELD_MPP * factor)
            tif.write(
                np.asarray(field.reduce(factor)),
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(factor > 1),
                metadata=None,
            )


def call(*arguments: str) -> int:
    """Run a command as a user would, and show it."""
    print("$ coverslip", *arguments, flush=True)
    return subprocess.run([*COVERSLIP, *arguments], check=False).returncode


def main() -> int:
    slides = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else DEMO / "slides"
    out = DEMO / ("own" if len(sys.argv) > 1 else "out")
    if len(sys.argv) == 1:
        write_field(slides / "colon-FHL2.tif")
    # FHL2 stains cytoplasm, which would pass for nuclei if DAB were looked at for them.
    site = ["--site", "cytoplasm"] if len(sys.argv) == 1 else []
    code = call("run", str(slides), "-o", str(out), "--workflow", "ihc", *site)
    if code not in (0, 3):
        return code
    done = [
        slide["id"]
        for slide in json.loads((out / "run.json").read_text())["slides"]
        if slide["status"] == "done"
    ]
    if done:
        picture = out / "view.png"
        code = call("view", str(out / "slides" / done[0]), "--screenshot", str(picture)) or code
        print(f"report:  {out / 'slides' / done[0] / 'report.html'}")
        print(f"picture: {picture}")
    return code


if __name__ == "__main__":
    sys.exit(main())
