"""Every form of a bundle's model answers its golden requests alike."""

import json
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import deeprec
from deeprec import bundle, folder
from deeprec.config import ExportConfig
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, IntegrityError
from deeprec.export import export
from deeprec.golden import Trained, golden_answer
from deeprec.model import compact
from deeprec.serve import same_answer
from deeprec.train import train
from deeprec.trainer import rebuilt
from recommender_contract import jagged
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


def test_a_program_of_torch_export_is_there_and_was_asked(made: Path) -> None:
    assert (made / bundle.PROGRAM).is_file()
    signature = json.loads((made / "signature.json").read_text())
    assert signature[bundle.PROGRAM].startswith("as forward, in this order: item_ids, offsets")


def test_a_program_answers_batches_as_the_model_does_and_refuses_what_it_refuses(
    made: Path,
) -> None:
    program = torch.export.load(made / bundle.PROGRAM).module()
    opened = deeprec.load(made)
    draw = random.Random(0)
    for users in (0, 1, 2, 70):
        rows = [[draw.randrange(24) for _ in range(draw.randrange(6))] for _ in range(users)]
        items, offsets = jagged(rows)
        denied, allowed = jagged([[draw.randrange(24)] for _ in rows]), jagged([[3, 9, 11]] * users)
        yes, none = torch.tensor(True), torch.zeros(0, dtype=torch.int64)
        fields = len(opened.fields)
        given = items, offsets, torch.zeros(len(items)), [none] * fields
        ends = [torch.zeros(users + 1, dtype=torch.int64)] * fields
        found = program(*given, ends, 7, yes, *denied, yes, *allowed)
        expected = opened.rank(
            items, offsets, k=7, exclude_seen=True, denied=denied, allowed=allowed
        )
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"item_ids must lie in \[0, 24\)"):
        program(items + 24, *given[1:], ends, 7, yes, *denied, yes, *allowed)
    with pytest.raises(RuntimeError, match="offsets of item_ids must start at 0"):
        program(items[:-1], offsets, given[2][:-1], given[3], ends, 7, yes, *denied, yes, *allowed)


def test_a_program_names_no_place(made: Path) -> None:
    with zipfile.ZipFile(made / bundle.PROGRAM) as archive:
        for name in archive.namelist():
            assert str(Path(deeprec.__file__).parent).encode() not in archive.read(name), name


def test_a_model_that_torch_export_cannot_follow_says_so(
    prepared: Prepared, tmp_path: Path
) -> None:
    run = train(settings(prepared.path, tmp_path / "run", "model=ials", "trainer.max_epochs=1"))
    opened = export(ExportConfig(str(run), str(tmp_path / "bundle")))
    signature = json.loads((opened / "signature.json").read_text())
    assert "torch.export cannot follow Ials" in signature[bundle.PROGRAM]
    assert not (opened / bundle.PROGRAM).exists()


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


PRECISIONS = [("int8", False), ("bfloat16", False), ("float32", True)]


@pytest.fixture(scope="module")
def run(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of some width, so that a row is wider than its scale."""
    place = tmp_path_factory.mktemp("precision") / "run"
    return train(settings(prepared.path, place, "model.hidden_dims=[64]", "trainer.max_epochs=2"))


@pytest.mark.parametrize(("precision", "scan"), PRECISIONS)
def test_a_narrow_table_answers_alike_and_says_what_it_costs(
    run: Path, tmp_path: Path, precision: str, scan: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ExportConfig(
        str(run), str(tmp_path / "bundle"), precision=precision, scan=scan, program=False
    )
    opened = deeprec.load(export(config))
    assert list(opened.golden()) == []
    table = opened.policy["catalog_table"]
    assert (table["precision"], table["scanned_first"]) == (precision, precision != "bfloat16")
    assert table["price"]["ndcg_after"] == pytest.approx(table["price"]["ndcg_before"], rel=0.01)
    narrower = table["before"]["table_bytes"] / table["after"]["table_bytes"]
    assert narrower == pytest.approx({"int8": 3.4, "bfloat16": 2, "float32": 0.77}[precision], 0.02)
    assert f"precision={precision}: on validation ndcg@100 0." in capsys.readouterr().out


def test_a_precision_that_costs_too_much_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarse(rows: torch.Tensor, precision: str) -> torch.Tensor:
        return -rows

    monkeypatch.setattr(compact, "rounded", coarse)
    config = ExportConfig(str(run), str(tmp_path / "bundle"), precision="int8", max_loss=0.0)
    with pytest.raises(IntegrityError, match=r"of ndcg@100 on validation, and may lose 0\.00%"):
        export(config)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_catalog_table_has_no_precision(
    prepared: Prepared, tmp_path: Path
) -> None:
    run = train(settings(prepared.path, tmp_path / "run", "model=ease"))
    with pytest.raises(ConfigError, match="has no catalog table"):
        export(ExportConfig(str(run), str(tmp_path / "bundle"), precision="int8"))
