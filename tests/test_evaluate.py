"""Evaluation of hand-worked folders and lists: every number by hand, or by an independent loop."""

import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import standin
from deeprec.batch import Batch
from deeprec.config import compose
from deeprec.data import store
from deeprec.data.judge import distinct, judged_batch
from deeprec.data.store import Events, Prepared
from deeprec.errors import ConfigError, DataError, IntegrityError
from deeprec.evaluate import evaluate
from deeprec.evaluation.system import bundle_names
from deeprec.metric.tally import ItemFacts, Tally
from deeprec.model.rank import rank
from deeprec.recommend import recommend
from deeprec.train import train
from deeprec.trainer.run import open_run
from deeprec.verb import EvaluateConfig, RecommendConfig

ITEMS = ["a", "b", "c", "d", "e"]
# user: role, train, validation, holdout, holdout events on items the catalog does not hold
LOG = {
    "u1": ("all", "ab", "a", "acc", 1),
    "u2": ("all", "b", "", "d", 0),
    "u3": ("all", "a", "", "", 0),  # nothing in the holdout
    "u4": ("all", "c", "", "", 2),  # only what the catalog does not know
    "u5": ("train", "be", "", "", 0),  # never judged
    "u6": ("holdout", "", "", "b", 0),  # no history
    "u7": ("all", "d", "", "d", 0),  # only what it had before
    "u8": ("validation", "e", "b", "", 0),
}
LISTS = {
    "u1": ["c", "?", "a"],
    "u2": ["a", "d"],
    "u7": ["d"],
    "u3": ["a"],
    "stranger": ["a"],
}
THIRD = 1 / math.log2(3)  # the discount of position 2


def events(rows: list[str]) -> list[Events]:
    items = [ITEMS.index(item) for row in rows for item in row]
    return [Events(np.cumsum([0, *map(len, rows)]), np.array(items, np.int32))]


def write_prepared(
    path: Path, log: Mapping[str, tuple[str, str, str, str, int]] = LOG, *, repeats: bool = True
) -> str:
    roles, *parts, unknown = zip(*log.values(), strict=True)
    store.write(
        path / "prepared",
        items=pa.table({"item_id": ITEMS, "popularity": [0] * len(ITEMS)}),
        users=pa.table({"user_id": list(log), "role": roles, "holdout_unknown": unknown}),
        vocabularies={},
        parts=dict(zip(store.PARTS, map(events, map(list, parts)), strict=True)),
        contract={},
        manifest={
            "repeats": repeats,
            "instants": {"train": None, "validation": None, "holdout": 86_400},
            "split": {"name": "time_cut"},
        },
    )
    return str(path / "prepared")


def write_lists(path: Path, lists: Mapping[str, list[str]]) -> str:
    table = pa.table({"user_id": list(lists), "item_ids": list(lists.values())})
    path.mkdir(exist_ok=True)
    pq.write_table(table, path / "mine.parquet")
    return str(path / "mine.parquet")


def judge(tmp_path: Path, prepared: str, **settings: Any) -> dict[str, Any]:
    output_dir = str(tmp_path / "report")
    config = EvaluateConfig(prepared=prepared, output_dir=output_dir, bootstrap_samples=50)
    for name, value in {"cutoffs": [1, 3], **settings}.items():
        setattr(config, name, value)
    report = evaluate(config)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    return report


def means(report: dict[str, Any], system: int = 0) -> dict[str, float]:
    metrics = report["systems"][system]["metrics"]
    assert all(metric["low"] <= metric["mean"] <= metric["high"] for metric in metrics.values())
    return {name: metric["mean"] for name, metric in metrics.items()}


def test_anybodys_lists_by_hand(tmp_path: Path) -> None:
    report = judge(tmp_path, write_prepared(tmp_path), recommendations=write_lists(tmp_path, LISTS))
    # u1 took a and c and got c ? a; u2 took d and got a d; u6 got no list; u7 took d and got d
    assert means(report) == pytest.approx(
        {
            "precision@1": 2 / 4,
            "recall@1": (1 / 2 + 1) / 4,
            "recall_capped@1": 2 / 4,
            "hit@1": 2 / 4,
            "ndcg@1": 2 / 4,
            "map@1": 2 / 4,
            "mrr@1": 2 / 4,
            "r_precision@1": (1 / 2 + 1) / 4,
            # of 5 candidates; u1: c stands above 3 others, a ties with them; u2: d ties with 3 of 4
            "auc@1": ((3 + 3 / 2) / 6 + (3 / 2) / 4 + 1 / 2 + 1) / 4,
            "popularity@1": 0,
            "novelty@1": 3 / 4 * math.log2(7),  # nobody of 6 had any; u6 got nothing
            "repeats@1": 1 / 4,
            "precision@3": (2 / 3 + 1 / 3 + 1 / 3) / 4,
            "recall@3": 3 / 4,
            "recall_capped@3": 3 / 4,
            "hit@3": 3 / 4,
            "ndcg@3": ((1 + 1 / 2) / (1 + THIRD) + THIRD + 1) / 4,
            "map@3": ((1 + 2 / 3) / 2 + 1 / 2 + 1) / 4,
            "mrr@3": (1 + 1 / 2 + 1) / 4,
            "r_precision@3": (1 / 2 + 0 + 1) / 4,
            "auc@3": ((3 + 2) / 6 + 3 / 4 + 1 / 2 + 1) / 4,
            "popularity@3": 0,
            "novelty@3": 3 / 4 * math.log2(7),
            "repeats@3": (1 / 2 + 0 + 1) / 4,
        },
        rel=1e-6,
    )
    mine = report["systems"][0]
    assert (mine["name"], mine["kind"]) == ("mine", "recommendations")
    # lists of one: c, a, d; of three: c a, a d, d
    assert mine["exposure"] == pytest.approx(
        {
            "coverage@1": 3 / 5,
            "coverage@3": 3 / 5,
            "gini@1": 2 / 5,
            "gini@3": 2 * (3 * 1 + 4 * 2 + 5 * 2) / (5 * 5) - 6 / 5,
            **dict.fromkeys(
                ("head_1@1", "head_1@3", "head_10@1", "head_10@3"), 0
            ),  # nobody had any
            "overlap@1": 0,
            "overlap@3": (1 + 1) / 6 / 3,  # of six pairs of users two share one item each
        }
    )
    assert mine["lists"] == {
        "users_without_list": 1,
        "lists_shorter_than_k": 2,
        "unknown_items": 1,
        "seen_items": 2,
        "lists_of_unknown_users": 1,
        "lists_not_judged": 1,
    }
    assert report["protocol"]["users"] == {
        "scored": 4,
        "dropped": 2,
        "reasons": {
            "with nothing in the holdout": 1,
            "with only items unknown to the catalog in the holdout": 1,
        },
    }
    assert report["protocol"]["cold"]["events in the holdout"] == 3
    assert report["protocol"]["cold"]["users with such events"] == 2


def test_lists_without_all_that_users_ever_had_are_told(tmp_path: Path) -> None:
    """As `dsstne predict -f` makes them of the samples that the holdout was taken from."""
    log = {f"u{i}": ("all", "ab"[i % 2], "", "cd"[i % 2], 0) for i in range(20)}
    prepared = write_prepared(tmp_path, log, repeats=False)
    ever = {user: {*log[user][1], *log[user][3]} for user in log}
    without = {user: [item for item in ITEMS if item not in had] for user, had in ever.items()}
    unseen = {user: [item for item in ITEMS if item not in log[user][1]] for user in log}
    seen = {user: [log[user][1], *items] for user, items in without.items()}
    compared = []
    for name, lists in (("unseen", unseen), ("seen", seen), ("without", without)):
        compared.append(write_lists(tmp_path / name, lists))
    quick = {"baselines": [], "slices": [], "cutoffs": [3]}
    [said] = judge(tmp_path, prepared, compare=compared, **quick)["warnings"]
    assert "mine 3: its lists hold no item that their users had before" in said


def test_without_repeats_items_of_the_history_are_neither_relevant_nor_found(
    tmp_path: Path,
) -> None:
    report = judge(
        tmp_path,
        write_prepared(tmp_path, repeats=False),
        recommendations=write_lists(tmp_path, LISTS),
    )
    # u1 is left with c, u7 with nothing
    assert means(report)["recall@3"] == pytest.approx((1 + 1) / 3)
    assert means(report)["precision@3"] == pytest.approx((1 / 3 + 1 / 3) / 3)
    assert report["systems"][0]["lists"]["seen_items"] == 1
    reasons = report["protocol"]["users"]["reasons"]
    assert reasons["with only items in the holdout that they had before"] == 1
    assert [system["name"] for system in report["systems"]] == [
        "mine",
        "popularity",
        "item_to_item",
    ]
    again = judge(tmp_path, str(tmp_path / "prepared"), exclude_seen=False)
    assert again["systems"][-1]["name"] == "own_frequency"
    assert again["protocol"]["exclude_seen"] is False


def test_baselines_by_hand(tmp_path: Path) -> None:
    report = judge(tmp_path, write_prepared(tmp_path))
    # before the holdout, of those who may be trained on: u1 aba, u2 b, u3 a, u4 c, u5 be, u7 d
    # popularity: b 3, a 2, then c d e 1 each, so everyone gets b a c
    # taken: u1 a c, u2 d, u6 b, u7 d
    popularity = means(report, 0)
    assert popularity["recall@1"] == pytest.approx(1 / 4)
    assert popularity["recall@3"] == pytest.approx(2 / 4)
    assert popularity["mrr@3"] == pytest.approx((1 / 2 + 1) / 4)
    # own frequency: u1 a b c, u2 b a c, u6 b a c, u7 d b a
    own = means(report, 2)
    assert own["recall@1"] == pytest.approx((1 / 2 + 1 + 1) / 4)
    assert own["recall@3"] == pytest.approx((1 + 1 + 1) / 4)
    assert own["mrr@3"] == pytest.approx(3 / 4)
    # item to item: a and b share u1, b and e share u5; u6 has no history and gets b a c, as popular
    # u1 (a, b): a and b 1 + s(a, b), then e; u2 (b): b, e 1/sqrt 3, a 1/sqrt 6; u7 (d): d b a
    similar = means(report, 1)
    assert similar["recall@1"] == pytest.approx((1 / 2 + 0 + 1 + 1) / 4)
    assert similar["mrr@3"] == pytest.approx((1 + 0 + 1 + 1) / 4)


def test_validation_is_judged_on_what_stands_before_it(tmp_path: Path) -> None:
    report = judge(tmp_path, write_prepared(tmp_path), part="validation", baselines=["popularity"])
    # u1 took a, u8 took b; before: u1 ab, u2 b, u3 a, u4 c, u5 be, u7 d (u8 is only judged)
    assert report["protocol"]["users"]["scored"] == 2
    assert means(report)["mrr@3"] == pytest.approx((1 / 2 + 1) / 2)
    assert report["protocol"]["history"] == "train"


def random_log(draw: random.Random, num_users: int) -> dict[str, tuple[str, str, str, str, int]]:
    def some(most: int) -> str:
        return "".join(draw.choices("abcde", k=draw.randint(0, most)))

    return {f"{n:03}": ("all", some(6), some(2), some(4), 0) for n in range(num_users)}


@pytest.mark.parametrize("repeats", [True, False])
def test_perfect_lists_score_one(tmp_path: Path, repeats: bool) -> None:
    log = random_log(random.Random(1), 40)
    perfect = {}
    for user, (_, before, validation, holdout, _) in log.items():
        taken = set(holdout) if repeats else set(holdout) - set(before + validation)
        perfect[user] = sorted(taken) + sorted(set(ITEMS) - taken)
    report = judge(
        tmp_path,
        write_prepared(tmp_path, log, repeats=repeats),
        recommendations=write_lists(tmp_path, perfect),
        cutoffs=[1, 2, 5, 9],
    )
    for name, mean in means(report).items():
        if name.split("@")[0] in ("recall_capped", "hit", "ndcg", "map", "mrr"):
            assert mean == pytest.approx(1, abs=1e-6), name
    assert means(report)["recall@5"] == pytest.approx(1, abs=1e-6)
    assert means(report)["precision@9"] == pytest.approx(means(report)["precision@5"] * 5 / 9)


def test_a_file_has_no_figure_behind_its_longest_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared, lists = write_prepared(tmp_path), write_lists(tmp_path, LISTS)
    settings = {"recommendations": lists, "baselines": ["popularity"], "sampled_negatives": 2}
    truth = judge(tmp_path, prepared, cutoffs=[3], **settings)
    capsys.readouterr()
    report = judge(tmp_path, prepared, cutoffs=[3, 60], **settings)
    mine, popularity = report["systems"]
    for told in ("metrics", "exposure", "slices", "lists"):
        assert mine[told] == truth["systems"][0][told], told  # u2 and u7 have shorter lists
    assert mine["lists"]["lists_shorter_than_k"] == 2
    assert {"ndcg@60", "sampled_ndcg@60", "precision@3"} <= set(popularity["metrics"])
    assert "gini@60" in popularity["exposure"]
    assert (mine["reach"], mine["curve"]["k"][-1], popularity["curve"]["k"][-1]) == (3, 3, 60)
    assert {one["metric"].rpartition("@")[2] for one in report["comparisons"]} == {"3"}
    table = pq.read_table(tmp_path / "report" / "report.parquet").to_pylist()
    assert {(row["system"], row["ndcg@60"] is None) for row in table} == {
        ("mine", True),
        ("popularity", False),
    }
    said = "mine.parquet holds 3 items at most: no figures at 60; give lists of 60 (recommend k=60)"
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{said}, or cutoffs=[3]" in printed
    assert "2 lists shorter than 3," in printed
    page = (tmp_path / "report" / "report.html").read_text()
    assert f'role="alert"><strong>Mind:</strong> {said}' in page
    of_60 = page[page.index("<summary>k = 60") :]
    assert "<td>–</td>" in of_60[: of_60.index("</tr>", of_60.index("mine"))]


def test_all_are_compared_where_the_shortest_lists_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, lists = write_prepared(tmp_path), write_lists(tmp_path, LISTS)
    report = judge(tmp_path, prepared, recommendations=lists, cutoffs=[2, 20])
    assert report["headline"] == 2
    assert len(report["comparisons"]) == 3 * 5  # of each baseline, at 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "no figures at 20, so all are compared at 2; give" in printed
    monkeypatch.setattr("deeprec.evaluate.judge", lambda asked: pytest.fail("it ranks"))
    with pytest.raises(ConfigError, match=r"mine\.parquet holds 3 items at most.*cutoffs=\[3\]"):
        judge(tmp_path, prepared, recommendations=lists, cutoffs=[4, 20])


def test_order_of_rows_and_size_of_batches_leave_no_trace(tmp_path: Path) -> None:
    draw = random.Random(2)
    log = random_log(draw, 30)
    prepared = write_prepared(tmp_path, log)
    lists = {user: draw.sample(ITEMS, 4) for user in log}
    first = judge(tmp_path, prepared, recommendations=write_lists(tmp_path, lists))
    shuffled = dict(draw.sample(sorted(lists.items()), len(lists)))
    path = write_lists(tmp_path, shuffled)
    second = judge(tmp_path, prepared, recommendations=path, batch_users=7)
    for report in (first, second):
        del report["systems"][0]["sha256"], report["seal"]
    assert first == second


def test_the_first_system_is_compared_user_by_user(tmp_path: Path) -> None:
    log = random_log(random.Random(3), 60)
    perfect = {user: sorted(set(row[3])) for user, row in log.items()}
    report = judge(
        tmp_path,
        write_prepared(tmp_path, log),
        recommendations=write_lists(tmp_path, perfect),
        baselines=["popularity"],
    )
    comparison, *others = report["comparisons"]
    assert [other["metric"] for other in others] == ["recall@3", "map@3", "mrr@3", "hit@3"]
    ours, theirs = (means(report, system)["ndcg@3"] for system in (0, 1))
    assert comparison["metric"] == "ndcg@3"  # of 1 and 3 the nearest to 20
    assert comparison["mean"] == pytest.approx(ours - theirs)
    assert comparison["low"] > 0
    assert comparison["words"].startswith("mine scores higher than popularity on ndcg@3")

    table = pq.read_table(tmp_path / "report" / "report.parquet").to_pandas()
    assert table.groupby("system")["ndcg@3"].mean().to_dict() == pytest.approx(
        {"mine": ours, "popularity": theirs}
    )
    assert sorted(table.query("system == 'mine'").user_id) == sorted(
        user for user, row in log.items() if row[3]
    )


def test_a_system_never_takes_anothers_name(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path)
    lists = Path(write_lists(tmp_path, LISTS)).rename(tmp_path / "popularity.parquet")
    report = judge(tmp_path, prepared, recommendations=str(lists), baselines=["popularity"])
    names = [system["name"] for system in report["systems"]]
    assert names == ["popularity", "popularity (baseline)"]


def test_a_wrong_config_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = EvaluateConfig(prepared="nowhere", output_dir=str(tmp_path / "report"), cutoffs=[0])
    with pytest.raises(ConfigError, match="cutoffs: expected"):
        evaluate(config)
    assert not any(tmp_path.iterdir())


def test_a_report_is_not_put_inside_a_finished_folder(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path)
    with pytest.raises(ConfigError, match=r"output_dir: .* is a finished folder"):
        evaluate(EvaluateConfig(prepared=prepared, output_dir=prepared))


def test_nobody_to_judge_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path, {"u": ("all", "ab", "", "a", 0)}, repeats=False)
    with pytest.raises(DataError, match="no user has anything in the holdout"):
        judge(tmp_path, prepared)
    assert not (tmp_path / "report").exists()


def test_judging_lists_imports_nothing_of_training() -> None:
    code = (
        "import sys, deeprec.evaluate; print({'lightning', 'torchrec', 'wandb'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standin.bundle_folder(tmp_path_factory.mktemp("evaluate") / "bundle", num_users=60)


def test_a_bundle_scores_what_its_recommendations_and_its_model_score(
    bundle: Path, tmp_path: Path
) -> None:
    prepared = Prepared(bundle.with_name("bundle-prepared"))
    model = standin.StandIn(prepared.num_items, standin.FIELDS)
    batch = judged_batch(prepared, prepared.judged_users("holdout"), "holdout")
    assert batch.target is not None
    truth = figures(prepared, [1, 3], batch, rank(model, batch, 3, exclude_seen=False)[0])

    ours = judge(tmp_path, str(prepared.path), bundle=str(bundle), batch_users=16)
    assert {name: means(ours)[name] for name in truth} == pytest.approx(truth, abs=1e-12)
    assert (ours["systems"][0]["name"], ours["systems"][0]["kind"]) == ("bundle", "bundle")
    (tmp_path / "versions").mkdir()
    shutil.copytree(bundle, tmp_path / "versions" / "1")
    versions = judge(tmp_path, str(prepared.path), bundle=str(tmp_path / "versions"))
    assert means(versions) == means(ours)
    assert versions["systems"][0]["name"] == "versions/1"
    lists = str(tmp_path / "lists.parquet")
    recommend(RecommendConfig(str(bundle), str(prepared.path), lists, k=3))
    assert means(judge(tmp_path, str(prepared.path), recommendations=lists)) == means(ours)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["bundles/old/1", "/d/bundles/shop/12", "trial"], ["old/1", "shop/12", "trial"]),
        (["/d/ours/shop/1", "/d/theirs/shop/1", "/d/x/2"], ["ours/shop/1", "theirs/shop/1", "x/2"]),
        (["/d/shop/1", "/d/shop/1"], ["shop/1", "shop/1"]),
    ],
)
def test_a_bundle_is_called_by_its_folder_and_version(paths: list[str], names: list[str]) -> None:
    assert bundle_names([*map(Path, paths)]) == names


def figures(
    prepared: Prepared, cutoffs: list[int], batch: Batch, items: torch.Tensor
) -> dict[str, float]:
    """The means over a batch of all users, of what lists and catalog alone tell."""
    assert batch.target is not None
    facts = ItemFacts(prepared.popularity, len(prepared.training_users()))
    everything = np.full(batch.num_users, prepared.num_items)
    tally = Tally(cutoffs, facts)
    tally.add(items, batch.target, distinct(batch.history), everything)
    return {name: values.mean() for name, values in tally.values().items()}


def renumbered(prepared: Prepared, path: Path, draw: np.random.Generator) -> Prepared:
    """The same events with items in another order, and after training one of an item of its own."""
    new = prepared.num_items + 2
    place = draw.permutation(new)[: prepared.num_items]
    ids = [f"new {index}" for index in range(new)]
    for index, item in zip(place, prepared.catalog.ids_of(range(prepared.num_items)), strict=True):
        ids[index] = item
    everyone = np.arange(prepared.num_users)
    parts = {
        name: replace(events, items=place[events.items].astype(np.int32))
        for name, part in prepared.parts.items()
        for events in [part.take(everyone)]
    }
    own = np.full(len(everyone), np.setdiff1d(np.arange(new), place)[0], np.int32)
    moments = np.full(len(everyone), standin.INSTANT - 86_400)
    last = Events(np.arange(len(everyone) + 1), own, times=moments)
    parts["train"] = store.join(parts["train"], last)
    store.write(
        path,
        items=pa.table({"item_id": ids, "popularity": [1] * new}),
        users=prepared.users,
        vocabularies={name: [*values[::-1], "?"] for name, values in prepared.vocabularies.items()},
        parts={name: [events] for name, events in parts.items()},
        contract={},
        manifest={name: prepared.manifest[name] for name in ("repeats", "instants")},
    )
    return Prepared(path)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_a_bundle_is_judged_by_ids_whatever_the_prepared_folder_numbers(
    bundle: Path, tmp_path: Path, exclude_seen: bool
) -> None:
    prepared = Prepared(bundle.with_name("bundle-prepared"))
    other = renumbered(prepared, tmp_path / "other", np.random.default_rng(4))
    assert other.identity != prepared.identity
    settings = {"bundle": str(bundle), "exclude_seen": exclude_seen}
    ours = judge(tmp_path, str(prepared.path), **settings)
    theirs = judge(tmp_path, str(other.path), **settings)
    of_catalog = ("auc", "popularity", "novelty")  # the other one has items that nobody took
    for name, mean in means(ours).items():
        if not name.startswith((*of_catalog, "diversity")):
            assert means(theirs)[name] == mean, name


def test_a_damaged_bundle_is_named_and_nothing_is_written(bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    content = bytearray((damaged / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "model.pt").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.pt"):
        judge(tmp_path, str(bundle.with_name("bundle-prepared")), bundle=str(damaged))
    assert not (tmp_path / "report").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate-run")
    standin.prepared_folder(folder / "prepared")
    words = [f"prepared={folder / 'prepared'}", f"output_dir={folder / 'run'}"]
    return train(compose("train", [*words, "trainer.max_epochs=1", "optimizer.warmup_steps=1"]))


def test_a_run_is_judged_on_the_folder_it_was_trained_on(run: Path) -> None:
    report = evaluate(EvaluateConfig(run=str(run), cutoffs=[3], bootstrap_samples=20))
    assert json.loads((run / "report.json").read_text()) == report
    ours = report["systems"][0]
    assert (ours["name"], ours["kind"]) == ("autoencoder", "run")

    opened = open_run(run)
    prepared = Prepared(opened.prepared)
    batch = judged_batch(prepared, prepared.judged_users("holdout"), "holdout")
    assert batch.target is not None
    truth = figures(prepared, [3], batch, rank(opened.model, batch, 3, exclude_seen=False)[0])
    assert {name: means(report)[name] for name in truth} == pytest.approx(truth, abs=1e-12)


def test_a_run_is_not_judged_on_another_prepared_folder(run: Path, tmp_path: Path) -> None:
    other = write_prepared(tmp_path)
    with pytest.raises(ConfigError, match="was not trained on"):
        judge(tmp_path, other, run=str(run))


def test_some_users_stand_for_all_and_the_report_says_so(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path)
    everybody = judge(tmp_path, prepared, baselines=["popularity"])["protocol"]["users"]
    some = judge(tmp_path, prepared, baselines=["popularity"], max_users=2)["protocol"]["users"]
    assert some["scored"] == 2
    assert some["reasons"]["not drawn (max_users)"] == everybody["scored"] - 2
    assert some["scored"] + some["dropped"] == everybody["scored"] + everybody["dropped"]


def test_what_leaked_into_training_is_in_the_report_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # of c d, d, b and d two are on items their user had before, though repeats are not allowed
    log = {**LOG, "u1": ("all", "abc", "a", "cd", 1)}
    report = judge(tmp_path, write_prepared(tmp_path, log, repeats=False), baselines=["popularity"])
    found = {one["name"]: one for one in report["leakage"]}
    assert found["repeats"]["facts"]["events"] == 2  # c of u1, d of u7
    assert found["repeats"]["level"] == "warn"
    said = " ".join(capsys.readouterr().out.split())
    assert "warn: leakage repeats: 2 of 5 holdout events (40.0 %)" in said
    assert "leakage new_users" not in said  # it is ok
