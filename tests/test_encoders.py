"""Encoders: every record builds what it states, pools as its makers do, and takes only weights that fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.models.encoders import (
    ENCODERS,
    TABLE,
    Encoder,
    Tower,
    build_encoder,
    count_features,
    find_encoder,
)
from coverslip.models.licence import commercial_use
from coverslip.models.pooling import pool

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("timm", reason="timm is not installed")
from coverslip.models.embedder import Embedder  # noqa: E402
from coverslip.models.naming import to_timm  # noqa: E402
from coverslip.models.weights import (  # noqa: E402
    RANDOM,
    cached_weights,
    find_weights,
    load_encoder,
    random_weights,
)

# Of the real memory that a test may take; what is larger is built without any.
MOST_WEIGHTS = 350_000_000
SMALL = find_encoder("resnet10t")
TOKENS = replace(
    ENCODERS["virchow2"],
    name="small",
    tower=Tower(
        "vit_tiny_patch16_224",
        {"img_size": 64, "dynamic_img_size": True, "depth": 2, "reg_tokens": 4, "init_values": 1.0},
    ),
    features=384,
    size=64,
)


def tiles_of(n: int, size: int) -> np.ndarray:
    """Noise around a colour of its own for each tile."""
    rng = np.random.default_rng(0)
    return np.clip(rng.integers(0, 256, (n, 1, 1, 3)) + rng.normal(0, 30, (n, size, size, 3)), 0, 255).astype(
        np.uint8
    )


def batch_of(encoder: Encoder, tiles: np.ndarray):
    """Normalised by the plainest way there is."""
    mean, std = np.array(encoder.normalisation.mean), np.array(encoder.normalisation.std)
    return torch.from_numpy(((tiles / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))


def on_meta(encoder: Encoder):
    with torch.device("meta"):
        return build_encoder(encoder).eval()


@pytest.mark.parametrize("encoder", TABLE, ids=lambda encoder: encoder.name)
def test_every_encoder_gives_the_features_it_states(encoder: Encoder) -> None:
    network = on_meta(encoder)
    device = "meta"
    if sum(weight.numel() for weight in network.parameters()) <= MOST_WEIGHTS:
        device = "cpu"
        network = network.to_empty(device=device)
        for weight in network.parameters():
            torch.nn.init.normal_(weight.data, std=0.02)
    with torch.inference_mode():
        found = pool(network, torch.zeros((1, 3, encoder.size, encoder.size), device=device), encoder.pooling)
    assert found.shape == (1, encoder.features)
    assert device == "meta" or torch.isfinite(found).all()


# Millions of weights as papers, cards or the hub's pages state them, and how far off the last digit may be.
MILLIONS = {
    "virchow": (632, 1),
    "virchow2": (632, 1),
    "h-optimus-0": (1100, 50),
    "h-optimus-1": (1100, 50),
    "phikon-v2": (307, 5),
    "hibou-b": (85.7, 0.05),
    "hibou-l": (304, 0.5),
}


@pytest.mark.parametrize("name", MILLIONS)
def test_an_encoder_has_as_many_weights_as_were_published(name: str) -> None:
    stated, off = MILLIONS[name]
    count = sum(weight.numel() for weight in on_meta(ENCODERS[name]).parameters())
    assert count / 1e6 == pytest.approx(stated, abs=off)


def test_what_may_be_used_commercially_is_told_by_the_licence() -> None:
    allowed = {encoder.name for encoder in TABLE if commercial_use(encoder.licence)}
    assert allowed == {"virchow", "h-optimus-0", "hibou-b", "hibou-l"}
    assert all(commercial_use(encoder.licence) is not None for encoder in TABLE)


def test_every_record_is_whole() -> None:
    for encoder in TABLE:
        assert encoder.page.startswith("https://")
        assert encoder.repository.count("/") == 1
        assert encoder.name == encoder.name.casefold()
        assert encoder.mpp
        assert encoder.fits(encoder.mpp * 1.1)
        assert not encoder.fits(encoder.mpp * 1.2)


def test_class_token_and_patches_are_joined_without_the_registers() -> None:
    """As on the card of Virchow2: the token at 0, and the mean of those from 5 on."""
    torch.manual_seed(0)
    network, batch = build_encoder(TOKENS).eval(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        network.reg_token.add_(3)
        tokens = network.forward_features(batch)
        assert tokens.shape == (2, 1 + 4 + 16, 192)
        expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=-1)
        found = pool(network, batch, "cls+mean")
        assert torch.equal(found, expected)
        assert not torch.allclose(found[:, 192:], tokens[:, 1:].mean(1), atol=1e-3)
        assert torch.equal(pool(network, batch, "cls"), found[:, :192])
        assert torch.equal(pool(network, batch, "mean"), found[:, 192:])


@pytest.mark.parametrize("name", ["kaiko-vits16", "vit_tiny_patch16_224", "resnet10t", "test_efficientnet"])
def test_pooling_gives_what_calling_the_network_gives(name: str) -> None:
    encoder = find_encoder(name)
    network = build_encoder(encoder).eval()
    batch = torch.randn(2, 3, encoder.size, encoder.size)
    with torch.inference_mode():
        torch.testing.assert_close(pool(network, batch, encoder.pooling), network(batch))


def test_a_network_of_timm_is_described_by_what_timm_says() -> None:
    encoder = find_encoder("resnet50.tv_in1k")
    assert (encoder.features, encoder.size, encoder.mpp) == (2048, 224, None)
    assert (encoder.repository, encoder.licence) == ("timm/resnet50.tv_in1k", "bsd-3-clause")


@pytest.mark.parametrize("name", ["nothing", "hf-hub:MahmoodLab/uni", "local-dir:/tmp", "../resnet10t", ""])
def test_other_names_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ModelUnavailableError, match="uni2-h"):
        find_encoder(name)


def test_names_are_found_in_any_case() -> None:
    assert find_encoder("UNI2-h") is ENCODERS["uni2-h"]


def test_a_size_that_is_no_whole_number_of_patches_is_refused() -> None:
    assert count_features(TOKENS, 80) == 384
    with pytest.raises(RequestError, match="--size"):
        count_features(TOKENS, 81)


def save(network, path: Path, **more) -> Path:
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file({**state, **more}, path)
    return path


def test_the_embedder_gives_what_the_network_gives(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_encoder(TOKENS).eval()
    weights = find_weights(TOKENS, save(network, tmp_path / "w.safetensors"))
    tiles = tiles_of(9, 64)
    with torch.inference_mode():
        expected = pool(network, batch_of(TOKENS, tiles), "cls+mean").numpy()
    assert expected.std(axis=0).max() > 0.01
    for runtime in ("torch", "auto"):
        found = Embedder(TOKENS, weights, device="cpu", threads=1, batch=4, runtime=runtime).embed(tiles)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_batches_come_in_order_and_an_empty_one_is_none() -> None:
    embedder = Embedder(SMALL, random_weights(SMALL), size=64, device="cpu", threads=1)
    tiles = tiles_of(5, 64)
    found = list(embedder.run([tiles[:2], tiles[:0], tiles[2:]]))
    assert [part.shape for part in found] == [(2, 512), (0, 512), (3, 512)]
    np.testing.assert_allclose(np.concatenate(found), embedder.embed(tiles), atol=1e-5)
    with pytest.raises(RequestError, match="64, 64, 3"):
        embedder.embed(tiles_of(1, 32))


def test_weights_of_a_classifier_are_left_out(tmp_path: Path) -> None:
    classifier = {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    network = build_encoder(SMALL)
    weights = find_weights(SMALL, save(network, tmp_path / "w.safetensors", **classifier))
    assert torch.equal(load_encoder(SMALL, weights).conv1[0].weight, network.conv1[0].weight)
    assert weights.version == "w.safetensors"


def test_positions_for_larger_tiles_are_resampled(tmp_path: Path) -> None:
    """As those of DINOv2, published for tiles of 518 px."""
    large = build_encoder(TOKENS, 160).eval()
    weights = find_weights(TOKENS, save(large, tmp_path / "w.safetensors"))
    batch = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            pool(load_encoder(TOKENS, weights), batch, "cls"), pool(large, batch, "cls")
        )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("w.safetensors", b"\x08\0\0\0\0\0\0\0{}", "does not fit the encoder resnet10t"),
        ("w.safetensors", b"junk", "does not fit the encoder resnet10t"),
        ("pytorch_model.bin", b"junk", "is a pickle"),
        ("w.pth", b"junk", "never opened"),
    ],
)
def test_files_that_are_no_such_weights_are_refused(tmp_path: Path, name: str, content, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelUnavailableError, match=said):
        find_weights(SMALL, tmp_path / name)


def test_weights_of_another_network_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = save(build_encoder(TOKENS), tmp_path / "w.safetensors")
    with pytest.raises(ModelUnavailableError, match="does not fit the encoder resnet10t"):
        find_weights(SMALL, path)
    with pytest.raises(ModelUnavailableError, match="is no file"):
        find_weights(SMALL, tmp_path / "none.safetensors")


def test_weights_replaced_meanwhile_are_refused(tmp_path: Path) -> None:
    path = save(build_encoder(SMALL), tmp_path / "w.safetensors")
    weights = find_weights(SMALL, path)
    load_encoder(SMALL, weights)
    save(build_encoder(SMALL), path)
    with pytest.raises(ModelUnavailableError, match="was replaced"):
        load_encoder(SMALL, weights)


def cached(cache: Path, encoder: Encoder) -> Path:
    """A Hugging Face cache made by hand: the folder of a commit."""
    home = cache / f"models--{encoder.repository.replace('/', '--')}"
    (home / "snapshots" / "c0ffee").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("c0ffee")
    return home / "snapshots" / "c0ffee"


def test_weights_in_the_cache_are_found_with_the_commit_they_are_of(tmp_path: Path) -> None:
    assert cached_weights(SMALL, tmp_path) is None
    path = save(build_encoder(SMALL), cached(tmp_path, SMALL) / "model.safetensors")
    weights = find_weights(SMALL, cache=tmp_path)
    assert (weights.path, weights.version) == (str(path), "c0ffee")
    assert len(weights.sha256) == 64


def test_a_pickle_in_the_cache_is_not_found(tmp_path: Path) -> None:
    torch.save({}, cached(tmp_path, ENCODERS["uni"]) / "pytorch_model.bin")
    with pytest.raises(ModelUnavailableError, match="never opened"):
        find_weights(ENCODERS["uni"], cache=tmp_path)


def test_missing_weights_are_told_with_the_licence_and_the_commands(tmp_path: Path) -> None:
    gated, free = ENCODERS["virchow2"], ENCODERS["hibou-b"]
    with pytest.raises(ModelUnavailableError) as caught:
        find_weights(gated, cache=tmp_path)
    for said in (
        "accept its licence (CC-BY-NC-ND-4.0) at https://huggingface.co/paige-ai/Virchow2",
        "hf auth login; hf download paige-ai/Virchow2 model.safetensors config.json",
    ):
        assert said in str(caught.value)
    with pytest.raises(
        ModelUnavailableError, match=r"hf download histai/hibou-b model\.safetensors"
    ) as caught:
        find_weights(free, cache=tmp_path)
    assert "auth" not in str(caught.value)


def test_random_weights_are_the_same_each_time_and_say_what_they_are() -> None:
    state = torch.get_rng_state()
    first, again = random_weights(SMALL), random_weights(SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first.version == RANDOM
    weight = load_encoder(SMALL, first).conv1[0].weight
    assert torch.equal(weight, load_encoder(SMALL, again).conv1[0].weight)
    assert random_weights(find_encoder("test_resnet")).sha256 != first.sha256


class Foreign(torch.nn.Module):
    """A vision transformer of its own, with the names of Hugging Face's transformers: the published way to
    compute it, in as few words as possible.

    `registers`: as DINOv2 with its gated units, else as the plain one.
    """

    def __init__(self, width: int, depth: int, heads: int, patches: int, registers: int):
        super().__init__()
        self.heads, self.registers = heads, registers
        draw = torch.nn.Parameter
        embeddings = torch.nn.Module()
        embeddings.cls_token = draw(torch.randn(1, 1, width))
        embeddings.position_embeddings = draw(torch.randn(1, 1 + patches, width))
        embeddings.patch_embeddings = torch.nn.Module()
        embeddings.patch_embeddings.projection = torch.nn.Conv2d(3, width, 16, 16)
        if registers:
            embeddings.mask_token = draw(torch.randn(1, width))
            embeddings.register_tokens = draw(torch.randn(1, registers, width))
        self.embeddings, self.encoder = embeddings, torch.nn.Module()
        self.encoder.layer = torch.nn.ModuleList(self._layer(width) for _ in range(depth))
        self.layernorm = torch.nn.LayerNorm(width, eps=1e-6)

    def _layer(self, width: int):
        layer, linear = torch.nn.Module(), torch.nn.Linear
        layer.attention, layer.attention.attention, layer.attention.output = (
            torch.nn.Module() for _ in "123"
        )
        for name in ("query", "key", "value"):
            setattr(layer.attention.attention, name, linear(width, width))
        layer.attention.output.dense = linear(width, width)
        norms = ("norm1", "norm2") if self.registers else ("layernorm_before", "layernorm_after")
        for name in norms:
            setattr(layer, name, torch.nn.LayerNorm(width, eps=1e-6))
            torch.nn.init.normal_(getattr(layer, name).weight)
        if self.registers:
            layer.mlp = torch.nn.Module()
            layer.mlp.weights_in, layer.mlp.weights_out = linear(width, 4 * width), linear(2 * width, width)
            for name in ("layer_scale1", "layer_scale2"):
                setattr(layer, name, torch.nn.Module())
                getattr(layer, name).lambda1 = torch.nn.Parameter(torch.randn(width))
        else:
            layer.intermediate, layer.output = torch.nn.Module(), torch.nn.Module()
            layer.intermediate.dense, layer.output.dense = linear(width, 4 * width), linear(4 * width, width)
        return layer

    def forward(self, images):
        """The class token after the last norm."""
        parts = self.embeddings
        patches = parts.patch_embeddings.projection(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([parts.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = tokens + parts.position_embeddings
        if self.registers:
            held = parts.register_tokens.expand(len(images), -1, -1)
            tokens = torch.cat([tokens[:, :1], held, tokens[:, 1:]], dim=1)
        for layer in self.encoder.layer:
            tokens = self._through(layer, tokens)
        return self.layernorm(tokens)[:, 0]

    def _through(self, layer, tokens):
        silu, gelu = torch.nn.functional.silu, torch.nn.functional.gelu
        if self.registers:
            tokens = tokens + layer.layer_scale1.lambda1 * self._attend(layer.attention, layer.norm1(tokens))
            gate, value = layer.mlp.weights_in(layer.norm2(tokens)).chunk(2, dim=-1)
            return tokens + layer.layer_scale2.lambda1 * layer.mlp.weights_out(silu(gate) * value)
        tokens = tokens + self._attend(layer.attention, layer.layernorm_before(tokens))
        return tokens + layer.output.dense(gelu(layer.intermediate.dense(layer.layernorm_after(tokens))))

    def _attend(self, attention, tokens):
        n, length, width = tokens.shape
        split = (n, length, self.heads, width // self.heads)
        parts = attention.attention
        query, key, value = (
            part(tokens).view(split).transpose(1, 2) for part in (parts.query, parts.key, parts.value)
        )
        weights = (query @ key.transpose(2, 3) / split[3] ** 0.5).softmax(dim=-1)
        return attention.output.dense((weights @ value).transpose(1, 2).reshape(n, length, width))


GATED = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1.0, "mlp_layer": "SwiGLUPacked"}


@pytest.mark.parametrize(("registers", "arguments"), [(0, {}), (4, {**GATED, "act_layer": "SiLU"})])
def test_weights_named_as_in_transformers_compute_the_same(tmp_path: Path, registers, arguments) -> None:
    torch.manual_seed(2)
    foreign = Foreign(192, 2, 3, 16, registers).eval()
    tower = Tower("vit_tiny_patch16_224", {"img_size": 64, "dynamic_img_size": True, "depth": 2, **arguments})
    encoder = replace(TOKENS, tower=tower, pooling="cls", features=192)
    weights = find_weights(encoder, save(foreign, tmp_path / "w.safetensors"))
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected, found = foreign(images), pool(load_encoder(encoder, weights), images, "cls")
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_weights_with_timms_names_are_left_alone() -> None:
    state = build_encoder(TOKENS).state_dict()
    assert to_timm(state) == dict(state)
