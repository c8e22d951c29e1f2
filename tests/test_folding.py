"""Folding norms into convolutions: the same figures, and hands off whatever is not plainly foldable."""

from __future__ import annotations

import copy

import pytest
from networks import NORMALISATION, network_of, tiles_of

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("timm", reason="timm is not installed")
from coverslip.models.folding import fold_norms  # noqa: E402
from coverslip.models.network import features_and_logits, normalise  # noqa: E402

SIZE = 64


def _figures(network):
    batch = normalise(torch.from_numpy(tiles_of(3, size=SIZE)), NORMALISATION)
    with torch.inference_mode():
        return features_and_logits(network, batch)


def _norms(network) -> int:
    return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("resnet10t", 0),
        ("efficientnet_b0", 0),
        ("tf_efficientnet_b0", 0),
        ("mobilenetv3_small_100", 0),
        ("regnety_002", 0),
        ("vgg11_bn", 0),
        ("densenet121", 62),  # those before a convolution, behind a concatenation
        ("repvgg_a0", 17),  # identity branches, without a convolution
        ("convnext_atto", 0),
    ],
)
def test_a_folded_network_gives_the_same_figures(name, left):
    network = network_of(name, SIZE)
    expected, before = _figures(network), _norms(network)
    folded = fold_norms(network.requires_grad_(False), SIZE, NORMALISATION)
    assert (_norms(network), folded) == (left, before - left)
    for found, meant in zip(_figures(network), expected, strict=True):
        torch.testing.assert_close(found, meant, rtol=1e-4, atol=1e-4)


class Net(torch.nn.Module):
    """A convolution and a norm, with `between` deciding what becomes of the convolution's output."""

    def __init__(self, between):
        super().__init__()
        self.convolution, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        self.head, self.between = torch.nn.Linear(4, 2), between
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward_features(self, x):
        return self.between(self, x)

    def forward_head(self, x, pre_logits):
        assert pre_logits
        return x.mean((2, 3))

    def get_classifier(self):
        return self.head


@pytest.mark.parametrize(
    ("between", "folded"),
    [
        (lambda net, x: net.norm(net.convolution(x)), 1),
        (lambda net, x: net.norm(net.convolution(x).relu()), 0),
        (lambda net, x: (lambda y: net.norm(y) + y)(net.convolution(x)), 0),
        (lambda net, x: net.norm(net.convolution(x)) + net.convolution(x.flip(3)), 0),
        (lambda net, x: net.norm(net.convolution(x)) + net.norm(x.repeat(1, 2, 1, 1)[:, :4, 1:-1, 1:-1]), 0),
    ],
    ids=["plain", "something between", "used twice", "one convolution twice", "one norm twice"],
)
def test_only_a_norm_that_alone_follows_a_convolution_is_folded(between, folded):
    torch.manual_seed(0)
    network = Net(between).eval().requires_grad_(False)
    expected = _figures(copy.deepcopy(network))
    assert fold_norms(network, SIZE, NORMALISATION) == folded
    for found, meant in zip(_figures(network), expected, strict=True):
        torch.testing.assert_close(found, meant, rtol=1e-4, atol=1e-5)
