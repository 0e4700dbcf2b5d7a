"""Controls see what they are for: order that tells, a ranker or metric that is wrong."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from deeprec.data import store
from deeprec.data.store import Events, Prepared
from deeprec.evaluation.control import controls
from deeprec.evaluation.question import Question
from deeprec.metric.hits import Hits
from deeprec.model import rank

ITEMS, USERS = 400, 300


def question(path: Path, worth: np.ndarray, *, repeats: bool) -> Question:
    """Users who take eight items before and eight after, likelier the more an item is worth."""
    draw = np.random.default_rng(3)
    chance = worth / worth.sum()
    taken = [draw.choice(ITEMS, 16, replace=False, p=chance) for _ in range(USERS)]
    offsets = np.arange(USERS + 1) * 8
    before = np.concatenate([items[:8] for items in taken]).astype(np.int32)
    after = np.concatenate([items[8:] for items in taken]).astype(np.int32)
    nothing = Events(np.zeros(USERS + 1, np.int64), np.zeros(0, np.int32))
    store.write(
        path / "prepared",
        items=pa.table(
            {
                "item_id": [f"{i:03}" for i in range(ITEMS)],
                "popularity": np.bincount(before, minlength=ITEMS),
            }
        ),
        users=pa.table({"user_id": [str(u) for u in range(USERS)], "role": ["all"] * USERS}),
        vocabularies={},
        parts={
            "train": [Events(offsets, before)],
            "validation": [nothing],
            "holdout": [Events(offsets, after)],
        },
        contract={},
        manifest={
            "repeats": repeats,
            "instants": {"train": None, "validation": None, "holdout": None},
            "split": {"name": "random"},
        },
    )
    prepared = Prepared(path / "prepared")
    users = prepared.judged_users("holdout")
    return Question(prepared, "holdout", not repeats, [20], 64, users)


def levels(asked: Question) -> dict[str, str]:
    return {one["name"]: one["level"] for one in controls(asked, 20, seed=0)}


FINE = {"random": "ok", "constant": "ok", "popularity": "ok", "nan": "ok"}


@pytest.mark.parametrize("repeats", [True, False])
def test_all_is_well_where_the_order_of_ids_tells_nothing(tmp_path: Path, repeats: bool) -> None:
    worth = np.random.default_rng(1).zipf(1.6, ITEMS).clip(max=1000).astype(float)
    assert levels(question(tmp_path, worth, repeats=repeats)) == FINE


def test_ids_in_the_order_of_popularity_are_seen(tmp_path: Path) -> None:
    worth = 1 / np.arange(1, ITEMS + 1)
    asked = question(tmp_path, worth, repeats=True)
    assert levels(asked) == FINE | {"constant": "warn"}
    (constant,) = [one for one in controls(asked, 20, seed=0) if one["name"] == "constant"]
    assert constant["facts"]["found"] > 2 * constant["facts"]["expected"]


def test_a_ranker_that_breaks_ties_otherwise_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def latest_first(encoded, weight_VD, bias_V, k, items, offsets, block):  # type: ignore[no-untyped-def]
        best = torch.from_numpy(np.lexsort((-np.arange(ITEMS), -bias_V.numpy()))[:k].copy())
        return best.repeat(len(offsets) - 1, 1), None

    asked = question(tmp_path, np.ones(ITEMS), repeats=True)
    monkeypatch.setattr(rank, "top_k", latest_first)
    found = levels(asked)
    assert (found["constant"], found["popularity"], found["nan"]) == ("fail", "fail", "fail")


def test_what_chance_expects_is_said_of_every_metric(tmp_path: Path) -> None:
    asked = question(tmp_path, np.ones(ITEMS), repeats=True)
    random = controls(asked, 20, seed=0)[0]
    facts = random["facts"]
    # eight of 400 items for everybody: 20 places hold 20 * 8 / 400
    assert facts["expected_precision@20"] == pytest.approx(8 / ITEMS)
    assert facts["expected_recall@20"] == pytest.approx(20 / ITEMS)
    assert facts["expected"] == pytest.approx(USERS * 20 * 8 / ITEMS)
    assert f"ndcg@20 {facts['expected_ndcg@20']:.2g}" in random["says"]


def test_hits_that_are_lost_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = question(tmp_path, np.ones(ITEMS), repeats=True)
    plain = Hits.of
    monkeypatch.setattr(Hits, "of", lambda items, target: plain(items[:, :9], target))
    assert levels(asked)["random"] == "fail"
