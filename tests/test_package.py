"""Model packages: what is written is read, what is altered is refused, and every problem is named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from coverslip.errors import ModelMismatchError, ModelUnavailableError, RequestError
from coverslip.models.document import (
    Architecture,
    ClassAccuracy,
    Metrics,
    ModelDocument,
    Normalisation,
    TileFit,
)
from coverslip.models.package import load_package, write_package
from coverslip.ruo import RUO

WEIGHTS = save({"weight": np.arange(6, dtype=np.float32)})


def _metrics(classes: tuple[str, ...] = ("benign", "malignant")) -> Metrics:
    return Metrics(
        data="40 tiles",
        classes=tuple(ClassAccuracy(name=name, n=20, accuracy=0.9) for name in classes),
        n=40,
        groups=10,
        balanced_accuracy=0.9,
        interval=(0.8, 0.97),
        level=0.95,
        resamples=2000,
        confusion=((18, 2), (2, 18)),
    )


def _document(**changes: Any) -> ModelDocument:
    fields: dict[str, Any] = {
        "name": "demo",
        "version": "1.0",
        "classes": ("benign", "malignant"),
        "tile": TileFit(size=64, mpp=0.5, tolerance=0.1),
        "stain": "H&E",
        "normalisation": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        "architecture": Architecture(name="test_resnet"),
        "licence": "Apache-2.0",
        "intended_use": "research",
        "training": None,
        "metrics": _metrics(),
        "calibration": None,
        "out_of_distribution": None,
        "weights_sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "created_with": {"coverslip": "0.1.0"},
    }
    return ModelDocument(**(fields | changes))


@pytest.fixture
def package(tmp_path):
    return write_package(tmp_path / "demo", _document(), WEIGHTS)


def _edit(package, change) -> None:
    path = package.folder / "model.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_written_package_is_read_back_equal(package):
    again = load_package(package.folder)
    assert again == package
    assert again.document == _document()
    assert again.read_weights() == WEIGHTS
    assert sorted(file.name for file in package.folder.iterdir()) == ["model.json", "weights.safetensors"]
    assert [entry.name for entry in package.folder.parent.iterdir()] == ["demo"]


def test_the_same_package_is_written_with_the_same_bytes(package, tmp_path):
    other = write_package(tmp_path / "other", _document(), WEIGHTS)
    assert other.document_sha256 == package.document_sha256


def test_the_document_carries_the_research_use_sentence(package):
    assert json.loads((package.folder / "model.json").read_text())["research_use"] == RUO
    _edit(package, lambda content: content.update(research_use="Cleared for diagnosis."))
    with pytest.raises(ModelUnavailableError, match="research_use: Value error, must read: For Research"):
        load_package(package.folder)


@pytest.mark.parametrize("position", [0, 20, len(WEIGHTS) // 2, len(WEIGHTS) - 1])
def test_one_flipped_byte_of_the_weights_is_refused(package, position):
    altered = bytearray(WEIGHTS)
    altered[position] ^= 1
    package.weights.write_bytes(altered)
    with pytest.raises(ModelUnavailableError, match="was altered"):
        load_package(package.folder)
    with pytest.raises(ModelUnavailableError, match="was altered"):
        package.read_weights()


def test_every_problem_of_the_document_is_named_with_its_path(package):
    def spoil(content):
        content["tile"]["mpp"] = -1
        content["normalisation"]["std"][1] = 0
        content["surprise"] = 1
        content["metrics"]["classes"][0]["accuracy"] = 1.5
        del content["licence"]

    _edit(package, spoil)
    with pytest.raises(ModelUnavailableError) as caught:
        load_package(package.folder)
    message = str(caught.value)
    assert "5 problems" in message
    for path in ("tile.mpp", "normalisation.std.1", "surprise", "metrics.classes.0.accuracy", "licence"):
        assert f"{path}: " in message


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hf-hub:somebody/model", {}),
        ("local-dir:/etc", {}),
        ("../resnet18", {}),
        ("resnet18", {"checkpoint_path": "/tmp/evil.pth"}),
        ("resnet18", {"pretrained": True}),
        ("vit_tiny_patch16_224", {"img_size": 10**9}),
    ],
)
def test_an_architecture_that_names_a_place_or_an_absurd_size_is_refused(package, name, arguments):
    _edit(package, lambda content: content.update(architecture={"name": name, "arguments": arguments}))
    with pytest.raises(ModelUnavailableError, match=r"architecture\."):
        load_package(package.folder)


def test_another_schema_version_is_refused_as_such(package):
    _edit(package, lambda content: content.update(schema_version=2))
    with pytest.raises(ModelUnavailableError, match=r"schema coverslip\.model 2, and this version reads"):
        load_package(package.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_document_that_is_no_document_is_refused(package, content):
    (package.folder / "model.json").write_bytes(content)
    with pytest.raises(ModelUnavailableError):
        load_package(package.folder)


def test_a_huge_document_is_not_read(package):
    with (package.folder / "model.json").open("ab") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(ModelUnavailableError, match="is larger than"):
        load_package(package.folder)


def test_metrics_must_name_the_models_classes():
    with pytest.raises(ValueError, match="not the model's classes"):
        _document(metrics=_metrics(("malignant", "benign")))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"\x80\x02")
    (tmp_path / "model.json").write_text("{}")
    for place in (tmp_path, tmp_path / f"model{suffix}"):
        with pytest.raises(ModelUnavailableError, match=r"pickle.*save_file\(torch\.load"):
            load_package(place)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_missing_file_is_named(package, name):
    (package.folder / name).unlink()
    with pytest.raises(ModelUnavailableError, match=f"lacks {name}"):
        load_package(package.folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelUnavailableError, match="is no folder"):
        load_package(tmp_path / "nowhere")


def test_a_link_that_leaves_the_folder_is_not_followed(package, tmp_path):
    outside = package.weights.rename(tmp_path / "outside.safetensors")
    package.weights.symlink_to(outside)
    with pytest.raises(ModelUnavailableError, match="leaves the package"):
        load_package(package.folder)


def test_no_model_is_overwritten_and_nothing_is_left_behind(package):
    with pytest.raises(RequestError, match="is already there"):
        write_package(package.folder, _document(version="2"), WEIGHTS)
    assert load_package(package.folder) == package
    assert [entry.name for entry in package.folder.parent.iterdir()] == ["demo"]


def test_weights_of_another_digest_than_stated_are_not_written(tmp_path):
    with pytest.raises(RequestError, match="another sha256"):
        write_package(tmp_path / "demo", _document(), WEIGHTS + b" ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mpp", [0.45, 0.5, 0.55])
def test_tiles_within_the_tolerance_fit(package, mpp):
    package.check_fit("a.svs", mpp)
    package.check_fit("a.svs", mpp, "h&e")


@pytest.mark.parametrize("mpp", [0.25, 0.449, 0.551, 1.0, float("nan")])
def test_tiles_outside_the_tolerance_do_not_fit(package, mpp):
    with pytest.raises(ModelMismatchError, match=r"a\.svs: tiles at .* do not fit the model demo"):
        package.check_fit("a.svs", mpp)


def test_another_stain_does_not_fit(package):
    with pytest.raises(ModelMismatchError, match="its stain is Giemsa"):
        package.check_fit("a.svs", 0.5, "Giemsa")


def test_a_package_is_verified_without_torch(package):
    code = (
        "import sys; from coverslip.models.package import load_package; load_package(sys.argv[1]); "
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(package.folder)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
