"""Models by name: added, found, verified, removed; from Hugging Face's cache and in WSInfer's format."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import ENVIRONMENT
from hypothesis import given
from hypothesis import strategies as st
from networks import network_of, write_network

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.models.card import render_card
from coverslip.models.library import add_model, find_model, known_models, library_folder, remove_model
from coverslip.models.licence import commercial_use, refuse_other_than_commercial
from coverslip.models.package import load_package
from coverslip.ruo import RUO

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WSINFER = {
    "spec_version": "1.0",
    "architecture": "test_resnet",
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "patch_size_pixels": 350,
    "spacing_um_px": 0.25,
    "transform": [
        {"name": "Resize", "arguments": {"size": 224}},
        {"name": "ToTensor"},
        {
            "name": "Normalize",
            "arguments": {"mean": [0.7238, 0.5716, 0.6779], "std": [0.112, 0.1459, 0.1089]},
        },
    ],
}


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COVERSLIP_MODELS", str(tmp_path / "library"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "library"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("made") / "demo", network_of()).folder


def wsinfer(folder: Path, **changes) -> Path:
    """A folder as in WSInfer's zoo, of the test network."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(WSINFER | changes))
    (folder / "README.md").write_text("---\nlicense: bsd-3-clause\ntags:\n- pathology\n---\n# A model\n")
    state = {key: value.contiguous() for key, value in network_of().state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


def cached(cache: Path, made: Path, name: str = "lab/model") -> None:
    """A repository in Hugging Face's cache, laid out as the hub lays it: links to blobs."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs/main").write_text(COMMIT)
    (root / "refs/v2").write_text(COMMIT)
    for file in made.iterdir():
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "coverslip", "models", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT
        | {name: os.environ[name] for name in ("COVERSLIP_MODELS", "HF_HUB_CACHE")}
        | environment,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


# licences


@pytest.mark.parametrize(
    "licence", ["MIT", "CC-BY-4.0", "cc by 4.0", "GPL-3.0-or-later", "Apache-2.0", "CC0-1.0"]
)
def test_licences_that_limit_no_use(licence):
    assert commercial_use(licence) is True


@pytest.mark.parametrize(
    "licence", ["CC-BY-NC-ND-4.0", "cc-by-nc-4.0", "Research only", "non-commercial", "academic use"]
)
def test_licences_that_forbid_commerce(licence):
    assert commercial_use(licence) is False


@pytest.mark.parametrize("licence", ["not stated", "other", "HAI-DEF", "MITRE", "fancy", "Bounce"])
def test_licences_that_do_not_tell(licence):
    assert commercial_use(licence) is None


@given(st.text(max_size=30))
def test_only_a_known_licence_counts_as_allowing(licence):
    if commercial_use(licence) is not True:
        with pytest.raises(ModelUnavailableError, match="commercial use"):
            refuse_other_than_commercial("demo", licence)
    else:
        refuse_other_than_commercial("demo", licence)


# the library


def added() -> list[str]:
    """Names beside those that come with Coverslip."""
    return [name for name, known in known_models().items() if known.origin == "added"]


def test_a_model_is_added_found_and_removed(package, library):
    assert added() == []
    known = add_model(str(package))
    assert (known.name, known.folder, known.origin) == ("demo", library / "demo", "added")
    assert added() == ["demo"]
    found = find_model("demo")
    assert found.document == load_package(package).document
    assert found.folder == library / "demo"
    remove_model("demo")
    assert added() == []
    assert list(library.iterdir()) == []


def test_a_name_is_taken_once(package):
    add_model(str(package))
    with pytest.raises(RequestError, match="already the name"):
        add_model(str(package))
    assert add_model(str(package), name="second").name == "second"
    assert added() == ["demo", "second"]


def test_an_unknown_name_lists_those_there_are(package):
    add_model(str(package))
    with pytest.raises(ModelUnavailableError, match=r"known are blood-cells.*demo.*coverslip models add"):
        find_model("nothing")


def test_a_folder_that_is_no_package_does_not_hide_a_known_model(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_model(str(package))
    (tmp_path / "demo").mkdir()
    assert find_model("demo").document.name == "demo"
    (tmp_path / "unknown").mkdir()
    with pytest.raises(ModelUnavailableError, match="lacks model"):
        find_model("unknown")


def test_a_folder_is_found_without_being_added(package, monkeypatch):
    assert find_model(package).folder == package
    monkeypatch.chdir(package.parent)
    assert find_model("demo").document.name == "demo"


def test_an_altered_model_is_named_by_verify_and_the_others_are_listed(package, library):
    add_model(str(package))
    add_model(str(package), name="bad")
    weights = library / "bad/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    listed, verified = command("list"), command("verify")
    assert (listed.returncode, verified.returncode) == (2, 2)
    assert "demo" in listed.stdout
    assert "bad" not in listed.stdout
    assert "bad" in listed.stderr
    assert "was altered" in listed.stderr
    assert "\ndemo: sound" in verified.stdout
    assert "bad: sound" not in verified.stdout
    assert command("verify", "demo").returncode == 0


def test_a_model_that_came_with_a_package_is_known_and_not_removed(package, tmp_path, monkeypatch):
    """A real installed distribution: its metadata and its module on the path."""
    site = tmp_path / "site"
    info = site / "slide_models-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slide-models\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[coverslip.models]\nbrought = slide_models.demo\n")
    module = site / "slide_models/demo"
    module.mkdir(parents=True)
    for folder in (module.parent, module):
        (folder / "__init__.py").touch()
    for file in package.iterdir():
        (module / file.name).write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(site)
    assert known_models()["brought"].origin == "slide-models"
    assert find_model("brought").document.name == "demo"
    with pytest.raises(RequestError, match="pip uninstall slide-models"):
        remove_model("brought")


def test_the_commands_say_licence_and_research_use(package):
    added = command("add", package, "--name", "mine")
    assert added.returncode == 0
    assert "licence Apache-2.0" in added.stdout
    assert RUO in added.stderr
    listed = command("list", "--json", "--commercial-only")
    (entry,) = (entry for entry in json.loads(listed.stdout) if entry["origin"] == "added")
    assert entry["name"] == "mine"
    assert entry["licence"] == "Apache-2.0"
    assert json.loads(command("show", "mine").stdout)["classes"] == ["a", "b", "c"]
    card = command("card", "mine").stdout
    assert RUO in card
    assert "allows commercial use" in card
    assert command("remove", "mine").returncode == 0
    assert "mine" not in command("list").stdout


def test_commercial_only_lists_no_other(tmp_path):
    from coverslip.models.library import add_model

    for name, licence in (("free", "MIT"), ("bound", "CC-BY-NC-4.0"), ("mute", "not stated")):
        add_model(str(write_network(tmp_path / name, network_of(), licence=licence).folder), name=name)

    def listed(*options: str) -> list[str]:
        entries = json.loads(command("list", "--json", *options).stdout)
        return [entry["name"] for entry in entries if entry["origin"] == "added"]

    assert listed() == ["bound", "free", "mute"]
    assert listed("--commercial-only") == ["free"]


def test_run_refuses_a_licence_before_it_looks_at_a_slide(tmp_path):
    folder = write_network(tmp_path / "bound", network_of(), licence="CC-BY-NC-4.0").folder
    arguments = [
        "run",
        tmp_path / "missing.svs",
        "-o",
        tmp_path / "out",
        "--workflow",
        "tiles",
        "--model",
        folder,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "coverslip", *map(str, arguments), "--commercial-only"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 2
    assert "CC-BY-NC-4.0, does not allow commercial use" in done.stderr
    assert not (tmp_path / "out").exists()


def test_control_characters_are_no_part_of_a_document(tmp_path):
    with pytest.raises(ModelUnavailableError, match="intended_use: String should match"):
        write_network(tmp_path / "evil", network_of(), intended_use="\x1b]0;title\x07")


# the card


def test_a_card_says_what_is_not_known(tmp_path):
    document = write_network(tmp_path / "bare", network_of(), licence="other").document
    card = render_card(document)
    assert "Not measured." in card
    assert "Not stated." in card
    assert "not calibrated" in card
    assert "commercial use is not known" in card
    assert card.endswith(f"**{RUO}**")


# Hugging Face


def test_a_repository_in_the_cache_is_used_without_a_connection(package, tmp_path, library):
    cached(tmp_path / "cache", package)
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    for source in ("hf:lab/model", "hf:lab/model@v2", f"hf:lab/model@{COMMIT}"):
        assert json.loads(command("show", source, **offline).stdout)["name"] == "demo"
    assert command("add", "hf:lab/model@v2", **offline).returncode == 0
    assert not (library / "demo/weights.safetensors").is_symlink()
    assert find_model("demo").document.name == "demo"


def test_a_link_out_of_the_cache_is_refused(package, tmp_path):
    cached(tmp_path / "cache", package)
    weights = tmp_path / "cache/models--lab--model/snapshots" / COMMIT / "weights.safetensors"
    weights.unlink()
    weights.symlink_to(package / "weights.safetensors")
    done = command("show", "hf:lab/model", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "link that leaves the package" in done.stderr


def test_without_cache_and_connection_the_command_that_fetches_is_named(tmp_path):
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = command("add", "hf:lab/model@v2", **environment)
        assert done.returncode == 2
        assert "hf download lab/model --revision v2" in done.stderr


class _Gate(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for a repository whose licence has to be accepted, or that is not there."""

    def do_GET(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 401)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Not to the screen."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gate)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_the_hub_refuses_is_said_with_the_page_and_the_command(endpoint):
    gated = command("add", "hf:lab/gated", HF_ENDPOINT=endpoint)
    assert gated.returncode == 2
    assert "is gated" in gated.stderr
    assert "https://huggingface.co/lab/gated, then: hf auth login" in gated.stderr
    absent = command("add", "hf:lab/absent", HF_ENDPOINT=endpoint)
    assert absent.returncode == 2
    assert "is not there, or is private" in absent.stderr


@pytest.mark.parametrize("source", ["hf:model", "hf:a/b/c", "hf:../x", "hf:"])
def test_what_names_no_repository_is_a_wrong_request(source):
    with pytest.raises(RequestError, match="hf:OWNER/NAME"):
        find_model(source)


# WSInfer


def test_a_model_of_wsinfer_is_taken_over(tmp_path):
    known = add_model(str(wsinfer(tmp_path / "breast-tumor")))
    document = load_package(known.folder).document
    assert known.name == "breast-tumor"
    assert document.tile.size == 224
    assert document.tile.mpp == pytest.approx(350 * 0.25 / 224)
    assert document.classes == ("a", "b", "c")
    assert document.licence == "bsd-3-clause"
    assert document.normalisation.std == (0.112, 0.1459, 0.1089)


def test_it_says_what_wsinfer_would(tmp_path):
    """Its own way: torchvision's transforms and the network, on one patch."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from coverslip.models.engine import Engine

    known = add_model(str(wsinfer(tmp_path / "m", patch_size_pixels=224)))
    patch = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    normalize = WSINFER["transform"][2]["arguments"]
    steps = transforms.Compose(
        [
            transforms.Resize(224),
            transforms.ToTensor(),
            transforms.Normalize(normalize["mean"], normalize["std"]),
        ]
    )
    with torch.inference_mode():
        logits = network_of().eval()(steps(Image.fromarray(patch))[None])
    wanted = torch.softmax(logits, 1).numpy()
    engine = Engine(load_package(known.folder), device="cpu")
    np.testing.assert_allclose(engine.predict(patch[None]), wanted, atol=1e-4)


def test_the_licence_can_be_stated_where_the_readme_does_not(tmp_path):
    folder = wsinfer(tmp_path / "m")
    (folder / "README.md").unlink()
    assert load_package(add_model(str(folder)).folder).document.licence == "not stated"
    assert load_package(add_model(str(folder), "n", "MIT").folder).document.licence == "MIT"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "inception_v4nobn"}, "cannot build it"),
        ({"architecture": "../evil"}, "architecture"),
        ({"num_classes": 2}, "names 3 classes and says there are 2"),
        ({"num_classes": 2, "class_names": ["a", "b"]}, "does not fit timm's test_resnet"),
        ({"spec_version": "2.0"}, "spec_version"),
        ({"transform": [{"name": "StainNormalize"}]}, "transform"),
        ({"spacing_um_px": float("nan")}, "spacing_um_px"),
    ],
)
def test_what_cannot_be_taken_over_is_said(tmp_path, library, changes, says):
    with pytest.raises(ModelUnavailableError, match=says):
        add_model(str(wsinfer(tmp_path / "m", **changes)))
    assert not library.exists()


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path):
    folder = wsinfer(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "torchscript_model.pt")
    with pytest.raises(
        ModelUnavailableError, match=r"lacks model.safetensors \(torchscript_model.pt\).*save_file"
    ):
        add_model(str(folder))


def test_weights_that_are_none_are_named(tmp_path):
    folder = wsinfer(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"not a header at all")
    with pytest.raises(ModelUnavailableError, match="is no safetensors file"):
        add_model(str(folder))


def test_a_link_in_a_folder_of_wsinfer_is_refused(tmp_path):
    folder = wsinfer(tmp_path / "m")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelUnavailableError, match="link that leaves"):
        add_model(str(folder))


def test_the_user_s_folder_is_used_where_none_is_stated(monkeypatch, tmp_path):
    monkeypatch.delenv("COVERSLIP_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if sys.platform.startswith("linux"):
        assert library_folder() == tmp_path / "coverslip/models"
