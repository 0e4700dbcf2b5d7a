"""Items that share a value are learned from as the history of one more user: so new items too."""

from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
import torch

import small_shop
from deeprec.batch import Batch, Jagged
from deeprec.config import compose
from deeprec.data import store
from deeprec.data.attribute_histories import MOST_ITEMS, AttributeHistories
from deeprec.data.dataset import Batches
from deeprec.data.grouping import Grouping
from deeprec.data.judge import known_users
from deeprec.data.store import Events, Prepared
from deeprec.data.target import Reconstruct
from deeprec.errors import ConfigError
from deeprec.evaluation.facts import item_facts
from deeprec.model.ease import Ease
from deeprec.train import train
from deeprec.trainer import memory
from deeprec.trainer.run import open_run
from deeprec.verb import TrainConfig
from deeprec.work import Work

BRANDS = ["red", "red", "blue", None, "blue", "red", "alone", "red"]
KINDS = [["a", "b"], ["b"], None, ["a", "a"], [], ["c"], ["b"], ["c"]]
NEW = 7  # nobody had it; red, as 0, 1 and 5 are
USERS = [[0, 1], [0, 1, 5], [2, 4], [2, 3, 4], [1, 5], [4, 6], [0, 5], [2, 4, 6]] * 4


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("attributes") / "prepared"
    lengths = [len(items) for items in USERS]
    train = Events(np.cumsum([0, *lengths]), np.concatenate(USERS).astype(np.int32))
    after = Events(np.arange(len(USERS) + 1), np.full(len(USERS), 3, np.int32))
    store.write(
        path,
        items=pa.table(
            {
                "item_id": [f"i{i}" for i in range(len(BRANDS))],
                "popularity": np.bincount(train.items, minlength=len(BRANDS)),
                "brand": BRANDS,
                "kind": KINDS,
                "one.of.many": ["x"] * len(BRANDS),
                "own": [f"n{i}" for i in range(len(BRANDS))],
                "size": [{"cm": 1}] * len(BRANDS),
            }
        ),
        users=pa.table(
            {"user_id": [f"u{i}" for i in range(len(USERS))], "role": ["all"] * len(USERS)}
        ),
        vocabularies={},
        parts={"train": [train], "validation": [after], "holdout": [after]},
        contract={},
        manifest={
            "repeats": False,
            "instants": {"train": None, "validation": None, "holdout": None},
        },
    )
    return Prepared(path)


def told(prepared: Prepared, output: Path, *words: str) -> TrainConfig:
    given = [f"prepared={prepared.path}", f"output_dir={output}", "logger.wandb=off", *words]
    return cast(TrainConfig, compose("train", given))


def histories(prepared: Prepared, *names: str, weight: float = 1.0) -> AttributeHistories:
    return AttributeHistories(prepared, names, weight=weight, weighs_users=True)


def rows_of(rows: Jagged) -> list[list[int]]:
    pieces = torch.tensor_split(rows.values, rows.offsets[1:-1])
    return [piece.tolist() for piece in pieces]


def test_a_value_is_the_history_of_the_items_that_have_it(prepared: Prepared) -> None:
    batch = histories(prepared, "brand", "kind").beside(known_users(prepared, "validation"))
    found = sorted(rows_of(batch.history)[len(USERS) :])
    assert found == [[0, 1, 5, 7], [0, 1, 6], [0, 3], [2, 4], [5, 7]]
    assert batch.user_weights is None


def test_each_is_beside_the_users_once_an_epoch_whoever_makes_the_batches(
    prepared: Prepared,
) -> None:
    more = histories(prepared, "brand", "kind", weight=0.5)
    for world in (1, 3):
        for epoch in (0, 1):
            seen: list[list[int]] = []
            for rank in range(world):
                batches = Batches(
                    prepared,
                    Reconstruct(),
                    grouping=Grouping(batch_users=4),
                    seed=1,
                    finish=lambda batch, draw: batch,
                    more=more,
                    rank=rank,
                    world=world,
                )
                for position in range(len(batches)):
                    batch = cast(Batch, batches.finished(epoch, position))
                    rows = rows_of(batch.history)
                    assert batch.target is not None
                    assert rows_of(batch.target) == rows  # histories are distinct here
                    assert batch.user_weights is not None
                    of_items = batch.user_rows < 0
                    assert torch.equal(batch.user_weights, torch.where(of_items, 0.5, 1.0))
                    seen += [row for row, yes in zip(rows, of_items, strict=True) if yes]
            assert sorted(seen) == [[0, 1, 5, 7], [0, 1, 6], [0, 3], [2, 4], [5, 7]]


def test_the_memory_plan_counts_them_among_the_users_of_a_step(
    prepared: Prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "EASY", 10**9)  # so that the plan is told in full
    words = ("trainer.batch_users=16", "model.hidden_dims=[4]", "item_attributes=[brand,kind]")
    Work(told(prepared, tmp_path / "run", *words), prepared)
    assert "scores: 19 users" in capsys.readouterr().out  # 32 users and 5 values in 2 batches


def test_a_model_that_is_solved_is_as_if_users_had_had_them(
    prepared: Prepared, tmp_path: Path
) -> None:
    words = ("model=ease", "model.l2=1", "item_attributes=[brand]", "item_attribute_weight=2")
    found = open_run(train(told(prepared, tmp_path / "run", *words))).model
    reds, blues = [0, 1, 5, 7], [2, 4]
    everybody = [*USERS, reds, reds, blues, blues]
    offsets = np.cumsum([0, *map(len, everybody)])
    rows = Jagged(torch.from_numpy(np.concatenate(everybody)), torch.from_numpy(offsets))
    model = Ease(len(BRANDS), l2=1.0)
    list(model.solve(Batch(torch.arange(len(everybody)), rows), 0, torch.Generator()))
    assert isinstance(found, Ease)
    torch.testing.assert_close(found.between_items, model.between_items, atol=1e-5, rtol=0)
    new = found.between_items[:, NEW]
    assert new[[0, 1, 5]].min() > 0.03 > 10 * new[[2, 3, 4, 6]].abs().max()


def test_a_model_that_is_trained_knows_a_new_item_by_what_it_is(
    prepared: Prepared, tmp_path: Path
) -> None:
    small = ("model.width=4", "trainer.batch_users=8", "trainer.max_epochs=30")
    words = ("experiment=linear", *small, "item_attributes=[brand]", "item_attribute_weight=8")
    table = open_run(train(told(prepared, tmp_path / "run", *words))).model.item_weight.detach()
    alike = torch.nn.functional.cosine_similarity(table, table[NEW][None])
    assert alike[[0, 1, 5]].min() > alike[[2, 3, 4, 6]].max() + 0.2


def test_what_cannot_be_learned_from_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    def refused(says: str, *words: str) -> None:
        with pytest.raises(ConfigError, match=says):
            train(told(prepared, tmp_path / "run", *words))

    refused("have no 'brnad'; did you mean 'brand'", "model=ease", "item_attributes=[brnad]")
    refused(f"no value of own is shared by 2 to {MOST_ITEMS:,} items", "item_attributes=[own]")
    refused("size must hold a value of each item", "model=ease", "item_attributes=[size]")
    refused("OwnFrequency learns nothing", "model=own_frequency", "item_attributes=[brand]")
    refused("target=reconstruct alone", "experiment=sequence", "item_attributes=[brand]")
    refused("must be above 0", "item_attribute_weight=0")
    refused("is of item_attributes, and there are none, got 2", "item_attribute_weight=2")
    sampled = ("loss=sampled_softmax", "loss.negatives=4", "item_attribute_weight=0.5")
    refused("does not multiply the costs of users", *sampled, "item_attributes=[brand]")


def test_lists_of_values_are_no_measure_of_diversity(prepared: Prepared) -> None:
    assert [*item_facts(prepared, None, None).codes] == ["brand", "own"]
    with pytest.raises(ConfigError, match="kind: must have one value for each item, got list"):
        item_facts(prepared, ["brand", "kind"], None)


def test_items_without_attributes_are_said_to_have_none(tmp_path: Path) -> None:
    shop = Prepared(small_shop.make(tmp_path / "prepared"))
    with pytest.raises(ConfigError, match="they have no attributes at all"):
        histories(shop, "brand")
