"""A network that says, of every second pixel, whether an object lies there and how far it reaches.

As StarDist has it (Schmidt et al. 2018, MICCAI, arXiv:1806.03535): a U-Net with two heads. Here its encoder
is
a small residual network of timm, and the heads stand at half the picture's resolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from coverslip.extras import require
from coverslip.models.document import Normalisation
from coverslip.models.network import normalise
from coverslip.models.record import Record
from coverslip.wsi.colour import EOSIN_QUPATH, HAEMATOXYLIN

if TYPE_CHECKING:
    import torch

# Pixels of the picture per pixel of the heads.
STRIDE = 2
# A picture's sides are multiples of this, so that each level halves; tiles begin on multiples of it, so that
# the same glass is looked at the same way from two tiles.
STEP = 16
# Pixels of the picture that decide on one of the heads', on each side, rounded up to whole steps: of the stem
# and its pooling 7, of the blocks at strides 4, 8 and 16 8, 12 and 24, on the way up 16 + 8 + 4 + 2 + 2 of
# convolutions and 8 + 4 + 2 of interpolation, in all 97.
REACH = 112
# Distances are learnt in this many pixels, so that both losses are of like size.
UNIT = 8.0


class StarArchitecture(Record):
    """Channels of the encoder's four levels (strides 2, 4, 8 and 16) and of the way up.

    `rays`: distances to an object's border in as many directions, the first to the right and on clockwise
    (y grows downwards); 4 are those to the sides of an upright box. `sees`: colours, or the amount of
    haematoxylin alone, so that fibres and red cells, which have none, are not there for it.
    """

    name: str = "resnet-unet"
    sees: Literal["rgb", "haematoxylin"] = "rgb"
    channels: tuple[int, int, int, int] = (32, 48, 96, 160)
    up: int = 48
    rays: int = 32


def prepare(
    pictures: torch.Tensor, architecture: StarArchitecture, normalisation: Normalisation
) -> torch.Tensor:
    """uint8 (n, h, w, 3) to what the network takes: float32 (n, 3, h, w), or (n, 1, h, w) of haematoxylin.

    Haematoxylin is taken from eosin in log10 optical density on white (Ruifrok and Johnston 2001); what is
    neither goes to a third vector across both. 0.3 is that of a pale nucleus, and near the mean of many.
    """
    if architecture.sees == "rgb":
        return normalise(pictures, normalisation)
    torch = require("torch")
    dyes = torch.nn.functional.normalize(
        torch.tensor([HAEMATOXYLIN, EOSIN_QUPATH], dtype=torch.float32), dim=1
    )
    third = torch.nn.functional.normalize(torch.linalg.cross(dyes[0], dyes[1]), dim=0)
    amounts = torch.linalg.inv(torch.cat([dyes, third[None]]))[:, 0].to(pictures.device)
    density = -(pictures.float().clamp_(min=1) / 255).log10()
    return ((density @ amounts).clamp_(-0.3, 2.0)[:, None] - 0.3) / 0.3


def build_star(architecture: StarArchitecture, classes: int) -> torch.nn.Module:
    """The network with random weights, on the CPU.

    Float32 (n, 3 or 1, h, w) as `prepare` gives them, h and w multiples of `STEP`, to (n, classes + rays,
    h / 2, w / 2): first the logit of each class, then the distances in `UNIT` pixels, not yet cut at 0.
    """
    torch = require("torch")
    nn = torch.nn

    def block(inputs: int, outputs: int) -> Any:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)
        )

    class Star(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem, *levels = architecture.channels
            self.encoder = require("timm").create_model(
                "resnet10t",
                features_only=True,
                out_indices=(0, 1, 2, 3),
                channels=(*levels, levels[-1]),
                stem_width=stem // 2,
                in_chans=3 if architecture.sees == "rgb" else 1,
            )
            widths = self.encoder.feature_info.channels()
            self.across = nn.ModuleList(nn.Conv2d(width, architecture.up, 1) for width in widths)
            self.join = nn.ModuleList(block(architecture.up, architecture.up) for _ in widths)
            self.last = block(architecture.up, architecture.up)
            self.head = nn.Conv2d(architecture.up, classes + architecture.rays, 1)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            levels = self.encoder(pictures)
            found = self.join[-1](self.across[-1](levels[-1]))
            for level in range(len(levels) - 2, -1, -1):
                found = nn.functional.interpolate(found, scale_factor=2.0, mode="bilinear")
                found = self.join[level](found + self.across[level](levels[level]))
            return self.head(self.last(found))

    return Star().to(memory_format=torch.channels_last)
