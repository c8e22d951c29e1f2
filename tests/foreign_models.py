"""Small models of other packages, made by their own code taught a drawn picture in a minute."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from discs import discs, stained
from numpy.typing import NDArray

from coverslip.models.stardist_finder import import_tensorflow

Picture = tuple[NDArray[np.uint8], NDArray[np.int32]]
SIDE = 240


def need(package: str) -> None:
    """Skip where it is not installed. It is not imported: the order in which some are matters."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed, which an extra of its own brings")


def drawn(seed: int, side: int = 128, count: int = 12, radii: tuple[float, float] = (6, 11)) -> Picture:
    rng = np.random.default_rng(seed)
    labels = discs(side, count, rng, radii)
    return stained(labels, rng), labels


def write_instanseg(folder: Path) -> tuple[Path, Picture]:
    """A U-Net of InstanSeg with its pixel classifier, taught one picture, as TorchScript."""
    torch = pytest.importorskip("torch")
    need("instanseg")
    pytest.importorskip("seaborn", reason="InstanSeg's training code imports it")
    from instanseg.utils.loss.instanseg_loss import InstanSeg, InstanSeg_Torchscript
    from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet
    from instanseg.utils.utils import percentile_normalize

    torch.manual_seed(0)
    rgb, labels = drawn(3)
    unet = InstanSeg_UNet(3, [[2, 2, 1]], layers=np.array([16, 16, 16, 8]), norm="BATCH")
    method = InstanSeg(n_sigma=2, device="cpu")
    network = method.initialize_pixel_classifier(unet, MLP_width=5)
    picture = percentile_normalize(torch.from_numpy(rgb.transpose(2, 0, 1).copy()).float())[None]
    truth = torch.from_numpy(labels)[None, None].float()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        method(network(picture), truth).mean().backward()
        optimiser.step()
    whole = InstanSeg_Torchscript(network.eval(), pixel_size=0.4)
    path = folder / "instanseg.pt"
    torch.jit.save(torch.jit.script(whole), str(path))
    return path, (rgb, labels)


def write_stardist(folder: Path) -> tuple[Path, Picture]:
    """A StarDist2D of two levels, trained by its own `train`."""
    need("stardist")
    need("tensorflow")
    tensorflow = import_tensorflow()
    from stardist.models import Config2D, StarDist2D

    tensorflow.keras.utils.set_random_seed(0)
    config = Config2D(
        n_rays=16,
        grid=(2, 2),
        n_channel_in=3,
        unet_n_depth=2,
        unet_n_filter_base=8,
        net_conv_after_unet=16,
        train_patch_size=(96, 96),
        train_batch_size=2,
        train_learning_rate=2e-3,
        train_epochs=8,
        train_steps_per_epoch=40,
        train_tensorboard=False,
        train_n_val_patches=1,
    )
    model = StarDist2D(config, name="discs", basedir=str(folder))
    pictures = [drawn(seed) for seed in range(4)]
    seen = [(rgb.astype(np.float32) / 255, labels) for rgb, labels in pictures]
    rgb, labels = zip(*seen, strict=True)
    model.train(rgb[:3], labels[:3], validation_data=(rgb[3:], labels[3:]), seed=0)
    return folder / "discs", pictures[3]


def write_cellpose(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, Picture]:
    """Cellpose-SAM with one narrow layer in place of SAM's 24, taught one picture by heart.

    `patch` keeps that size for whoever opens it: Cellpose knows one size only.
    """
    torch = pytest.importorskip("torch")
    need("cellpose")
    from cellpose import dynamics, transforms, vit

    patch.setitem(vit.sam_model_registry, "vit_l", _small_sam)
    torch.manual_seed(0)
    rgb, labels = drawn(3, SIDE, 25, (9, 14))
    margin = ((0, 0), (8, 8), (8, 8))  # as Cellpose pads to its block of 256 px
    grey = transforms.normalize_img(rgb[None].astype(np.float32))[0].transpose(2, 0, 1)
    picture = torch.from_numpy(np.pad(grey, margin))[None].float()
    flows = np.pad(dynamics.labels_to_flows([labels], device=torch.device("cpu"))[0], margin)
    _learn(network := vit.CPSAM(), picture, torch.from_numpy(flows.astype(np.float32))[None])
    path = folder / "small"
    network.save_model(str(path))
    return path, (rgb, labels)


def _small_sam(_checkpoint: object) -> Any:
    from segment_anything.build_sam import _build_sam

    return _build_sam(
        encoder_embed_dim=64, encoder_depth=1, encoder_num_heads=2, encoder_global_attn_indexes=[0]
    )


def _learn(network: Any, picture: Any, flows: Any, steps: int = 200) -> None:
    torch = pytest.importorskip("torch")
    inside = (flows[:, 0] > 0).float()
    optimiser = torch.optim.Adam([one for one in network.parameters() if one.requires_grad])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    network.train()
    network.rdrop = 0
    for _ in range(steps):
        optimiser.zero_grad()
        found = network(picture)[0]
        lost = ((found[:, :2] - 5 * flows[:, -2:]) ** 2).mean() / 2
        lost += torch.nn.functional.binary_cross_entropy_with_logits(found[:, 2], inside)
        lost.backward()
        optimiser.step()
        schedule.step()
    network.eval()
