"""Which pixels of a tile speak for a class: on networks of which it is known, and by the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import NORMALISATION, SIZE, network_of, tiles_of, write_network
from numpy.typing import NDArray
from PIL import Image
from slides import tissue, write_tiff

from coverslip.errors import ModelMismatchError, RequestError, SlideInformationError
from coverslip.models.evidence import attribute_tile
from coverslip.ruo import RUO
from coverslip.workflows.cli import run as command
from coverslip.workflows.explanation import draw_explanation, explain_tile

torch = pytest.importorskip("torch", reason="torch is not installed")
timm = pytest.importorskip("timm", reason="timm is not installed")

# A tile of 8 × 8 patches, and the corner that alone decides, in patches.
SIDE, PATCH, CORNER = 128, 16, 2
CORNER_PX = CORNER * PATCH


class CornerNetwork(torch.nn.Module):
    """Convolutions, of whose map only the upper right corner goes on: logit 1 is how bright that is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolutions = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 4, stride=4)
        )
        self.classifier = torch.nn.Linear(4, 2)
        for parameter in self.parameters():
            torch.nn.init.constant_(parameter, 0.1)
        torch.nn.init.zeros_(self.classifier.weight[0])

    def forward_features(self, batch):
        found = self.convolutions(batch)
        mask = torch.zeros_like(found)
        mask[..., :CORNER, -CORNER:] = 1
        return found * mask

    def forward_head(self, features, pre_logits=False):
        return features.mean(dim=(2, 3))

    def get_classifier(self):
        return self.classifier


def corner_transformer(pool: str):
    """timm's own transformer, its weights such that logit 1 is how bright the upper right corner is.

    No block but the last two does anything. The last but one lets brightness (dimension 0) into dimension 2
    where dimension 1, set by position, does not hold it back; with a class token the last then sums that.
    """
    torch.manual_seed(0)
    network = timm.create_model("test_vit", img_size=SIDE, num_classes=2, global_pool=pool).eval()
    with torch.no_grad():
        for block in network.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
            block.norm1 = block.norm2 = torch.nn.Identity()
        for parameter in (network.patch_embed.proj.weight, network.patch_embed.proj.bias, network.cls_token):
            parameter.zero_()
        network.patch_embed.proj.weight[0] = 1 / (3 * PATCH**2)
        first = network.num_prefix_tokens
        gate = torch.full((SIDE // PATCH, SIDE // PATCH), -100.0)
        gate[:CORNER, -CORNER:] = 3
        network.pos_embed.zero_()
        network.pos_embed[0, first:, 1] = gate.flatten()
        mlp = network.blocks[-2].mlp
        mlp.fc1.weight.zero_(), mlp.fc1.bias.zero_()
        mlp.fc1.weight[0, :2] = 1
        mlp.fc2.weight[2, 0] = 1
        _average_into_class_token(network.blocks[-1].attn)
        network.norm = torch.nn.Identity()
        network.fc_norm = torch.nn.Identity()
        network.head.weight.zero_()
        network.head.weight[1, 3 if pool == "token" else 2] = 1
    return network.requires_grad_(False)


def _average_into_class_token(attention) -> None:
    """Every token gets, in its dimension 3, the mean of all tokens' dimension 2."""
    width = attention.proj.weight.shape[0]
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        if parameter is not None:
            parameter.zero_()
    attention.q_norm = attention.k_norm = torch.nn.Identity()
    attention.qkv.weight[2 * width, 2] = 1
    attention.proj.weight[3, 0] = 1


def logits(network, tile: NDArray[np.uint8]):
    from coverslip.models.network import features_and_logits, normalise

    with torch.inference_mode():
        batch = normalise(torch.from_numpy(tile[None].copy()), NORMALISATION)
        return features_and_logits(network, batch)[1][0]


CORNERED = {
    "convolutional": CornerNetwork,
    "class token": lambda: corner_transformer("token"),
    "mean of tokens": lambda: corner_transformer("avg"),
}


@pytest.mark.parametrize("kind", CORNERED)
def test_a_network_that_looks_at_one_corner_only_is_found_out(kind):
    network = CORNERED[kind]().eval()
    tile = np.random.default_rng(0).integers(128, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    elsewhere, there = tile.copy(), tile.copy()
    elsewhere[CORNER_PX:] = elsewhere[:, :-CORNER_PX] = 0
    there[:CORNER_PX, -CORNER_PX:] = 0
    assert torch.allclose(logits(network, elsewhere), logits(network, tile)), "it looks elsewhere, too"
    assert not torch.allclose(logits(network, there), logits(network, tile), atol=1e-3)
    found = attribute_tile(network, tile, 1, NORMALISATION)
    assert (found.shape, found.dtype) == ((SIDE, SIDE), np.float32)
    assert (found.min(), found.max()) == (0, 1)
    # one patch of interpolation beside the corner
    assert found[: CORNER_PX // 2, -CORNER_PX // 2 :].min() > 0.8
    assert found[CORNER_PX + PATCH :].max() == 0
    assert found[:, : -CORNER_PX - PATCH].max() == 0
    assert not attribute_tile(network, tile, 0, NORMALISATION).any()


def test_with_mean_pooling_and_a_linear_classifier_it_is_the_class_activation_map():
    """Zhou 2016, CVPR: Grad-CAM's own special case, computed by hand."""
    from coverslip.models.network import normalise

    network, tile = network_of().requires_grad_(False), tiles_of(1, 3)[0]
    with torch.inference_mode():
        features = network.forward_features(normalise(torch.from_numpy(tile[None].copy()), NORMALISATION))
        by_hand = torch.einsum("k,khw->hw", network.get_classifier().weight[2], features[0]).relu()
        assert by_hand.max() > 0
        by_hand = torch.nn.functional.interpolate(by_hand[None, None], (SIZE, SIZE), mode="bilinear")[0, 0]
    found = attribute_tile(network, tile, 2, NORMALISATION)
    np.testing.assert_allclose(found, (by_hand / by_hand.max()).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["test_convnext", "test_efficientnet", "test_mambaout", "test_vit", "test_vit_relpos"]
)
def test_networks_of_every_layout_give_a_map_and_stay_as_they_were(name):
    torch.manual_seed(0)
    arguments = {"img_size": 64} if "vit" in name else {}
    network = timm.create_model(name, num_classes=3, **arguments).eval().requires_grad_(False)
    tile = tiles_of(1, 1, 64)[0]
    before = logits(network, tile)
    found = [attribute_tile(network, tile, number, NORMALISATION) for number in (0, 1, 0)]
    assert all(part.shape == (64, 64) and 0 <= part.min() <= part.max() <= 1 for part in found)
    assert found[0].any() or found[1].any()
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1]), "the class does not matter"
    assert torch.equal(logits(network, tile), before)


def test_what_cannot_be_explained_is_refused():
    network = network_of().requires_grad_(False)
    with pytest.raises(RequestError, match="name one of 0 to 2"):
        attribute_tile(network, tiles_of(1)[0], 3, NORMALISATION)
    with pytest.raises(RequestError, match="uint8"):
        attribute_tile(network, tiles_of(1)[0].astype(np.float32), 0, NORMALISATION)
    placeless = timm.create_model("pit_ti_224", num_classes=2).eval()
    with pytest.raises(ModelMismatchError, match="keep no places"):
        attribute_tile(placeless, tiles_of(1, 0, 224)[0], 0, NORMALISATION)


# the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, `case.tif` of twice its µm/px, and `tile.png`, one of its tiles."""
    folder = tmp_path_factory.mktemp("evidence")
    write_network(folder / "model", network_of())
    picture = tissue(512, 512)
    write_tiff(folder / "case.tif", picture, 0.25, levels=2, compression="deflate")
    Image.fromarray(picture[128:160, 160:192]).save(folder / "tile.png")
    return folder


def explain(*arguments: object) -> int:
    return command(["explain", *map(str, arguments)])


def test_a_tile_of_a_slide_is_explained_as_a_run_scores_it(folder, tmp_path, capsys):
    import pyarrow.parquet as pq

    import coverslip

    workflow = coverslip.tile_classes(folder / "model")
    report = coverslip.run([str(folder / "case.tif")], tmp_path / "out", workflow, workers=1)
    assert not report.failures
    row = pq.read_table(tmp_path / "out/slides/case.tif/tiles.parquet").to_pylist()[20]
    named = {name: row[f"p_{name}"] for name in "abc"}
    capsys.readouterr()
    place = f"{row['x']},{row['y']}"
    done = explain(folder / "case.tif", "--model", folder / "model", "--at", place, "-o", tmp_path / "a.png")
    said = capsys.readouterr()
    assert done == 0
    best = max(named, key=lambda name: named[name])
    assert f"class: {best}, probability {named[best]:.3f}, by demo 1" in said.out
    assert f"picture: {tmp_path / 'a.png'}" in said.out
    assert RUO in said.err
    for name, probability in named.items():
        found = explain_tile(folder / "case.tif", folder / "model", (row["x"], row["y"]), name)
        assert found.probability == pytest.approx(probability, abs=1e-4)
        assert (found.x, found.y, found.missing) == (row["x"], row["y"], 0)


def test_the_picture_shows_the_tile_and_its_evidence_and_says_what_it_is_for(folder, tmp_path):
    found = explain_tile(folder / "tile.png", folder / "model", mpp=0.5)
    picture = draw_explanation(found)
    factor = 320 // SIZE
    tile = found.tile.repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(picture[12:332, 12:332], tile)
    beside = picture[12:332, 344:664].astype(int)
    assert beside.std() > 5
    # under both there is text, dark on white, in three lines or more
    below = picture[332 + 12 :].min(axis=2)
    assert (below < 100).any()
    assert below.shape[0] >= 3 * 20
    arguments = ["--mpp", "0.5", "-o", tmp_path / "b.png", "--class", "c"]
    assert explain(folder / "tile.png", "--model", folder / "model", *arguments) == 0
    with Image.open(tmp_path / "b.png") as written:
        assert written.size == picture.shape[1::-1]


def test_the_same_gives_the_same_bytes(folder, tmp_path):
    arguments = ("--model", folder / "model", "--at", "128,128")
    for name in ("a.png", "b.png"):
        assert explain(folder / "case.tif", *arguments, "-o", tmp_path / name) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("file", "arguments", "code", "said"),
    [
        ("case.tif", ("--at", "128,128", "--class", "z"), 2, "name one of a, b, c"),
        ("case.tif", ("--at", "512,0"), 2, "begins outside"),
        ("case.tif", ("--at", "here"), 2, "is no X,Y"),
        ("case.tif", (), 2, "--at X,Y"),
        ("tile.png", (), 3, "µm/px"),
        ("tile.png", ("--mpp", "2"), 3, "too coarse"),
        ("nothing.tif", (), 3, "nothing.tif"),
    ],
)
def test_what_makes_no_sense_is_one_line(folder, tmp_path, capsys, file, arguments, code, said):
    out = tmp_path / "a.png"
    assert explain(folder / file, "--model", folder / "model", *arguments, "-o", out) == code
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert not out.exists()


def test_a_picture_needs_a_name_and_a_place(folder, tmp_path, capsys):
    arguments = ("--model", folder / "model", "--mpp", "0.5", "-o")
    assert explain(folder / "tile.png", *arguments, tmp_path / "a.jpg") == 2
    assert explain(folder / "tile.png", *arguments, tmp_path / "none" / "a.png") == 2
    assert "make it first" in capsys.readouterr().err


def test_missing_resolution_is_the_slides_fault(folder):
    with pytest.raises(SlideInformationError):
        explain_tile(folder / "tile.png", folder / "model")
