"""Lists of a bundle: everybody's, whole, exact in their ids, and equal to what was evaluated."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import deeprec
from deeprec import export
from deeprec import recommend as verb
from deeprec.batch import Jagged
from deeprec.config import compose
from deeprec.data import store
from deeprec.data.judge import judged_batch
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, DataError, IntegrityError
from deeprec.evaluate import evaluate
from deeprec.golden import Trained
from deeprec.listing.answering import LISTS, Histories
from deeprec.listing.row_groups import RowGroups, held
from deeprec.model.rank import rank
from deeprec.prepare import prepare
from deeprec.recommend import recommend
from deeprec.train import train
from deeprec.verb import EvaluateConfig, ExportConfig, RecommendConfig
from standin import FIELDS, INSTANT, StandIn, bundle_folder, of_lists

DAY = 86_400
Lists = dict[str, tuple[list[str], list[float]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_folder(tmp_path_factory.mktemp("recommend") / "bundle", num_users=70)


@pytest.fixture
def prepared(made: Path) -> Prepared:
    return Prepared(made.with_name("bundle-prepared"))


def lists_of(made: Path, histories: Path | str, output: Path, **options: Any) -> Lists:
    config = RecommendConfig(str(made), str(histories), str(output), **options)
    assert recommend(config) == output
    table = pq.read_table(output, page_checksum_verification=True)
    assert table.schema.equals(LISTS)
    return {row["user_id"]: (row["item_ids"], row["scores"]) for row in table.to_pylist()}


def same(ours: Lists, theirs: Lists) -> None:
    assert list(ours) == list(theirs)
    for user, (item_ids, scores) in ours.items():
        assert item_ids == theirs[user][0]
        assert scores == pytest.approx(theirs[user][1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("exclude_seen", [None, True])
def test_a_prepared_folder_is_answered_as_it_is_evaluated(
    made: Path,
    prepared: Prepared,
    tmp_path: Path,
    exclude_seen: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Path] = []  # whose files are all read to be compared with their hashes

    def noted(path: Path) -> Prepared:
        opened.append(path)
        return Prepared(path)

    monkeypatch.setattr(verb, "Prepared", noted)
    users = prepared.judged_users("holdout")
    model, batch = StandIn(30, FIELDS), judged_batch(prepared, users, "holdout")
    items, scores = rank(model, batch, 7, bool(exclude_seen))
    expected = {
        prepared.users["user_id"][user].as_py(): (prepared.catalog.ids_of(row), score.tolist())
        for user, row, score in zip(users.tolist(), items, scores, strict=True)
    }
    ours = lists_of(
        made, prepared.path, tmp_path / "lists.parquet", k=7, exclude_seen=exclude_seen,
        batch_users=16,
    )  # fmt: skip
    same(ours, expected)
    assert opened == [prepared.path]


def write_events(prepared: Prepared, users: Any, path: Path) -> None:
    """The histories of a prepared folder as an event log, its rows in any order."""
    history = prepared.history(users, "holdout")
    assert history.times is not None
    names = prepared.users["user_id"].take(pa.array(users)).to_numpy()
    order = np.random.default_rng(0).permutation(len(history.items))
    table = pa.table(
        {
            "user_id": np.repeat(names, history.lengths)[order],
            "item_id": np.array(prepared.catalog.ids_of(history.items))[order],
            "time": history.times[order],
        }
    )
    pq.write_table(table, path)


def test_events_are_answered_as_the_folder_prepared_from_them(
    tmp_path: Path, prepared: Prepared
) -> None:
    """With a bundle without user attributes, which an event log does not hold."""
    plain = Trained(StandIn(30, {}), {}, prepared, {})
    export.write(tmp_path / "plain", plain, golden_users=1, compare_users=5)
    users = prepared.judged_users("holdout")
    write_events(prepared, users, tmp_path / "events.parquet")
    of_folder = lists_of(tmp_path / "plain", prepared.path, tmp_path / "a.parquet", k=6)
    of_events = lists_of(
        tmp_path / "plain", tmp_path / "events.parquet", tmp_path / "b.parquet", k=6,
        now=str(INSTANT),
    )  # fmt: skip
    with_events = {user: of_folder[user] for user in sorted(of_events)}
    same(of_events, with_events)
    assert len(with_events) > 50


@pytest.mark.parametrize("rows_at_once", [1, 5, 10_000])
@pytest.mark.parametrize("batch_users", [1, 4, 256])
def test_however_the_stream_is_cut_the_answers_are_those_of_the_client(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows_at_once: int,
    batch_users: int,
) -> None:
    draw = np.random.default_rng(1)
    histories = {
        f"u{user:02}": [
            (f"{draw.integers(35):03}", int(draw.integers(100)) * DAY)
            for _ in range(draw.integers(1, 9))
        ]
        for user in range(20)
    }
    lines = [f"{user},{item},{when}" for user, row in histories.items() for item, when in row]
    draw.shuffle(lines)
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,time", *lines]) + "\n")
    monkeypatch.setattr(verb, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(verb, "ROW_GROUP", 30)
    ours = lists_of(
        made, tmp_path / "events.csv", tmp_path / "out.parquet", k=5, now=f"{100 * DAY}",
        batch_users=batch_users,
    )  # fmt: skip
    by_item = {user: sorted(row) for user, row in histories.items()}
    answers = deeprec.load(made).recommend(by_item, k=5, now=100 * DAY)
    same(ours, {str(answer.user_id): (answer.item_ids, answer.scores) for answer in answers})
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups > 1


def test_ids_are_exact_and_users_without_known_items_are_answered(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = "customer\tsku\n007\t003\n7\t3\n07\t\n\t004\n"
    (tmp_path / "events.tsv").write_text(events)
    ours = lists_of(
        made, tmp_path / "events.tsv", tmp_path / "out.parquet", user="customer", item="sku", k=50
    )
    assert list(ours) == ["007", "07", "7"]
    assert ours["7"] == ours["07"] != ours["007"]
    assert sorted(ours["7"][0]) == [f"{n:03}" for n in range(30)]  # fewer than k, without padding
    assert "2 of 3 events" in capsys.readouterr().out.replace("\n", " ")


def test_the_moment_of_prediction_is_the_latest_event_unless_it_is_said(
    made: Path, tmp_path: Path
) -> None:
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,when\na,003,2020-01-01\na,004,\nb,003,2020-03-01\n"
    )
    ours = lists_of(made, tmp_path / "events.csv", tmp_path / "o.parquet", time="when", k=4)
    client = deeprec.load(made)
    histories = {"a": [("003", 0)], "b": [("003", 60 * DAY)]}
    answers = client.recommend(histories, k=4, now=60 * DAY)
    same(ours, {str(answer.user_id): (answer.item_ids, answer.scores) for answer in answers})
    (tmp_path / "events.csv").write_text(
        "user_id;item_id;when\na;003;1.1.2020\na;004;\nb;003;1.3.2020\n"
    )
    told = {"time": "when", "time_format": "%d.%m.%Y", "delimiter": ";"}
    assert lists_of(made, tmp_path / "events.csv", tmp_path / "e.parquet", k=4, **told) == ours
    later = lists_of(
        made, tmp_path / "events.csv", tmp_path / "l.parquet", k=4, now="2021-01-01", **told
    )
    assert later != ours


def test_items_and_attributes_are_matched_by_name_not_by_index(
    made: Path, prepared: Prepared, tmp_path: Path
) -> None:
    """A folder prepared later, with other items and values, in other places."""
    other = tmp_path / "other"
    vocabularies = {"town": ["b", "c", "a"], "age": ["ärter", "young", "old"], "hat": ["red"]}
    places = np.array([prepared.num_items - 1 - n for n in range(prepared.num_items)])
    parts = {}
    for name in store.PARTS:
        events = prepared.parts[name].take(np.arange(prepared.num_users))
        parts[name] = [
            store.Events(events.offsets, places[events.items].astype(np.int32), times=events.times)
        ]
    users = prepared.users.append_column("hat", pa.array(["red"] * prepared.num_users))
    store.write(
        other,
        items=prepared.items.take(pa.array(places)),
        users=users,
        vocabularies=vocabularies,
        parts=parts,
        contract={},
        manifest={key: prepared.manifest[key] for key in ("repeats", "instants")},
    )
    same(
        lists_of(made, other, tmp_path / "a.parquet"),
        lists_of(made, prepared.path, tmp_path / "b.parquet"),
    )


def test_the_file_says_which_bundle_answered_and_how(made: Path, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id\na,003\n")
    lists_of(made, tmp_path / "events.csv", tmp_path / "out.parquet", k=3)
    about = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"deeprec"])
    assert (about["k"], about["exclude_seen"], len(about["bundle"])) == (3, False, 64)


def test_nothing_is_written_into_the_bundle_that_answers(made: Path) -> None:
    bundle = made / "bundle"
    with pytest.raises(ConfigError, match=r"would lie inside .*bundle, a finished bundle folder"):
        lists_of(made, made / "prepared", bundle / "lists.parquet")


def test_lists_hold_allowed_items_alone_as_those_of_the_client_do(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id\na,003\na,007\nb,001\nc,\n")
    allowed = ["021", "003", "nobody knows this", "009"]
    (tmp_path / "shelf.txt").write_text("\n".join(["sku", *allowed, "009", ""]) + "\n")
    ours = lists_of(
        made, tmp_path / "events.csv", tmp_path / "o.parquet", allowed=str(tmp_path / "shelf.txt"),
        exclude_seen=True, k=9,
    )  # fmt: skip
    assert {item for item_ids, _ in ours.values() for item in item_ids} == {"003", "009", "021"}
    histories = {"a": ["003", "007"], "b": ["001"], "c": []}
    answers = deeprec.load(made).recommend(histories, k=9, allowed=allowed, exclude_seen=True)
    same(ours, {str(answer.user_id): (answer.item_ids, answer.scores) for answer in answers})
    assert "does not know 1 of 4 items" in capsys.readouterr().out.replace("\n", " ")


def test_denied_items_are_in_no_list_and_who_is_not_named_has_none(
    made: Path, prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def file(name: str, *lines: str) -> str:
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    times = {"a": 5 * DAY, "b": 9 * DAY, "c": 2 * DAY}
    events = file("events.csv", "user_id,item_id,time", *(f"{u},003,{t}" for u, t in times.items()))
    output, denied = tmp_path / "o.parquet", ["021", "nobody knows this", "009"]
    told: dict[str, Any] = {"k": 30, "denied": file("denied.txt", "sku", *denied)}
    ours = lists_of(made, events, output, users=file("u.txt", "who", "c", "a", "x"), **told)
    histories = {user: [("003", times[user])] for user in "ac"}
    answers = deeprec.load(made).recommend(histories, k=30, denied=denied, now=9 * DAY)
    same(ours, {str(answer.user_id): (answer.item_ids, answer.scores) for answer in answers})
    said = capsys.readouterr().out.replace("\n", " ")
    assert "does not know 1 of 3 items" in said
    assert "does not know 1 of 3 users" in said

    judged = prepared.users["user_id"].take(prepared.judged_users("holdout").tolist()).to_pylist()
    named = file("judged.txt", "user_id", *judged[2:9:3])
    assert list(lists_of(made, prepared.path, output, users=named)) == sorted(judged[2:9:3])
    with pytest.raises(DataError, match=r"'b' is one of the users of .*; write user_id above it"):
        lists_of(made, events, output, users=file("v.txt", "b", "c"))
    shelf = file("shelf.txt", "sku", "009", "004")
    config = RecommendConfig(str(made), events, str(output), allowed=shelf, **told)
    left = verb.allowed_items(config, deeprec.load(made))
    assert left is not None
    assert left.tolist() == [4]
    with pytest.raises(DataError, match="denies every item that may be answered"):
        verb.allowed_items(replace(config, allowed=told["denied"]), deeprec.load(made))


def test_lists_of_other_allowed_items_are_not_gone_on_with(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, shelf = many_events(tmp_path / "events.parquet", 8), tmp_path / "shelf.parquet"
    monkeypatch.setattr(verb, "ROW_GROUP", 4)
    told: dict[str, Any] = {"allowed": str(shelf), "k": 1, "batch_users": 2}
    pq.write_table(pa.table({"item_id": ["004"]}), shelf)
    with monkeypatch.context() as dying:
        dying.setattr(RowGroups, "finish", lambda groups: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lists_of(made, events, tmp_path / "o.parquet", **told)
    assert any((tmp_path / ".o.parquet.row-groups").glob("*.parquet"))
    pq.write_table(pa.table({"item_id": ["005"]}), shelf)
    ours = lists_of(made, events, tmp_path / "o.parquet", **told)
    assert [item_ids for item_ids, _ in ours.values()] == [["005"]] * 8


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("003\n004\n", "'003' is one of the items of the bundle; write item_id above it"),
        ("sku,name\n003,tea\n", "no column 'item_id' and more than one, 'sku', 'name'"),
    ],
)
def test_a_file_of_allowed_items_that_may_be_misread_is_refused(
    made: Path, tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id\na,003\n")
    (tmp_path / "shelf.csv").write_text(text)
    with pytest.raises(DataError, match=named):
        lists_of(
            made, tmp_path / "events.csv", tmp_path / "new" / "o.parquet",
            allowed=str(tmp_path / "shelf.csv"),
        )  # fmt: skip
    assert not (tmp_path / "new").exists()


def damaged(path: Path) -> None:
    content = bytearray((path / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "model.pt").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "events", "options", "error", "named"),
    [
        (damaged, "user_id,item_id\na,003\n", {}, IntegrityError, r"model\.pt"),
        (shutil.rmtree, "user_id,item_id\na,003\n", {}, ConfigError, "no such folder"),
        (None, "user_id,item\na,003\n", {}, DataError, "no column 'item_id'.*item=COLUMN"),
        (None, "user_id;item_id\na;003\n", {}, DataError, "say so: delimiter=';'"),
        (None, "user_id,item_id\na,003\n", {"time": "when"}, DataError, "no column 'when'"),
        (None, "user_id,item_id\n", {}, DataError, "no event"),
        (None, "", {}, DataError, "events.csv"),
        (None, "user_id,item_id\na,003\n", {"k": 0}, ConfigError, r"k must lie in \[1, 10000\]"),
        (None, "user_id,item_id\na,3\n", {"batch_users": 9999}, ConfigError, "batch_users must"),
        (None, "user_id,item_id,time\na,3,x\n", {}, DataError, "time"),
        (None, "user_id,item_id,time\na,3,5\n", {"now": "soon"}, ConfigError, "got 'soon'"),
    ],
)
def test_a_mistake_is_one_clear_error_and_leaves_nothing_behind(
    made: Path,
    tmp_path: Path,
    damage: Callable[[Path], None] | None,
    events: str,
    options: dict[str, Any],
    error: type[Exception],
    named: str,
) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    if damage is not None:
        damage(copy)
    (tmp_path / "events.csv").write_text(events)
    before = sorted(path.name for path in tmp_path.iterdir())
    config = RecommendConfig(
        str(copy), str(tmp_path / "events.csv"), str(tmp_path / "out.parquet"), **options
    )
    with pytest.raises(error, match=named):
        recommend(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_prepared_folder_has_its_own_moment(
    made: Path, prepared: Prepared, tmp_path: Path
) -> None:
    config = RecommendConfig(str(made), str(prepared.path), str(tmp_path / "o.parquet"), now="5")
    with pytest.raises(ConfigError, match="its own moment"):
        recommend(config)
    with pytest.raises(ConfigError, match="is a folder"):
        recommend(RecommendConfig(str(made), str(prepared.path), str(tmp_path)))


@pytest.fixture(scope="module", params=[True, False], ids=["repeats", "no repeats"])
def road(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """prepared/, run/ and bundle/, of an autoencoder that trained for a moment."""
    place = tmp_path_factory.mktemp("road")
    draw = np.random.default_rng(0)
    lines = [
        f"{draw.integers(90):02},{min(int(draw.pareto(0.7)), 39):03},{draw.integers(10**7) + 10**9}"
        for _ in range(900)
    ]
    (place / "events.csv").write_text("\n".join(["user_id,item_id,time", *lines]) + "\n")
    told = [f"data.events={place / 'events.csv'}", "data.user=user_id", "data.item=item_id"]
    told += ["data.time=time", f"data.repeats={request.param}", f"output_dir={place / 'prepared'}"]
    prepare(compose("prepare", ["data=table", *told]))
    told = [f"prepared={place / 'prepared'}", f"output_dir={place / 'run'}", "experiment=smoke"]
    train(compose("train", [*told, "trainer.max_epochs=2"]))
    bundle = compose("export", [f"run={place / 'run'}", f"output_dir={place / 'bundle'}"])
    assert export.export(bundle) == place / "bundle"
    return place


def test_lists_of_the_bundle_score_exactly_what_the_run_scores(road: Path) -> None:
    lists_of(road / "bundle", road / "prepared", road / "lists.parquet", k=20)
    told = {"prepared": str(road / "prepared"), "cutoffs": [5, 20], "baselines": []}
    run, bundle, lists = (
        evaluate(EvaluateConfig(output_dir=str(road / f"report-{key}"), **{key: place}, **told))
        for key, place in [
            ("run", str(road / "run")),
            ("bundle", str(road / "bundle")),
            ("recommendations", str(road / "lists.parquet")),
        ]
    )
    assert run["systems"][0]["metrics"]["ndcg@20"]["mean"] > 0.02
    assert of_lists(run) == of_lists(bundle) == of_lists(lists)
    assert run["protocol"]["users"] == lists["protocol"]["users"]


def test_a_trained_bundle_keeps_its_goldens_and_says_where_it_came_from(road: Path) -> None:
    opened = deeprec.load(road / "bundle")
    assert list(opened.golden()) == []
    made_from = opened.manifest["made_from"]
    assert made_from["prepared"] == Prepared(road / "prepared").identity
    assert (road / "run" / "checkpoints" / made_from["checkpoint"]).is_dir()


def test_a_run_whose_prepared_folder_is_another_now_is_not_exported(
    road: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(road / "run", tmp_path / "run"))
    (run / "manifest.json").unlink()  # an unfinished run, so that its seal is not what refuses
    origin = json.loads((run / "prepared.json").read_text())
    other = store_elsewhere(Prepared(road / "prepared"), tmp_path / "prepared")
    (run / "prepared.json").write_text(json.dumps({**origin, "path": str(other)}))
    with pytest.raises(IntegrityError, match="prepare it as it was, or train again"):
        export.export(ExportConfig(str(run), str(tmp_path / "bundle"), program=False))
    assert not (tmp_path / "bundle").exists()


def store_elsewhere(prepared: Prepared, path: Path) -> Path:
    """The same folder without a holdout: other content, so another identity."""
    every = np.arange(prepared.num_users)
    parts = {name: [prepared.parts[name].take(every)] for name in store.PARTS}
    no_user = np.zeros(len(every) + 1, np.int64)
    nothing = store.Events(no_user, np.zeros(0, np.int32), times=np.zeros(0, np.int64))
    store.write(
        path,
        items=prepared.items,
        users=prepared.users,
        vocabularies=prepared.vocabularies,
        parts={**parts, "holdout": [nothing]},
        contract={},
        manifest={key: prepared.manifest[key] for key in ("repeats", "instants")},
    )
    return path


def test_a_model_is_shown_each_users_events_oldest_first(made: Path, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,time\nb,005,3\na,003,9\na,007,1\nb,001,2\na,9,4\na,002,5\n"
    )
    config = RecommendConfig(str(made), str(tmp_path / "events.csv"), str(tmp_path / "o.parquet"))
    with verb.opened_histories(config, deeprec.load(made), None) as (num_users, parts):
        shown = list(parts)
    assert (num_users, sum(part.num_unknown for part in shown)) == (2, 1)
    assert [user for part in shown for user in part.user_ids] == ["a", "b"]
    assert torch.cat([part.items.values for part in shown]).tolist() == [7, 2, 3, 1, 5]
    lengths = torch.cat([part.items.offsets.diff() for part in shown])
    assert lengths.tolist() == [3, 2]
    ages = torch.cat([part.ages for part in shown if part.ages is not None])
    assert (ages * DAY).tolist() == pytest.approx([8, 4, 0, 7, 6])


def test_judging_longer_lists_than_a_bundle_gives_is_one_clear_error(
    made: Path, prepared: Prepared, tmp_path: Path
) -> None:
    config = EvaluateConfig(
        bundle=str(made),
        prepared=str(prepared.path),
        output_dir=str(tmp_path / "report"),
        cutoffs=[20_000],
        baselines=[],
    )
    with pytest.raises(DataError, match="the bundle refuses"):
        evaluate(config)
    assert not (tmp_path / "report").exists()


def many_events(path: Path, num_users: int) -> Path:
    draw = np.random.default_rng(2)
    table = pa.table(
        {
            "user_id": [f"u{user:05}" for user in range(num_users) for _ in range(3)],
            "item_id": [f"{item:03}" for item in draw.integers(0, 30, 3 * num_users)],
        }
    )
    pq.write_table(table, path)
    return path


def test_processes_share_the_answering_and_give_the_same_file(made: Path, tmp_path: Path) -> None:
    events = many_events(tmp_path / "events.parquet", 50)
    alone = lists_of(made, events, tmp_path / "a.parquet", batch_users=4)
    together = lists_of(made, events, tmp_path / "b.parquet", batch_users=4, processes=2)
    same(together, alone)


def test_a_killed_command_goes_on_after_the_lists_it_had(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = many_events(tmp_path / "events.parquet", 600)
    output, kept = tmp_path / "out.parquet", tmp_path / ".out.parquet.row-groups"
    code = f"""
from deeprec import recommend
from deeprec.verb import RecommendConfig
recommend.ROW_GROUP = 100
recommend.recommend(RecommendConfig({str(made)!r}, {str(events)!r}, {str(output)!r}, batch_users=2))
"""
    source = str(Path(deeprec.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}
    )
    while len(list(kept.glob("*.parquet"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not output.exists()
    number = len(list(kept.glob("*.parquet")))
    monkeypatch.setattr(verb, "ROW_GROUP", 100)
    ours = lists_of(made, events, output, batch_users=2)
    assert f"{number * 10:,} lists are there already" in capsys.readouterr().out
    assert not kept.exists()
    expected = lists_of(made, events, tmp_path / "whole.parquet", batch_users=2)
    assert ours == expected
    assert pq.ParquetFile(output).num_row_groups == 60

    rmtree = shutil.rmtree

    def killed(path: Path, **how: bool) -> None:
        if path != kept:
            return rmtree(path, **how)
        next(path.glob("00000000*")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:  # while what is in the file is taken away
        dying.setattr("deeprec.listing.row_groups.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            lists_of(made, events, output, batch_users=2)
    assert lists_of(made, events, output, batch_users=2) == expected
    assert not kept.exists()


def test_two_commands_do_not_write_one_output(made: Path, tmp_path: Path) -> None:
    events, output = many_events(tmp_path / "events.parquet", 4), tmp_path / "out.parquet"
    config = RecommendConfig(str(made), str(events), str(output))
    with held(output), pytest.raises(ConfigError, match="is being written by another process"):
        recommend(config)
    recommend(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.parquet", "out.parquet"]


def test_lists_of_another_question_are_not_gone_on_with(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = many_events(tmp_path / "events.parquet", 40)
    config = RecommendConfig(str(made), str(events), str(tmp_path / "out.parquet"), batch_users=2)
    groups = RowGroups(tmp_path / "out.parquet", {"bundle": "another"}, {}, 30)
    nothing = Jagged(torch.zeros(0).long(), torch.zeros(2).long())
    histories = Histories(["stranger"], nothing, None, {}, 0)
    lists = pa.record_batch([["stranger"], [["x"] * 40], [[0.0] * 40]], schema=LISTS)
    groups.append(histories, lists)
    assert len(list(groups.path.glob("*.parquet"))) == 1
    recommend(config)
    users = pq.read_table(tmp_path / "out.parquet")["user_id"].to_pylist()
    assert users == [f"u{user:05}" for user in range(40)]
