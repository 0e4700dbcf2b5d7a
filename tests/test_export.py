"""A bundle says what it was made from and nothing of any person, or it is not written at all."""

import json
import re
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import deeprec
from deeprec import bundle, export
from deeprec.batch import Encoded
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, DeeprecError, IntegrityError
from deeprec.forms import foreign_operations
from deeprec.golden import Trained
from standin import (
    FIELDS,
    INSTANT,
    StandIn,
    StandInEncoder,
    bundle_folder,
    prepared_folder,
    trained,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared_folder(tmp_path_factory.mktemp("export") / "prepared")


class Otherwise(nn.Module):
    """An encoder that says something else of one user in a batch of many."""

    def __init__(self, encoder: StandInEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        encoded = self.encoder(items_N, offsets_B1, ages_N, attribute_values, attribute_offsets)
        hidden_BD = encoded.hidden_BD.clone()
        hidden_BD[-1] += 0.01
        return Encoded(
            hidden_BD,
            encoded.repeat_items_M,
            encoded.repeat_offsets_B1,
            encoded.repeat_scores_M,
        )


class Unlike(StandIn):
    def serving_encoder(self) -> nn.Module:
        return Otherwise(self.encoder)


class Foreign(nn.Module):
    """An encoder with an operation that torch alone does not have."""

    def forward(self, items_N: Tensor) -> Tensor:
        return torch.ops.standin.twice(items_N)  # type: ignore[no-any-return]


def test_an_export_that_answers_otherwise_is_refused_and_leaves_nothing(
    prepared: Prepared, tmp_path: Path
) -> None:
    unlike = Trained(Unlike(prepared.num_items, FIELDS), FIELDS, prepared, {})
    with pytest.raises(IntegrityError, match=r"does not answer as the evaluated one.*for the user"):
        export.write(tmp_path / "bundle", unlike)
    assert list(tmp_path.iterdir()) == []


def test_operations_that_torch_alone_does_not_have_are_named() -> None:
    library = torch.library.Library("standin", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    assert foreign_operations(torch.jit.script(Foreign())) == ["standin::twice"]


def test_something_else_in_the_way_is_kept(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("ten years")
    with pytest.raises(ConfigError, match="did not finish"):
        export.write(tmp_path, trained(prepared))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_an_export_says_what_it_is_at(
    prepared: Prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deeprec.forms.save_program", lambda draft, asked: None)
    export.write(
        tmp_path / "bundle", trained(prepared), golden_users=3, compare_users=5, program=True
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "comparing exported with evaluated answers: 5 users"
    assert re.fullmatch(r"answering golden requests: \d+ requests", lines[1])
    assert lines[2].startswith("writing model.pt2 by torch.export; program=false leaves it out")


def test_a_bundle_names_no_user_and_no_place(tmp_path: Path) -> None:
    made = bundle_folder(tmp_path / "bundle")
    source = str(Path(deeprec.__file__).parent).encode()
    for path in made.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert re.search(rb"person \d", content) is None, path
            assert source not in content, path
            assert str(tmp_path).encode() not in content, path
    names = zipfile.ZipFile(made / "model.pt").namelist()
    assert not [name for name in names if "debug" in name]


def test_a_bundle_says_what_it_was_made_from(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"systems": []}')
    made = Trained(
        StandIn(30, FIELDS), FIELDS, prepared, {"checkpoint": "c0ffee"}, tmp_path / "report.json"
    )
    export.write(tmp_path / "bundle", made, golden_users=3, compare_users=5)
    manifest = bundle.verify(tmp_path / "bundle")
    assert manifest["made_from"] == {"checkpoint": "c0ffee", "prepared": prepared.identity}
    assert manifest["versions"]["torch"] == torch.__version__
    assert json.loads((tmp_path / "bundle" / "eval.json").read_text()) == {"systems": []}
    catalog = pq.read_table(tmp_path / "bundle" / "catalog.parquet")
    assert catalog.column_names == ["item_index", "item_id", "name"]
    assert catalog["item_id"].to_pylist() == prepared.catalog.item_ids.to_pylist()
    assert catalog["item_index"].to_pylist() == list(range(30))
    policy = json.loads((tmp_path / "bundle" / "policy.json").read_text())
    assert policy["exclude_seen"] is False  # its prepared folder lets items repeat


def test_the_signature_names_the_arguments_of_the_model_in_order(tmp_path: Path) -> None:
    made = bundle_folder(tmp_path / "bundle")
    signature = json.loads((made / "signature.json").read_text())
    model = torch.jit.load(str(made / "model.pt"))
    arguments = [argument.name for argument in model.forward.schema.arguments]
    assert ["self", *(entry["name"] for entry in signature["inputs"])] == arguments
    assert [entry["name"] for entry in signature["inputs"][3]["fields"]] == ["age", "town"]
    assert signature["by_id"] is None  # its ids are text that looks like numbers


def test_where_ids_are_whole_numbers_the_model_takes_them(tmp_path: Path) -> None:
    prepared = prepared_folder(tmp_path / "prepared", ids=[7 * n - 20 for n in range(30)])
    export.write(tmp_path / "bundle", trained(prepared), golden_users=3, compare_users=5)
    signature = json.loads((tmp_path / "bundle" / "signature.json").read_text())
    assert "model.by_id" in signature["by_id"]
    opened = deeprec.load(tmp_path / "bundle")
    expected = opened.recommend([["-13", "8", "9"]], k=4)[0]
    model = torch.jit.load(str(tmp_path / "bundle" / "model.pt"))
    nothing = torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])
    ids, scores = model.by_id(
        torch.tensor([-13, 8, 9]),
        torch.tensor([0, 3]),
        torch.zeros(0),
        [nothing[0]] * 2,
        [nothing[1]] * 2,
        4,
        False,
        *nothing,
    )
    assert [str(n) for n in ids[0].tolist()] == expected.item_ids
    assert scores[0].tolist() == pytest.approx(expected.scores)


def test_golden_requests_hold_the_judged_histories_and_the_edges(
    prepared: Prepared, tmp_path: Path
) -> None:
    export.write(tmp_path / "bundle", trained(prepared), golden_users=50)
    lines = (tmp_path / "bundle" / "golden" / "requests.jsonl").read_text().splitlines()
    requests = [json.loads(line) for line in lines]
    users = prepared.judged_users("holdout")
    history = prepared.history(users, "holdout")
    assert len(requests) == len(users) + 11
    for place in range(len(users)):
        events = slice(*history.offsets[place : place + 2])
        assert requests[place]["item_ids"] == prepared.catalog.ids_of(history.items[events])
        assert history.times is not None
        seconds = INSTANT - history.times[events]
        assert requests[place]["ages"] == pytest.approx((seconds / 86_400).tolist())
    edges = {request["name"]: request for request in requests[len(users) :]}
    assert edges["nothing is known"]["item_ids"] == []
    assert edges["more than there are"]["k"] == 35
    assert edges["an item is unknown"]["item_ids"][-1] not in prepared.catalog.item_ids.to_pylist()
    assert {request["exclude_seen"] for request in edges.values()} == {True, False}


@pytest.mark.parametrize("num_items", [1, 2])
def test_the_smallest_catalogs_export(num_items: int, tmp_path: Path) -> None:
    made = bundle_folder(tmp_path / "bundle", num_items=num_items)
    opened = deeprec.load(made)
    assert list(opened.golden()) == []
    assert (
        opened.recommend([["000"]], k=3, exclude_seen=True)[0].item_ids == ["001"][: num_items - 1]
    )


def test_without_times_and_attributes_a_bundle_answers_too(tmp_path: Path) -> None:
    prepared = prepared_folder(tmp_path / "prepared", times=False)
    export.write(tmp_path / "bundle", trained(prepared, {}), golden_users=3)
    opened = deeprec.load(tmp_path / "bundle")
    assert (opened.fields, opened.policy["uses_times"]) == ([], False)
    assert list(opened.golden()) == []


def test_a_broken_off_export_does_not_verify(tmp_path: Path) -> None:
    made = bundle_folder(tmp_path / "bundle")
    (made / "manifest.json").unlink()
    with pytest.raises(DeeprecError, match="not a finished bundle folder"):
        bundle.verify(made)
