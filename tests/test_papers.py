"""What goes with a bundle says what is so, and of what is not known that it is not."""

import importlib.util
import json
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import deeprec
from deeprec import export
from deeprec.config import compose
from deeprec.golden import Trained
from deeprec.papers import sbom
from deeprec.prepare import prepare
from deeprec.recommend import recommend
from deeprec.train import train
from deeprec.verb import ExportConfig, PrepareConfig, RecommendConfig
from small_shop import composed
from standin import FIELDS, StandIn, prepared_folder

CONFIG = {
    "seed": 7,
    "model": {"_target_": "standin.StandIn"},
    "trainer": {"token": "a secret"},
    "prepared": "/home/someone/prepared",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("papers")
    prepared = prepared_folder(place / "prepared")
    figures = {f"{name}@{k}": {"mean": k / 100} for name in ("ndcg", "recall") for k in (20, 50)}
    report = {"headline": 20, "systems": [{"name": "stand-in", "metrics": figures}]}
    (place / "report.json").write_text(json.dumps(report))
    trained = Trained(
        StandIn(30, FIELDS),
        FIELDS,
        prepared,
        {"checkpoint_identity": "c0ffee" * 10},
        place / "report.json",
        config=CONFIG,
        environment={"packages": {"torch": "2.13.0"}},
    )
    (place / "terms").write_text("do as you like")
    trained = replace(trained, texts={"LICENSE": place / "terms"})
    export.write(place / "books" / "1", trained, golden_users=3, compare_users=5)
    return place / "books" / "1"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_provenance_holds_the_settings_and_nothing_else_of_the_config(made: Path) -> None:
    told = read(made / "provenance.json")
    assert told["settings"]["seed"] == 7
    assert told["settings"]["model"] == {"_target_": "standin.StandIn"}
    assert told["settings"]["loss"] is None
    assert told["made_from"]["checkpoint_identity"] == "c0ffee" * 10
    assert told["trained_with"] == {"packages": {"torch": "2.13.0"}}
    assert told["written_with"]["torch"] == version("torch")
    text = (made / "provenance.json").read_text()
    assert "secret" not in text
    assert "/home" not in text


def test_the_config_is_there_without_places_and_trackers(made: Path) -> None:
    told = yaml.safe_load((made / "train_config.yaml").read_text())
    assert (told["seed"], told["model"]) == (7, {"_target_": "standin.StandIn"})
    assert not {"trainer", "prepared", "logger"} & {*told}


def test_a_licence_goes_along_and_the_card_says_so(made: Path) -> None:
    assert (made / "LICENSE").read_text() == "do as you like"
    assert "license: other" in (made / "MODEL_CARD.md").read_text()


def test_a_numbered_version_is_called_as_its_folder_is(made: Path) -> None:
    for name in ("README.md", "MODEL_CARD.md"):
        assert "\n# books\n" in "\n" + (made / name).read_text()
    assert deeprec.load(made.parent).path == made


def test_privacy_counts_the_histories_that_goldens_hold(made: Path) -> None:
    told = read(made / "privacy.json")
    assert told["golden_requests"]["histories_of_persons"] == 3
    assert told["fewest_training_users_of_an_item"] == 1
    assert told["attribute_values"] == {"age": "held as text", "town": "held as text"}
    assert told["consent"] is None


def test_what_makes_a_history_is_told_and_recommend_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    pairs = np.unique(draw.integers(0, 30, (300, 2)), axis=0).T.astype(str).tolist()
    values = draw.integers(1, 6, len(pairs[0])).tolist()
    events = pa.table({"user_id": pairs[0], "item_id": pairs[1], "value": values})
    pq.write_table(events, tmp_path / "events.parquet")
    words = ["data=table", f"data.events={tmp_path}/events.parquet", "data.value=value"]
    words += ["split=random_fraction", "data.filters.minimum_value=4"]
    prepare(cast(PrepareConfig, compose("prepare", [*words, f"output_dir={tmp_path}/prepared"])))
    run = train(
        composed(tmp_path / "prepared", tmp_path / "run", "model=popularity", "logger.wandb=off")
    )
    made = export.export(ExportConfig(str(run), str(tmp_path / "bundle")))
    told = read(made / "preprocess.json")
    assert (told["read_by"], told["events_kept"]) == ("table", {"minimum_value": 4})
    asked = [str(made), f"{tmp_path}/events.parquet", f"{tmp_path}/lists.parquet"]
    recommend(RecommendConfig(*asked))
    assert "trained on events of minimum_value 4 alone" in capsys.readouterr().out


def test_the_card_says_what_is_known_and_asks_for_the_rest(made: Path) -> None:
    card = (made / "MODEL_CARD.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "other"
    assert "| stand-in | ndcg@20 | 0.2000 |\n| stand-in | recall@20 | 0.2000 |\n\n" in card
    assert "**Catalog**: 30 items" in card
    assert "events before 2023-05-25" in card  # 15,000,000 seconds before 2023-11-14
    assert "**Intended use**: not known to deeprec" in card


def test_software_is_listed_with_what_it_needs(made: Path) -> None:
    told = read(made / "sbom.cdx.json")
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.5")
    by_name = {one["name"]: one for one in told["components"]}
    assert by_name["torch"]["version"] == version("torch")
    scopes = {name: by_name[name]["scope"] for name in ("torch", "pyarrow", "sympy", "lightning")}
    assert scopes == dict(
        zip(
            ("torch", "pyarrow", "sympy", "lightning"), ["required"] * 3 + ["excluded"], strict=True
        )
    )
    references = [one["bom-ref"] for one in told["components"]]
    assert len(references) == len(set(references))
    for entry in told["dependencies"]:
        assert {*entry["dependsOn"]} <= {*references}
    assert by_name["torch"]["bom-ref"] in told["dependencies"][0]["dependsOn"]


def test_every_locked_component_has_the_hashes_of_its_lock(made: Path) -> None:
    locks = Path(__file__).parents[1] / "requirements"
    lines = (locks / "cuda.lock").read_text().split("numpy==")[1].partition("\n")[2]
    one = re.match(r"\s+--hash=sha256:(\w+)", lines)
    assert one is not None
    told = read(made / "sbom.cdx.json")
    by_name = {part["name"]: part for part in told["components"]}
    [held] = by_name["numpy"]["properties"]
    assert one[1] in held["value"].split()
    assert sbom.locked_hashes(locks / "nowhere") == {}


def test_mlflow_finds_a_loader_without_pickle(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flavor = yaml.safe_load((made / "MLmodel").read_text())["flavors"]["python_function"]
    path = made / flavor["code"] / f"{flavor['loader_module']}.py"
    spec = importlib.util.spec_from_file_location("served_by_mlflow", path)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    model = loader._load_pyfunc(str(made))
    found = model.predict({"item_ids": [["003", "007"], []]}, {"k": 4})
    assert [len(items) for items in found] == [4, 4]
    needed = (made / "requirements-serve.txt").read_text().splitlines()
    assert needed == [f"torch=={version('torch').split('+')[0]}", f"pyarrow=={version('pyarrow')}"]


@pytest.fixture(scope="module")
def in_triton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("triton")
    prepared = prepared_folder(place / "prepared")
    trained = Trained(StandIn(30, FIELDS), FIELDS, prepared, {}, triton=True)
    export.write(place / "books", trained, golden_users=3, compare_users=5)
    return place / "books"


def test_triton_asks_in_tensors_what_others_ask(in_triton: Path) -> None:
    model = torch.jit.load(str(in_triton / "triton" / "books" / "1" / "model.pt"))
    opened = deeprec.load(in_triton)
    none = torch.tensor([-1])
    found = model(
        torch.tensor([3, 7, -1, 12, -1]),
        torch.tensor([0, 2, 4, 5], dtype=torch.int32),
        torch.tensor([9.0, 2.0, 0.0, 1.0, 0.0]),
        torch.tensor([[5], [3], [5]]),
        torch.tensor([[True], [False], [True]]),
        torch.tensor([4, 8, -1, -1]),
        torch.tensor([0, 2, 3, 4], dtype=torch.int32),
        torch.tensor([[1], [-1], [2]]),
        torch.tensor([[-1], [0], [1]]),
    )
    for row, (items, ages, seen, denied, age, town) in enumerate(
        [
            ([3, 7], [9.0, 2.0], True, [4, 8], [1], []),
            ([12], [1.0], False, [], [], [0]),
            ([], [], True, [], [2], [1]),
        ]
    ):
        expected = opened.rank(
            *rows_of(items),
            torch.tensor(ages),
            {"age": rows_of(age), "town": rows_of(town)},
            k=5,
            exclude_seen=seen,
            denied=rows_of(denied),
        )
        assert found[0][row].tolist() == expected[0][0].tolist()
        torch.testing.assert_close(found[1][row], expected[1][0], rtol=1e-5, atol=1e-6)
    with pytest.raises(torch.jit.Error, match="offsets must start at 0"):
        model(none, torch.tensor([0, 5]), torch.zeros(1), *[torch.ones(1, 1).long()] * 2, none,
              torch.tensor([0, 1]), none[None], none[None])  # fmt: skip


def rows_of(values: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(values, dtype=torch.int64), torch.tensor([0, len(values)])


def test_the_config_for_triton_names_the_inputs_in_their_order(in_triton: Path) -> None:
    place = in_triton / "triton" / "books"
    text = (place / "config.pbtxt").read_text()
    model = torch.jit.load(str(place / "1" / "model.pt"))
    arguments = [one.name for one in model.forward.schema.arguments][1:]
    expected = [f"{name}__{n}" for n, name in enumerate(arguments)]
    inputs, made = text.split("batch_input [")
    named = re.findall(r'name: "(\w+__\d+)"', inputs)
    generated = re.findall(r'target_name: "(\w+__\d+)"', made)
    assert sorted([*named, *generated]) == sorted(expected)
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")
    assert set(re.findall(r'key: "(\w+__\d+)"', text)) == {*named}  # of each warm-up
    assert (place / "warmup" / "k").read_bytes() == (10).to_bytes(8, "little")
    service = yaml.safe_load((in_triton / "kserve.yaml").read_text())
    assert service["spec"]["predictor"]["model"]["protocolVersion"] == "v2"
