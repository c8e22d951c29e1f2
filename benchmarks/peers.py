"""The peers, each in an environment of its own, so that none bends another's versions or ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# What no package index has cannot be installed by its users' ordinary means either, and is not measured.
ABSENT = {
    "trident": "TRIDENT is not on the package index, where the name is another project's: not installed"
}


@dataclass(frozen=True, slots=True)
class Peer:
    """`requires`: pinned, so that figures can be compared. `bare`: packages installed without what they ask
    for. `shares`: it sees the project's own packages, to spare a second torch of the same version."""

    requires: tuple[str, ...]
    bare: tuple[str, ...] = ()
    shares: bool = False

    @property
    def stamp(self) -> str:
        return "\n".join((*self.requires, *self.bare)) + "\n"


PEERS = {
    # cuCIM asks for a GPU's libraries, 2 GB, which its reading on the CPU does without.
    "slides": Peer(
        (
            "openslide-python==1.4.7",
            "openslide-bin==4.0.1.2",
            "numpy==2.4.6",
            "opencv-python-headless==5.0.0.93",
            "click==8.5.1",
            "lazy-loader==0.6",
            "pyvips==3.2.0",
            "pyvips-binary==8.18.7",
        ),
        ("cucim-cu12==26.10.0",),
    ),
    "zarr": Peer(("ome-zarr==0.18.0", "tifffile==2026.3.3", "imagecodecs==2026.3.6")),
    "lazyslide": Peer(("lazyslide==0.13.0",), shares=True),
    "tiatoolbox": Peer(("tiatoolbox==2.1.3",)),
}


class Absent(Exception):
    """This peer cannot be had here; why."""


def interpreter(folder: Path, name: str) -> Path:
    """The Python of a peer's environment, made and filled on first use: gigabytes, minutes.

    Raises Absent when it cannot be.
    """
    home = folder / name
    python, done = home / "bin/python", home / "installed.txt"
    if not (done.is_file() and done.read_text() == PEERS[name].stamp):
        _install(home, PEERS[name])
        done.write_text(PEERS[name].stamp)
    return python


def versions(folder: Path) -> dict[str, str]:
    """What is installed of the peers, by name."""
    found = {}
    for name, peer in PEERS.items():
        if (folder / name / "installed.txt").is_file():
            found |= dict(one.split("==") for one in (*peer.requires, *peer.bare))
    return found


def _install(home: Path, peer: Peer) -> None:
    print(f"installing {', '.join((*peer.requires, *peer.bare))}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    if peer.shares:
        own = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
        (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for options, packages in (([], peer.requires), (["--no-deps"], peer.bare)):
        if packages:
            _pip(home, [*options, *packages])


def _pip(home: Path, packages: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--python", home / "bin/python", "install", "--quiet"]
    done = subprocess.run([*command, *packages], check=False, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        raise Absent(f"{packages[-1]} could not be installed ({reason})")
