"""Several systems in one report: judged now or before, by one process or several, seed by seed."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import standin
from deeprec.config import compose
from deeprec.data.judge import judged_batch
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.evaluate import evaluate
from deeprec.train import train
from deeprec.verb import EvaluateConfig


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder, two runs that differ in their seed, and a file of lists."""
    path = tmp_path_factory.mktemp("together")
    prepared = standin.prepared_folder(path / "prepared")
    for seed in (1, 2):
        words = [f"prepared={path / 'prepared'}", f"output_dir={path / 'runs' / str(seed)}"]
        settings = ["trainer.max_epochs=1", "optimizer.warmup_steps=1", f"seed={seed}"]
        train(compose("train", [*words, *settings]))
    draw = np.random.default_rng(0)
    ids = np.array(prepared.catalog.item_ids.to_pylist())
    lists = [draw.permutation(ids).tolist() for _ in range(prepared.num_users)]
    table = pa.table({"user_id": prepared.users["user_id"], "item_ids": lists})
    pq.write_table(table, path / "random.parquet")
    return path


LISTS = ("user_id", "item_ids")


def judge(shop: Path, name: str, **settings: Any) -> dict[str, Any]:
    config = EvaluateConfig(output_dir=str(shop / name), cutoffs=[2, 5], bootstrap_samples=50)
    for key, value in settings.items():
        setattr(config, key, value)
    return evaluate(config)


@pytest.mark.slow
def test_one_process_and_several_give_the_same_figures(shop: Path) -> None:
    settings: dict[str, Any] = {
        "run": str(shop / "runs" / "1"),
        "recommendations": str(shop / "random.parquet"),
        "batch_users": 5,
        "sampled_negatives": 4,
        "slices": ["history", "users", "popularity", "time"],
    }
    alone = judge(shop, "same", **settings)
    users = (shop / "same" / "report.parquet").read_bytes()
    assert judge(shop, "same", processes=2, **settings) == alone
    assert (shop / "same" / "report.parquet").read_bytes() == users


def test_the_runs_of_a_folder_are_named_and_gathered(shop: Path) -> None:
    report = judge(shop, "sweep", run=str(shop / "runs"), baselines=[])
    names = ["autoencoder, seed=1", "autoencoder, seed=2"]
    assert [system["name"] for system in report["systems"]] == names
    (group,) = report["seeds"]["groups"]
    assert (group["name"], group["systems"]) == ("autoencoder", names)
    means = [system["metrics"]["ndcg@5"]["mean"] for system in report["systems"]]
    assert group["metrics"]["ndcg@5"]["mean"] == pytest.approx(np.mean(means))
    assert group["metrics"]["ndcg@5"]["deviation"] == pytest.approx(np.std(means, ddof=1))


def test_reports_are_compared_with_what_is_judged_now(shop: Path) -> None:
    first = judge(shop, "first", run=str(shop / "runs" / "1"))
    prepared = str(shop / "prepared")
    lists = judge(shop, "lists", recommendations=str(shop / "random.parquet"), prepared=prepared)
    both = judge(shop, "both", compare=[str(shop / "first"), str(shop / "lists")])
    now = judge(
        shop, "now", compare=[str(shop / "first"), str(shop / "random.parquet")], prepared=prepared
    )
    for report in (both, now):
        names = [system["name"] for system in report["systems"]]
        assert sorted(names) == sorted(
            ["autoencoder", "popularity", "item_to_item", "own_frequency", "random"]
        )
        assert names[0] == "autoencoder"  # in the order they were given
        told = {one["second"]: one for one in report["comparisons"] if one["metric"] == "ndcg@5"}
        ours, theirs = first["systems"][0], lists["systems"][0]
        difference = ours["metrics"]["ndcg@5"]["mean"] - theirs["metrics"]["ndcg@5"]["mean"]
        assert told["random"]["mean"] == pytest.approx(difference)
        assert all(set(user["lists"]) == set(names) for user in report["examples"])


def test_other_rules_are_refused_before_anything_is_ranked(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(shop, "seen", run=str(shop / "runs" / "1"), exclude_seen=True, max_users=8)
    settings: dict[str, Any] = {"run": str(shop / "runs" / "2"), "compare": [str(shop / "seen")]}
    with monkeypatch.context() as until:
        until.setattr("deeprec.evaluate.judge", lambda asked: pytest.fail("it ranks"))
        with pytest.raises(
            ConfigError, match=r"- exclude_seen: false \(what is judged now\), true"
        ):
            judge(shop, "refused", **settings)
        with pytest.raises(ConfigError, match=r"\[1\] \(what is judged now\), \[2, 5\]"):
            judge(shop, "refused", cutoffs=[1], force=True, **settings)  # no cutoff is in both
    assert not (shop / "refused").exists()
    forced = judge(shop, "forced", force=True, **settings)
    assert any(line.startswith("exclude_seen: ") for line in forced["forced"])
    assert any(line.startswith("users.scored: ") for line in forced["forced"])
    table = pq.read_table(shop / "forced" / "report.parquet")
    assert len(set(table["user_id"].to_pylist())) == 8  # who is in both


def test_nothing_to_judge_is_named(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is nothing there"):
        judge(shop, "none", compare=[str(tmp_path / "nothing")])
    with pytest.raises(ConfigError, match="there is nothing to judge"):
        judge(shop, "none", compare=[str(tmp_path)])
    with pytest.raises(ConfigError, match="prepared: missing"):
        judge(shop, "none", recommendations=str(shop / "random.parquet"), prepared=None)


def test_examples_show_what_was_taken_and_what_was_said_and_no_user(shop: Path) -> None:
    report = judge(shop, "examples", run=str(shop / "runs" / "1"), examples=3, baselines=[])
    prepared = Prepared(shop / "prepared")
    assert len(report["examples"]) == 3
    rows = prepared.judged_users("holdout")
    batch = judged_batch(prepared, rows, "holdout")
    assert batch.target is not None
    taken = [
        set(prepared.catalog.ids_of(batch.target.values[a:b]))
        for a, b in zip(batch.target.offsets[:-1], batch.target.offsets[1:], strict=True)
    ]
    for user in report["examples"]:
        bought = {item["item"] for item in user["taken"]}
        assert bought in taken
        for item in user["lists"]["autoencoder"]:
            assert item["hit"] == (item["item"] in bought)
    said = json.dumps(report["examples"])
    assert not any(f'"{user}"' in said for user in prepared.users["user_id"].to_pylist())
    assert judge(shop, "no-examples", run=str(shop / "runs" / "1"), examples=0)["examples"] == []


def test_users_who_are_named_are_shown_first_judged_or_not_and_without_their_ids(
    shop: Path,
) -> None:
    prepared = Prepared(shop / "prepared")
    ids = prepared.users["user_id"].to_pylist()
    judged = prepared.judged_users("holdout")
    unjudged = np.setdiff1d(np.arange(prepared.num_users), judged)
    rows = [int(judged[-1]), int(unjudged[0]), int(judged[0])]
    lists = shop / "random.parquet"
    settings: dict[str, Any] = {"compare": [str(shop / "runs" / "1"), str(lists)], "max_users": 5}
    report = judge(shop, "named", users_up_close=[ids[row] for row in rows], examples=2, **settings)
    assert [one.get("asked_for", False) for one in report["examples"]] == [True] * 3 + [False] * 2
    theirs = dict(zip(*(pq.read_table(lists)[name].to_pylist() for name in LISTS), strict=True))
    batch = judged_batch(prepared, np.array(rows), "holdout")
    for row, one in enumerate(report["examples"][:3]):
        events = batch.history.rows(row, row + 1).values.tolist()
        latest = list(dict.fromkeys(reversed(prepared.catalog.ids_of(events))))
        assert [item["item"] for item in one["history"]] == latest[:10]
        shown = [item["item"] for item in one["lists"]["random"]]
        assert shown == theirs[ids[rows[row]]][:5]  # as far as the file is judged
    assert report["examples"][1]["num_taken"] == 0
    text = (shop / "named" / "report.json").read_text()
    assert not any(f'"{user}"' in text for user in ids)
    assert "users_up_close" not in report["command"]
    page = (shop / "named" / "report.html").read_text()
    assert page.count(", asked for: ") == 3
    assert "First those of users_up_close, in its order; then drawn from" in page
    with pytest.raises(ConfigError, match="has no user 'nobody'"):
        judge(shop, "nobody", users_up_close=["nobody"], **settings)
    words = ["users_up_close=[5]", f"prepared={shop / 'prepared'}", f"output_dir={shop / 'nobody'}"]
    with pytest.raises(ConfigError, match="has no user '5'"):  # a number is an id too
        evaluate(compose("evaluate", words))  # type: ignore[arg-type]


def test_the_command_makes_the_report_again(shop: Path) -> None:
    settings = {"run": str(shop / "runs" / "1"), "max_users": 20, "baselines": ["popularity"]}
    report = judge(shop, "again", **settings)
    verb, *words = shlex.split(report["command"])[1:]
    assert verb == "evaluate"
    shutil.rmtree(shop / "again")
    assert evaluate(compose("evaluate", words)) == report  # type: ignore[arg-type]
