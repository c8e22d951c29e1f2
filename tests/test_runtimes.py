"""What computes a network: which is chosen, that each gives torch's figures, and what is done ahead."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import NORMALISATION, SIZE, architecture_of, network_of, tiles_of, write_network

from coverslip.errors import MissingExtraError, ModelUnavailableError, RequestError
from coverslip.models.runtime import overlapped

torch = pytest.importorskip("torch", reason="torch is not installed")
timm = pytest.importorskip("timm", reason="timm is not installed")
from coverslip.models.engine import Engine, evaluate  # noqa: E402
from coverslip.models.network import build_network, load_network  # noqa: E402
from coverslip.models.torch_cpu import TorchCpu  # noqa: E402

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
AGREEMENT = 1e-4  # of probabilities, by the runtimes' contract


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("models") / "demo", network_of())


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet10t",
        "efficientnet_b0",
        "convnext_atto",
        "vit_small_patch16_224",
        "eva02_tiny_patch14_224",
        "densenet121",
        "repvgg_a0",
    ],
)
def test_every_runtime_gives_the_figures_of_the_plain_network(name, tmp_path):
    size = 56 if "eva" in name else 64
    network, tiles = network_of(name, size), tiles_of(6, 9, size)
    features, logits = evaluate(network, tiles, NORMALISATION, 6)
    assert _softmax(logits).std(axis=0).max() > 0.01, "the tiles are all alike to the network"
    package = write_network(tmp_path / "model", network, name, size)
    for runtime in ["torch", "openvino"] if find_spec("openvino") else ["torch"]:
        engine = Engine(package, "cpu", threads=1, runtime=runtime)  # type: ignore[arg-type]
        np.testing.assert_allclose(engine.predict(tiles), _softmax(logits), atol=AGREEMENT)
        found = np.concatenate([engine._runtime.begin(tile[None])()[0] for tile in tiles])
        np.testing.assert_allclose(found, features, atol=AGREEMENT * float(np.abs(features).max()))


@needs_openvino
def test_openvino_is_chosen_when_it_is_there(package):
    assert Engine(package, "cpu").compute.runtime.startswith("openvino ")
    assert Engine(package, "cpu", runtime="torch").compute.runtime == f"torch {torch.__version__}"


def test_without_openvino_torch_is_chosen_and_openvino_refused(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # what an import finds where it is not installed
    assert Engine(package, "cpu").compute.runtime.startswith("torch ")
    with pytest.raises(MissingExtraError, match=r"pip install 'coverslip\[openvino\]'"):
        Engine(package, "cpu", runtime="openvino")


def test_an_unknown_runtime_is_refused(package):
    with pytest.raises(RequestError, match="say auto, torch or openvino"):
        Engine(package, "cpu", runtime="onnx")  # type: ignore[arg-type]


@pytest.fixture
def strange(tmp_path):
    """A package of a network with an operation that OpenVINO does not know."""

    class Strange(type(network_of())):
        def forward_features(self, x):
            return torch.special.bessel_j0(super().forward_features(x))

    @timm.models.register_model
    def strange_net(pretrained=False, **arguments):
        network = timm.create_model("test_resnet", pretrained, **arguments)
        network.__class__ = Strange
        return network

    strange_net.__module__ = "strange"
    return write_network(tmp_path / "strange", network_of("strange_net"), "strange_net")


@needs_openvino
def test_what_openvino_cannot_do_torch_does_unless_openvino_was_asked_for(strange):
    assert Engine(strange, "cpu").compute.runtime.startswith("torch ")
    with pytest.raises(ModelUnavailableError, match=r"cannot be translated.*say runtime torch"):
        Engine(strange, "cpu", runtime="openvino")


@needs_openvino
def test_a_translation_that_differs_from_torch_is_refused():
    from coverslip.models.openvino import TranslationError, _compare

    features, logits = np.array([[1.0, 50.0]], np.float32), np.array([[1.0, 2.0, 0.5]], np.float32)
    _compare((features + 1e-3, logits + 1e-5), (features, logits))
    for wrong in [(features + 0.1, logits), (features, logits * 1.01), (features * np.nan, logits)]:
        with pytest.raises(TranslationError, match="differs from torch"):
            _compare(wrong, (features, logits))


@needs_openvino
def test_a_tile_s_figures_do_not_depend_on_what_it_is_batched_with_in_openvino(package):
    engine, tiles = Engine(package, "cpu", threads=2, runtime="openvino"), tiles_of(9)
    alone = np.concatenate([engine.predict(tile[None]) for tile in tiles])
    assert engine.predict(tiles).tobytes() == alone.tobytes()


@needs_openvino
def test_openvino_tells_nobody_and_writes_nothing_into_the_home(package, tmp_path):
    code = (
        "import sys; from coverslip.models.engine import Engine;"
        "from coverslip.models.package import load_package;"
        f"print(Engine(load_package({str(package.folder)!r}), 'cpu').compute.runtime);"
        "print(sys.modules['openvino_telemetry'], 'requests' in sys.modules)"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("openvino ")
    assert "None" in done.stdout
    assert list(tmp_path.rglob("*openvino*")) == []


def test_the_caller_may_fill_its_array_anew_for_each_batch(package):
    for runtime in ["torch", "openvino"] if find_spec("openvino") else ["torch"]:
        engine = Engine(package, "cpu", threads=2, runtime=runtime)  # type: ignore[arg-type]
        expected = [engine.predict(tiles_of(5, seed)) for seed in range(4)]
        buffer = np.empty((5, SIZE, SIZE, 3), np.uint8)

        def batches(buffer=buffer):
            for seed in range(4):
                buffer[...] = tiles_of(5, seed)
                yield buffer

        np.testing.assert_array_equal(list(engine.run(batches())), expected)


def test_batches_of_any_size_keep_their_rows(package):
    engine = Engine(package, "cpu", threads=1, batch=4)
    sizes = [0, 1, 4, 9, 0, 3]
    found = list(engine.run(tiles_of(n, n) for n in sizes))
    assert [len(part) for part in found] == sizes
    for n, part in zip(sizes, found, strict=True):
        np.testing.assert_array_equal(part, engine.predict(tiles_of(n, n)))


@given(st.lists(st.integers()), st.integers(0, 5))
def test_what_is_overlapped_keeps_its_order_and_never_runs_further_ahead(items, ahead):
    begun, finished = [], []

    def begin(item):
        begun.append(item)
        return item

    for done in overlapped(items, begin, lambda item: item, ahead):
        finished.append(done)
        assert len(begun) - len(finished) <= ahead
    assert begun == finished == items


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "eva02_tiny_patch14_224"])
def test_a_loaded_network_has_the_weights_of_a_built_one_and_computes_the_same(name):
    size = 56 if "eva" in name else SIZE  # the last one makes tables that its weights do not hold
    built = network_of(name, size)
    found = load_network(architecture_of(name, size), 3, dict(built.state_dict()))
    assert not found.training
    assert not any(weight.requires_grad for weight in found.parameters())
    tiles = tiles_of(2, 5, size)
    for figures, meant in zip(
        evaluate(found, tiles, NORMALISATION, 2), evaluate(built, tiles, NORMALISATION, 2), strict=True
    ):
        np.testing.assert_allclose(figures, meant, rtol=1e-4, atol=1e-5)


def test_weights_in_half_precision_are_computed_in_float32():
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network_of().state_dict().items()
    }
    network = load_network(architecture_of("test_resnet"), 3, state)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_torch_on_the_cpu_computes_without_norms_after_convolutions():
    network = load_network(
        architecture_of("resnet18"), 3, build_network(architecture_of("resnet18"), 3).state_dict()
    )
    TorchCpu(network, SIZE, NORMALISATION)
    assert not [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_bytes_however_batches_overlap(package):
    engine = Engine(package, "cuda", batch=8)
    batches = [tiles_of(20, seed) for seed in range(6)]
    together = [part.tobytes() for part in engine.run(batches)]
    assert together == [engine.predict(batch).tobytes() for batch in batches]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_openvino_is_refused_on_a_cuda_device(package):
    with pytest.raises(RequestError, match="does not run on cuda:0"):
        Engine(package, "cuda", runtime="openvino")
