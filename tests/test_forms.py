"""Every form of a bundle's model answers its golden requests alike."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import deeprec
from deeprec import bundle, folder
from deeprec.config import ExportConfig
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, IntegrityError
from deeprec.export import Trained, export, golden_answer
from deeprec.serve import same_answer
from deeprec.train import train
from deeprec.trainer import rebuilt
from small_shop import make, settings
from standin import bundle_folder

MODELS = ("autoencoder", "ease")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(make(tmp_path_factory.mktemp("forms") / "prepared"))


@pytest.fixture(scope="module", params=MODELS)
def made(
    request: pytest.FixtureRequest, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle of each kind of model."""
    place = tmp_path_factory.mktemp(request.param)
    words = ["trainer.max_epochs=1"] if request.param == "autoencoder" else ["model=ease"]
    run = train(settings(prepared.path, place / "run", *words))
    return export(ExportConfig(str(run), str(place / "bundle")))


def test_the_weights_without_code_answer_alike(made: Path, prepared: Prepared) -> None:
    opened = deeprec.load(made)
    model = rebuilt.rebuild(made)
    again = Trained(model, {name: 1 for name in opened.fields}, prepared, {})
    requests, expected = (
        bundle.read_lines(made / name) for name in (bundle.GOLDEN_REQUESTS, bundle.GOLDEN_EXPECTED)
    )
    assert len(requests) == 50 + 11
    for request, truth in zip(requests, expected, strict=True):
        found = golden_answer(again, request)
        assert same_answer(found["items"], found["scores"], truth["items"], truth["scores"])


def test_other_weights_are_not_taken(made: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    content = bytearray((copied / bundle.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copied / bundle.WEIGHTS).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        rebuilt.rebuild(copied)


def test_weights_of_another_model_are_named(made: Path, tmp_path: Path) -> None:
    for name in (bundle.WEIGHTS, bundle.ARCHITECTURE):
        shutil.copy(made / name, tmp_path)
    tensors = load_file(tmp_path / bundle.WEIGHTS)
    save_file({**tensors, "more": tensors["item_bias"].clone()}, tmp_path / bundle.WEIGHTS)
    with pytest.raises(IntegrityError, match="more is only on one side"):
        rebuilt.built(tmp_path)


def test_a_model_outside_trusted_packages_is_not_built(made: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    described = json.loads((copied / bundle.ARCHITECTURE).read_text())
    described["model"]["_target_"] = "os.system"
    (copied / bundle.ARCHITECTURE).write_text(json.dumps(described))
    folder.seal(copied, bundle.KIND, {})
    with pytest.raises(ConfigError, match=r"os\.system is outside"):
        rebuilt.rebuild(copied)


def test_without_weights_a_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no architecture\.json"):
        rebuilt.rebuild(bundle_folder(tmp_path / "bundle"))
