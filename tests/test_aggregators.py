"""Slide-level networks: what they compute, against formulas written again and published weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coverslip.models.aggregator import AGGREGATORS, Aggregator, Kind, build_aggregator
from coverslip.models.dsmil import Dsmil
from coverslip.models.nystrom import Nystrom, attend, pseudo_inverse

DSMIL = Path(__file__).resolve().parents[2] / "shared/data/weights/dsmil"
KINDS = list(AGGREGATORS)


def made(kind: Kind, features: int = 24, classes: int = 3) -> Aggregator:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        aggregator = build_aggregator(kind, features, classes)
    aggregator.layers.eval()
    return aggregator


def bag(n: int, features: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32))


def array(module: torch.nn.Module, name: str) -> np.ndarray:
    return module.get_parameter(name).detach().double().numpy()


@pytest.mark.parametrize("kind", KINDS)
@given(n=st.integers(1, 400))
@settings(max_examples=15, deadline=None)
def test_a_bag_of_any_size_is_called_and_its_weights_are_shares(kind, n):
    look = made(kind)(bag(n))
    assert look.logits.shape == (3,)
    assert look.attention.shape == (n,)
    assert torch.isfinite(look.logits).all()
    assert (look.attention >= 0).all()
    assert float(look.attention.detach().sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", ["abmil", "clam-sb", "dsmil"])
def test_the_order_of_tiles_does_not_matter(kind):
    aggregator, tiles = made(kind), bag(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    one, other = aggregator(tiles), aggregator(tiles[order])
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.attention[order], other.attention)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 3, 40])
def test_training_reaches_every_layer(kind, n):
    aggregator = made(kind)
    total = sum(aggregator.loss(aggregator(bag(n)), label, torch.ones(3)) for label in range(3))
    assert isinstance(total, torch.Tensor)
    total.backward()
    assert torch.isfinite(total)
    still = [name for name, p in aggregator.layers.named_parameters() if p.grad is None]
    assert not still


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_weighs_more_costs_more(kind):
    aggregator = made(kind)
    look = aggregator(bag(30))
    once = aggregator.loss(look, 1, torch.ones(3))
    twice = aggregator.loss(look, 1, torch.tensor([1.0, 2.0, 1.0]))
    torch.testing.assert_close(twice, 2 * once)


def test_gated_attention_is_the_paper_s():
    aggregator, tiles = made("abmil"), bag(7)
    layers, x = aggregator.layers, tiles.double().numpy()
    h = np.maximum(x @ array(layers, "project.0.weight").T + array(layers, "project.0.bias"), 0)
    tanh = np.tanh(h @ array(layers, "attention.tanh.0.weight").T + array(layers, "attention.tanh.0.bias"))
    inner = h @ array(layers, "attention.sigmoid.0.weight").T + array(layers, "attention.sigmoid.0.bias")
    score = (tanh / (1 + np.exp(-inner))) @ array(layers, "attention.score.weight")[0]
    weights = np.exp(score) / np.exp(score).sum()
    logits = weights @ h @ array(layers, "classifier.weight").T + array(layers, "classifier.bias")
    look = aggregator(tiles)
    np.testing.assert_allclose(look.attention.detach().numpy(), weights, atol=1e-6)
    np.testing.assert_allclose(look.logits.detach().numpy(), logits, atol=1e-5)


def dsmil_by_hand(layers: torch.nn.ModuleDict, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equations 3 to 6 of the paper, a class at a time."""
    tiles = x @ array(layers, "i_classifier.fc.0.weight").T + array(layers, "i_classifier.fc.0.bias")
    hidden = np.maximum(
        x @ array(layers, "b_classifier.q.0.weight").T + array(layers, "b_classifier.q.0.bias"), 0
    )
    queries = np.tanh(
        hidden @ array(layers, "b_classifier.q.2.weight").T + array(layers, "b_classifier.q.2.bias")
    )
    columns, gathered = [], []
    for number in range(tiles.shape[1]):
        near = queries @ queries[tiles[:, number].argmax()] / np.sqrt(queries.shape[1])
        share = np.exp(near - near.max())
        columns.append(share / share.sum())
        gathered.append(columns[-1] @ x)
    kernel, bias = array(layers, "b_classifier.fcc.weight"), array(layers, "b_classifier.fcc.bias")
    return tiles, np.array(columns).T, np.einsum("oif,if->o", kernel, np.array(gathered)) + bias


def test_dual_streams_are_the_paper_s():
    aggregator = made("dsmil")
    assert isinstance(aggregator, Dsmil)
    tiles = bag(11)
    wanted = dsmil_by_hand(aggregator.layers, tiles.double().numpy())
    for found, hand in zip(aggregator.streams(tiles), wanted, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), hand, atol=1e-5)


@pytest.mark.skipif(not DSMIL.is_dir(), reason=f"{DSMIL} is not there")
@pytest.mark.parametrize(("name", "classes"), [("c16", 1), ("tcga", 2)])
def test_published_weights_load_and_run(name, classes):
    """Those of the paper's authors, for CAMELYON16 and TCGA lung."""
    weights = torch.load(DSMIL / f"{name}_aggregator.pth", weights_only=True, map_location="cpu")
    aggregator = Dsmil(512, classes)
    aggregator.layers.load_state_dict(weights)
    aggregator.layers.eval()
    tiles = torch.relu(bag(300, 512, seed=5))
    wanted = dsmil_by_hand(aggregator.layers, tiles.double().numpy())
    for found, hand in zip(aggregator.streams(tiles), wanted, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), hand, atol=1e-3)


def test_few_tokens_are_attended_to_exactly():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = Nystrom(64).layers.eval()
        tokens = torch.randn(20, 64)
    attended, first = attend(layers, tokens, 32)
    q, k, v = layers["qkv"](tokens).reshape(20, 3, 8, 8).permute(1, 2, 0, 3)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v) + layers["near"](v[None])[0]
    torch.testing.assert_close(attended, layers["out"](wanted.transpose(0, 1).reshape(20, 64)))
    assert float(first.detach().sum()) == pytest.approx(1, abs=1e-5)


def test_many_tokens_are_attended_to_nearly():
    """Tokens that repeat are as many as there are landmarks, so that nothing is lost between them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = Nystrom(64).layers.double().eval()
        tokens = torch.randn(16, 64, dtype=torch.float64).repeat_interleave(8, 0)
    near, near_first = attend(layers, tokens, 16)
    exact, exact_first = attend(layers, tokens, len(tokens))
    torch.testing.assert_close(near, exact, atol=0.02, rtol=0)
    torch.testing.assert_close(near_first, exact_first, atol=0.02, rtol=0)
    assert (exact - exact.roll(8, 0)).abs().max() > 0.2


def test_the_inverse_is_moore_and_penrose_s():
    noise = torch.randn(4, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix = torch.softmax(noise + 4 * torch.eye(12), -1)
    torch.testing.assert_close(pseudo_inverse(matrix), torch.linalg.pinv(matrix), atol=1e-4, rtol=0)
