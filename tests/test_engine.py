"""The engine: what goes in, what comes out, from many threads, and never more float tiles than a batch."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
from networks import NORMALISATION, SIZE, architecture_of, network_of, tiles_of, write_network

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.models.document import Architecture, Calibration, OutOfDistribution
from coverslip.models.package import write_package

torch = pytest.importorskip("torch", reason="torch is not installed")
timm = pytest.importorskip("timm", reason="timm is not installed")
from coverslip.models.engine import Engine, evaluate  # noqa: E402
from coverslip.models.network import build_network, features_and_logits, normalise  # noqa: E402


def _by_hand(network, tiles: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The same figures by the plainest way there is."""
    mean, std = np.array(NORMALISATION.mean), np.array(NORMALISATION.std)
    batch = torch.from_numpy(((tiles / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        return torch.softmax(network(batch) / temperature, dim=1).numpy()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("models") / "demo", network_of())


@pytest.fixture(scope="module", params=["torch", "openvino"])
def runtime(request):
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def engine(package, runtime):
    return Engine(package, device="cpu", batch=4, runtime=runtime)


def test_probabilities_are_those_of_the_network_itself(engine):
    tiles = tiles_of(10)
    found = engine.predict(tiles)
    assert found.shape == (10, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, _by_hand(network_of(), tiles), atol=1e-5)
    assert found.std(axis=0).max() > 0.01, "the test tiles are all alike to the network: it shows nothing"


def test_the_temperature_divides_the_logits(tmp_path):
    network = network_of()
    cool = Engine(
        write_network(tmp_path / "cool", network, calibration=Calibration(temperature=3.0, n=9)), "cpu"
    )
    np.testing.assert_allclose(cool.predict(tiles_of(5)), _by_hand(network, tiles_of(5), 3.0), atol=1e-5)


def test_distance_is_the_rms_of_standardised_features(tmp_path):
    network = network_of()
    features, _ = evaluate(network, tiles_of(200, seed=1), NORMALISATION, 16)
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-3
    known = OutOfDistribution(mean=tuple(mean.tolist()), std=tuple(std.tolist()), limit=1.5, quantile=0.99)
    engine = Engine(write_network(tmp_path / "ood", network, out_of_distribution=known), "cpu")
    like = engine.examine(tiles_of(50, seed=2)).distance
    white = engine.examine(np.full((1, SIZE, SIZE, 3), 255, np.uint8)).distance
    assert like is not None
    assert white is not None
    assert 0.7 < like.mean() < 1.3
    assert white[0] > 1.5 > np.quantile(like, 0.9)


def test_without_statistics_there_is_no_distance(engine):
    assert engine.examine(tiles_of(1)).distance is None


def test_the_same_batch_gives_the_same_bytes(engine, package, runtime):
    tiles = tiles_of(9)
    first = engine.predict(tiles).tobytes()
    assert all(engine.predict(tiles).tobytes() == first for _ in range(5))
    again = Engine(package, device="cpu", batch=4, runtime=runtime)
    assert again.predict(tiles).tobytes() == first


def test_one_engine_serves_many_threads_with_the_same_bytes(package, runtime):
    engine = Engine(package, device="cpu", threads=1, batch=4, runtime=runtime)
    batches = [tiles_of(6, seed) for seed in range(24)]
    alone = [engine.predict(batch).tobytes() for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        together = [found.tobytes() for found in pool.map(engine.predict, batches * 3)]
    assert together == alone * 3


def test_run_is_lazy_and_keeps_order(package, runtime):
    engine, drawn = Engine(package, device="cpu", threads=1, runtime=runtime), []

    def batches():
        for seed in range(3):
            drawn.append(seed)
            yield tiles_of(2, seed)

    found = engine.run(batches())
    assert drawn == []
    first = next(found)
    assert drawn == [0]
    np.testing.assert_array_equal(first, engine.predict(tiles_of(2, 0)))
    assert len(list(found)) == 2


def test_no_more_tiles_than_the_batch_are_float_at_once(package):
    engine, seen = Engine(package, device="cpu", batch=4, runtime="torch"), []
    first = next(layer for layer in engine._runtime._network.modules() if isinstance(layer, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    engine.predict(tiles_of(10))
    assert seen == [4, 4, 2]


def test_no_tiles_give_no_rows(engine):
    assert engine.predict(tiles_of(0)).shape == (0, 3)


def test_read_only_and_strided_tiles_are_taken(engine):
    tiles = tiles_of(8)
    expected = engine.predict(tiles[::2].copy())
    tiles.flags.writeable = False
    np.testing.assert_array_equal(engine.predict(tiles[::2]), expected)


@pytest.mark.parametrize(
    "tiles",
    [
        np.zeros((2, SIZE, SIZE + 1, 3), np.uint8),
        np.zeros((2, 64, 64, 3), np.uint8),
        np.zeros((2, 3, SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((2, SIZE, SIZE, 3), np.float32),
    ],
)
def test_tiles_of_another_shape_or_type_are_refused(engine, tiles):
    with pytest.raises(RequestError, match=r"give uint8 \(n, 32, 32, 3\)"):
        engine.predict(tiles)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(package, device):
    with pytest.raises(RequestError, match=f"device {device}"):
        Engine(package, device)


def test_a_cpu_computes_in_float32_and_says_so(package, runtime):
    engine = Engine(package, device="cpu", threads=2, batch=2, runtime=runtime)
    assert (engine.compute.device, engine.compute.precision) == ("cpu", "float32")
    assert (engine.compute.threads, engine.compute.batch) == (2, 2)
    assert engine.compute.runtime.startswith(f"{runtime} 20" if runtime == "openvino" else "torch 2")
    assert engine.compute.torch == torch.__version__
    with pytest.raises(AttributeError):
        engine.compute.precision = "float16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(package, engine):
    cuda, tiles = Engine(package, "cuda"), tiles_of(64)
    np.testing.assert_allclose(cuda.predict(tiles), engine.predict(tiles), atol=0.05)
    assert cuda.predict(tiles).tobytes() == cuda.predict(tiles).tobytes()


def test_weights_of_another_architecture_are_refused(tmp_path):
    package = write_network(tmp_path / "wrong", network_of("test_resnet"), name="test_efficientnet")
    with pytest.raises(ModelUnavailableError, match="does not fit test_efficientnet"):
        Engine(package, "cpu")


def test_a_file_that_is_no_safetensors_is_refused(package, tmp_path):
    document = package.document.model_copy(update={"weights_sha256": hashlib.sha256(b"junk").hexdigest()})
    with pytest.raises(ModelUnavailableError, match="does not fit"):
        Engine(write_package(tmp_path / "junk", document, b"junk"), "cpu")


def test_weights_altered_after_loading_are_refused(tmp_path):
    package = write_network(tmp_path / "late", network_of())
    package.weights.write_bytes(package.weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelUnavailableError, match="was altered"):
        Engine(package, "cpu")


def test_an_unknown_network_is_refused():
    with pytest.raises(ModelUnavailableError, match="cannot build it"):
        build_network(Architecture(name="no_such_net"), 2)


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_efficientnet",
        "test_byobnet",
        "test_convnext",
        "resnet10t",
        "mobilenetv3_small_050",
    ],
)
def test_taking_a_network_apart_before_its_classifier_changes_nothing(name):
    network = network_of(name)
    batch = normalise(torch.from_numpy(tiles_of(2)), NORMALISATION)
    with torch.inference_mode():
        torch.testing.assert_close(features_and_logits(network, batch)[1], network(batch))


def test_a_vision_transformer_with_its_own_image_size_is_taken_apart_too():
    network = build_network(architecture_of("test_vit"), 3).eval()
    batch = normalise(torch.from_numpy(tiles_of(2)), NORMALISATION)
    with torch.inference_mode():
        torch.testing.assert_close(features_and_logits(network, batch)[1], network(batch))


def test_normalised_tiles_are_channels_last_without_a_copy():
    batch = normalise(torch.from_numpy(tiles_of(2)), NORMALISATION)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.shape == (2, 3, SIZE, SIZE)
