"""Changes of colour in training: mild, fixed by their generator, and such as stains and scanners make."""

from __future__ import annotations

import numpy as np
import pytest

from coverslip.errors import RequestError

torch = pytest.importorskip("torch", reason="torch is not installed")
from coverslip.models import augmentation  # noqa: E402
from coverslip.models.augmentation import augment, vary_channels, vary_lab, vary_stains  # noqa: E402
from coverslip.models.training import TrainingSettings  # noqa: E402
from coverslip.wsi.colour import DAB, EOSIN, HAEMATOXYLIN, light, optical_density, to_lab  # noqa: E402

CHANGES = (vary_channels, vary_stains, vary_lab)
DYES = np.array([HAEMATOXYLIN, EOSIN, DAB])
DYES = DYES / np.linalg.norm(DYES, axis=1, keepdims=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stained(n: int, seed: int = 0) -> torch.Tensor:
    """Tiles of haematoxylin and eosin in random amounts, uint8 (n, 16, 16, 3)."""
    amounts = np.random.default_rng(seed).uniform(0.1, 0.6, (n * 16, 16, 3)) * (1, 1, 0)
    return torch.from_numpy(light((amounts @ DYES).astype(np.float32)).reshape(n, 16, 16, 3))


@pytest.mark.parametrize("change", CHANGES)
def test_colour_changes_are_mild_and_leave_the_original(change):
    tiles = stained(50)
    before = tiles.clone()
    varied = change(tiles, generator())
    assert torch.equal(tiles, before)
    assert (varied.dtype, varied.shape) == (torch.uint8, tiles.shape)
    assert 1 < (varied.float() - tiles.float()).abs().mean() < 15


@pytest.mark.parametrize("change", CHANGES)
def test_each_tile_is_changed_by_itself_and_the_generator_alone_decides(change):
    tiles = stained(1).expand(12, -1, -1, -1).contiguous()
    one, two, other = change(tiles, generator(5)), change(tiles, generator(5)), change(tiles, generator(6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert len({tile.numpy().tobytes() for tile in one}) == 12


def test_empty_glass_takes_on_no_hue_where_channels_are_scaled():
    glass = vary_channels(torch.full((50, 2, 2, 3), 255, dtype=torch.uint8), generator())
    assert (glass[:, 0, 0, 0] == glass[:, 0, 0, 2]).all()
    assert glass.min() >= 255 * 0.949


def test_stains_change_within_the_published_range():
    """Tellez 2018: amounts s become α s + β, α in 1 ± σ, β in ± σ (natural logarithm; here log10)."""
    tiles = stained(64)
    varied = vary_stains(tiles, generator())
    inverse = np.linalg.inv(DYES)
    for before, after in zip(tiles.numpy(), varied.numpy(), strict=True):
        one, two = (optical_density(rgb).reshape(-1, 3) @ inverse for rgb in (before, after))
        for dye in range(2):
            alpha, beta = np.polyfit(one[:, dye], two[:, dye], 1)
            assert abs(alpha - 1) < augmentation.DYE_SPREAD + 0.02
            assert abs(beta) < augmentation.DYE_OFFSET + 0.01
            # one line explains it: nothing else has happened to this stain
            assert np.abs(two[:, dye] - (alpha * one[:, dye] + beta)).max() < 0.02


def test_lab_changes_move_the_mean_and_scale_the_spread():
    tiles = stained(64)
    varied = vary_lab(tiles, generator())
    moved, scaled = [], []
    for before, after in zip(tiles.numpy(), varied.numpy(), strict=True):
        one, two = (to_lab(rgb).reshape(-1, 3) for rgb in (before, after))
        moved.append(two.mean(axis=0) - one.mean(axis=0))
        scaled.append(two.std(axis=0) / one.std(axis=0))
    assert (np.abs(moved).max(axis=0) < np.array(augmentation.LAB_OFFSET) + 0.7).all()
    assert (np.abs(moved).max(axis=0) > 0.8 * np.array(augmentation.LAB_OFFSET)).all()
    assert np.abs(np.array(scaled) - 1).max() < augmentation.LAB_SPREAD + 0.08
    assert np.abs(np.array(scaled) - 1).max() > 0.8 * augmentation.LAB_SPREAD


def test_the_setting_chooses_and_none_only_turns():
    tiles = stained(8)
    found = {name: augment(tiles, generator(), name) for name in ("channels", "stains", "lab", "none")}
    assert len({tensor.numpy().tobytes() for tensor in found.values()}) == 4
    assert torch.equal(augment(tiles, generator()), found["channels"])
    for before, after in zip(tiles, found["none"], strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_a_change_that_is_not_known_is_refused():
    with pytest.raises(RequestError, match="channels, stains, lab, none"):
        TrainingSettings(mpp=0.5, colour="hue")  # type: ignore[arg-type]
