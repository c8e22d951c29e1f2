"""Encoders: published networks that turn a tile into figures, by name, with what each was made for.

Every figure is from the makers' model card or code where these are public, else from TRIDENT
(https://github.com/mahmoodlab/TRIDENT: `trident/patch_encoder_models/load.py` and the table of its README);
`unverified` says which are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.extras import require
from coverslip.models.document import Normalisation
from coverslip.models.network import create
from coverslip.models.pooling import Pooling, pool

if TYPE_CHECKING:
    import torch

HUB = "https://huggingface.co"
# Published as safetensors, or only as a pickle, which is never opened.
Published: TypeAlias = Literal["safetensors", "pickle"]
# "20×" of one scanner is 10 % off that of another; networks are trained on what several give.
TOLERANCE = 0.1
# No colon and no slash: timm would read "hf-hub:…" and "local-dir:…" as places to load from.
NETWORK_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,99}(\.[a-z0-9_]{1,99})?")


@dataclass(frozen=True, slots=True)
class Tower:
    """timm's name of a network and the arguments it is built with; layers by their names."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoder:
    """A network and the tiles it was made for.

    `repository`: on Hugging Face, where its weights are; "" where there are none. `features`: figures per
    tile. `mpp`: µm/px of the tiles it was trained on; None for networks that never saw a microscope.
    `size`: side of a tile in pixels. `gated`: its licence has to be accepted on `page` first.
    `unverified`: what of this is not from its makers.
    """

    name: str
    repository: str
    tower: Tower
    features: int
    pooling: Pooling
    normalisation: Normalisation
    licence: str
    gated: bool = False
    published: Published = "safetensors"
    size: int = 224
    mpp: float | None = 0.5
    terms: str = ""
    unverified: str = ""

    @property
    def page(self) -> str:
        """Where its licence is read, and accepted if it is gated."""
        return self.terms or f"{HUB}/{self.repository}"

    def fits(self, mpp: float) -> bool:
        """Whether tiles of that µm/px are like those it was trained on; a figure at the tolerance is."""
        return self.mpp is None or abs(mpp / self.mpp - 1) <= TOLERANCE + 1e-9


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALVES = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
BIOPTIMUS = Normalisation(mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517))
HIBOU = Normalisation(mean=(0.7068, 0.5755, 0.722), std=(0.195, 0.2316, 0.1816))

CC_NC = "CC-BY-NC-ND-4.0"
KAIKO = "https://github.com/kaiko-ai/towards_large_pathology_fms/blob/main/LICENSE"
PHIKON = "https://github.com/owkin/HistoSSLscaling/blob/main/LICENSE.txt"
PHIKON_2 = "https://huggingface.co/owkin/phikon-v2/blob/main/LICENSE.pdf"
# Its README: "any deployed use case of the model, commercial or otherwise, is out of scope".
GIGAPATH = "Apache-2.0, research use only by its terms"


def _vit(name: str, **arguments: Any) -> Tower:
    """A vision transformer that takes any whole number of patches a side."""
    return Tower(name, {"img_size": 224, "dynamic_img_size": True, **arguments})


# The gated linear unit of DINOv2's larger networks: twice 2/3 of four times the width, or as given.
SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
VIT_S8, VIT_S16 = _vit("vit_small_patch8_224"), _vit("vit_small_patch16_224")
VIT_B8, VIT_B16 = _vit("vit_base_patch8_224"), _vit("vit_base_patch16_224")
VIT_L16 = _vit("vit_large_patch16_224", init_values=1e-5)
VIT_L14 = _vit("vit_large_patch14_reg4_dinov2")
VIT_H14 = {"init_values": 1e-5, "mlp_ratio": 5.3375, **SWIGLU}
VIRCHOW = _vit("vit_huge_patch14_224", **VIT_H14)
VIRCHOW_2 = _vit("vit_huge_patch14_224", reg_tokens=4, **VIT_H14)
UNI_2 = _vit(
    "vit_giant_patch14_224",
    **{"depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2, "init_values": 1e-5},
    **{"reg_tokens": 8, "no_embed_class": True, **SWIGLU},
)
OPTIMUS = _vit("vit_giant_patch14_reg4_dinov2", init_values=1e-5)
OPTIMUS_MINI = _vit("vit_base_patch14_reg4_dinov2", init_values=1e-5, mlp_ratio=2.66667 * 2, **SWIGLU)
# Its config.json; the name says 14.
GIGAPATH_16 = _vit("vit_giant_patch14_dinov2", patch_size=16, mlp_ratio=5.33334, init_values=1e-5)
HIBOU_B = _vit("vit_base_patch14_reg4_dinov2", mlp_ratio=2.66667 * 2, **SWIGLU)
HIBOU_L = _vit("vit_large_patch14_reg4_dinov2", mlp_ratio=5472 / 1024, **SWIGLU)

GATED_PICKLE: dict[str, Any] = {"gated": True, "published": "pickle"}
LIKELY_20 = "µm/px (TRIDENT's 20×)"


def _kaiko(name: str, repository: str, tower: Tower, features: int) -> Encoder:
    place = f"1aurent/{repository}.kaiko_ai_towards_large_pathology_fms"
    terms = ("Kaiko non-commercial", False)
    return Encoder(
        name,
        place,
        tower,
        features,
        "cls",
        HALVES,
        *terms,
        terms=KAIKO,
        unverified=f"one of several {LIKELY_20}",
    )


TABLE = (
    Encoder("uni", "MahmoodLab/UNI", VIT_L16, 1024, "cls", IMAGENET, CC_NC, **GATED_PICKLE),
    Encoder("uni2-h", "MahmoodLab/UNI2-h", UNI_2, 1536, "cls", IMAGENET, CC_NC, **GATED_PICKLE),
    Encoder("virchow", "paige-ai/Virchow", VIRCHOW, 2560, "cls+mean", IMAGENET, "Apache-2.0", gated=True),
    Encoder("virchow2", "paige-ai/Virchow2", VIRCHOW_2, 2560, "cls+mean", IMAGENET, CC_NC, gated=True),
    Encoder("h-optimus-0", "bioptimus/H-optimus-0", OPTIMUS, 1536, "cls", BIOPTIMUS, "Apache-2.0",
            **GATED_PICKLE),
    Encoder("h-optimus-1", "bioptimus/H-optimus-1", OPTIMUS, 1536, "cls", BIOPTIMUS, CC_NC, gated=True),
    Encoder("h0-mini", "bioptimus/H0-mini", OPTIMUS_MINI, 1536, "cls+mean", BIOPTIMUS, CC_NC, gated=True,
            unverified="width of the layers between (by its 86 million weights)"),
    Encoder("prov-gigapath", "prov-gigapath/prov-gigapath", GIGAPATH_16, 1536, "cls", IMAGENET, GIGAPATH,
            **GATED_PICKLE),
    Encoder("phikon", "owkin/phikon", VIT_B16, 768, "cls", IMAGENET, "Owkin non-commercial", terms=PHIKON),
    Encoder("phikon-v2", "owkin/phikon-v2", VIT_L16, 1024, "cls", IMAGENET, "Owkin non-commercial",
            terms=PHIKON_2),
    _kaiko("kaiko-vits8", "vit_small_patch8_224", VIT_S8, 384),
    _kaiko("kaiko-vits16", "vit_small_patch16_224", VIT_S16, 384),
    _kaiko("kaiko-vitb8", "vit_base_patch8_224", VIT_B8, 768),
    _kaiko("kaiko-vitb16", "vit_base_patch16_224", VIT_B16, 768),
    _kaiko("kaiko-vitl14", "vit_large_patch14_reg4_224", VIT_L14, 1024),
    Encoder("hibou-b", "histai/hibou-b", HIBOU_B, 768, "cls", HIBOU, "Apache-2.0", unverified=LIKELY_20),
    Encoder("hibou-l", "histai/hibou-L", HIBOU_L, 1024, "cls", HIBOU, "Apache-2.0", gated=True,
            unverified=f"{LIKELY_20}, kind of the layers between (by its 304 million weights)"),
)  # fmt: skip
ENCODERS: Mapping[str, Encoder] = {encoder.name: encoder for encoder in TABLE}


def find_encoder(name: str) -> Encoder:
    """The encoder of that name, in any case: one of `ENCODERS`, or any network that timm knows.

    Raises ModelUnavailableError for a name that is neither, MissingExtraError where timm is needed.
    """
    return ENCODERS.get(name.casefold()) or _of_timm(name)


@cache
def _of_timm(name: str) -> Encoder:
    """By what timm says of the published weights, which mostly saw photographs: they have no µm/px."""
    timm = require("timm")
    if not NETWORK_NAME.fullmatch(name) or not timm.is_model(name):
        raise ModelUnavailableError(
            name, "names no encoder", f"name one of {', '.join(ENCODERS)}, or a network of timm"
        )
    stated = require("timm.models").get_pretrained_cfg(name)
    if stated is None:
        raise ModelUnavailableError(name, "has no published weights", "name another network of timm")
    encoder = Encoder(
        name=name,
        repository=stated.hf_hub_id or "",
        tower=Tower(name),
        features=0,
        pooling="own",
        normalisation=Normalisation(mean=stated.mean, std=stated.std),
        licence=stated.license or "not stated",
        size=stated.input_size[-1],
        mpp=None,
    )
    return replace(encoder, features=count_features(encoder, encoder.size))


def build_encoder(encoder: Encoder, image_size: int | None = None) -> torch.nn.Module:
    """The network with random weights, without a classifier. `image_size`: of the positions it holds, px.

    Raises ModelUnavailableError.
    """
    arguments = {key: _layer(key, value) for key, value in encoder.tower.arguments.items()}
    if image_size is not None:
        arguments["img_size"] = image_size
    return create(encoder.tower.name, arguments, 0)


def _layer(key: str, value: Any) -> Any:
    """The class that a layer's name stands for."""
    if key == "mlp_layer":
        return getattr(require("timm.layers"), value)
    return getattr(require("torch.nn"), value) if key == "act_layer" else value


def count_features(encoder: Encoder, size: int) -> int:
    """Figures per tile of `size` px, told without computing any. Raises RequestError for a size it cannot
    take."""
    torch = require("torch")
    with torch.device("meta"), torch.inference_mode():
        network = build_encoder(encoder).eval()
        try:
            found = pool(network, torch.empty((1, 3, size, size)), encoder.pooling)
        except (AssertionError, RuntimeError) as error:
            raise RequestError(
                f"tiles of {size} px",
                f"do not fit the encoder {encoder.name} ({str(error).splitlines()[0]})",
                f"leave out --size, which is then {encoder.size}, or give a whole number of its patches",
            ) from error
    return int(found.shape[1])
