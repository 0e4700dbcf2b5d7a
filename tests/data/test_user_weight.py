"""Users that count more than others: from their attributes to the loss of a run."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deeprec import config
from deeprec.batch import Batch, Jagged
from deeprec.data.dataset import Batches
from deeprec.data.grouping import Grouping
from deeprec.data.judge import known_users
from deeprec.data.store import Prepared
from deeprec.data.target import Reconstruct
from deeprec.errors import ConfigError, DataError
from deeprec.model.ease import Ease
from deeprec.prepare import prepare
from deeprec.train import train
from deeprec.trainer.run import open_run

USERS = 120


def shop(path: Path, weights: pa.Array) -> list[str]:
    """Everybody had item a; of odd number b too, of even number c. Words that prepare it."""
    rows = [(f"u{n:02}", item) for n in range(USERS) for item in ("a", "b" if n % 2 else "c")]
    events = pa.table({"user": [user for user, _ in rows], "item": [item for _, item in rows]})
    pq.write_table(events, path / "events.parquet")
    users = [f"u{n:02}" for n in range(USERS)]
    pq.write_table(pa.table({"id": users, "paid": weights}), path / "users.parquet")
    return [
        "data=table",
        f"data.events={path}/events.parquet",
        "data.user=user",
        "data.item=item",
        f"data.user_attributes={{file: {path}/users.parquet, key: id}}",
        "data.filters.user_weights=paid",
        "split=random_fraction",
        "split.holdout=0.01",
        "split.validation=0.1",
        f"output_dir={path}/prepared",
    ]


def prepared(path: Path) -> Path:
    """Users of odd number count 3 times as much."""
    weights = pa.array([3.0 if n % 2 else None for n in range(USERS)])
    return prepare(config.compose("prepare", shop(path, weights)))  # type: ignore[arg-type]


def trained(path: Path, *words: str, run: str = "run") -> Path:
    where = [f"prepared={path}/prepared", f"output_dir={path}/{run}", "logger.wandb=off"]
    return train(config.compose("train", [*where, "trainer.threads=null", *words]))  # type: ignore[arg-type]


def test_they_reach_the_batch_and_are_no_input(tmp_path: Path) -> None:
    found = Prepared(prepared(tmp_path))
    assert found.vocabularies == {}
    assert found.user_weights is not None
    odd = [int(name[1:]) % 2 for name in found.users["user_id"].to_pylist()]
    np.testing.assert_array_equal(found.user_weights, np.where(odd, 3.0, 1.0))
    batch = Batches(found, Reconstruct(), grouping=Grouping(USERS), seed=0).batch(0, 0)
    assert batch.user_weights is not None
    assert batch.user_weights.tolist() == found.user_weights[batch.user_rows.numpy()].tolist()


def test_the_loss_of_a_run_counts_them(tmp_path: Path) -> None:
    """Before the first step, half the users at 3 and half at 1 cost what the formula says."""
    prepared(tmp_path)
    losses = {}
    for weighs in ("true", "false"):
        steps = ["trainer.max_epochs=1", "trainer.batch_users=200", "optimizer.lr=1e-9"]
        # everybody scores alike, by the bias, which starts at the log odds
        words = ["model=layered", "model.output_init_scale=0", *steps, f"user_weights={weighs}"]
        run = trained(tmp_path, *words, run=weighs)
        [row, *_] = csv.DictReader((run / "metrics.csv").read_text().splitlines())
        losses[weighs] = float(row["loss"])
    found = Prepared(tmp_path / "prepared")
    assert found.user_weights is not None
    scores = np.log(found.popularity / (found.num_users - found.popularity + 1e-9))
    costs = np.log(np.exp(scores).sum()) - scores
    events = found.parts["train"].take(np.arange(found.num_users))
    each = [costs[one].sum() for one in np.split(events.items, events.offsets[1:-1])]
    assert losses["false"] == pytest.approx(np.mean(each), rel=0.05)
    ratio = losses["true"] / losses["false"]
    assert ratio == pytest.approx(np.mean(found.user_weights * each) / np.mean(each), rel=0.02)


def test_a_model_that_is_solved_counts_them(tmp_path: Path) -> None:
    """As if those of weight three had come three times."""
    found = Prepared(prepared(tmp_path))
    ours = open_run(trained(tmp_path, "model=ease", "model.l2=5")).model
    users = known_users(found, "validation")
    assert found.user_weights is not None
    copies = np.repeat(users.user_rows.numpy(), found.user_weights[users.user_rows].astype(int))
    events = found.parts["train"].take(copies)
    rows = Jagged(torch.from_numpy(events.items.astype(np.int64)), torch.from_numpy(events.offsets))
    model = Ease(found.num_items, l2=5.0)
    list(model.solve(Batch(torch.from_numpy(copies), rows), 0, torch.Generator()))
    assert isinstance(ours, Ease)
    torch.testing.assert_close(ours.between_items, model.between_items, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=item_to_item"], "ItemToItem counts all alike; use another model, or give"),
        (["loss=squared"], "Squared does not multiply the costs of users; use loss=softmax or"),
        (["loss=sampled_softmax", "loss.negatives=2"], "SampledSoftmax does not multiply the cost"),
        (["model=sequence_encoder"], "asked at positions, which have no weights"),
    ],
)
def test_who_cannot_weigh_users_says_so(words: list[str], said: str, tmp_path: Path) -> None:
    prepared(tmp_path)
    with pytest.raises(ConfigError, match=said):
        trained(tmp_path, *words, "trainer.max_epochs=1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (pa.array(["much"] * USERS), "user_weights=paid: must hold numbers, got string"),
        (pa.array([-1.0] * USERS), r"user_weights=paid: must be finite and 0 or more, got -1\.0"),
        (pa.array([0.0] * USERS), "must be above 0 for somebody, got 0 for all users"),
    ],
)
def test_what_is_no_weight_is_refused(weights: pa.Array, said: str, tmp_path: Path) -> None:
    words = shop(tmp_path, weights)
    with pytest.raises(DataError, match=said):
        prepare(config.compose("prepare", words))  # type: ignore[arg-type]


def test_an_attribute_that_is_not_there_is_refused(tmp_path: Path) -> None:
    words = [*shop(tmp_path, pa.array([1.0] * USERS)), "data.filters.user_weights=piad"]
    with pytest.raises(ConfigError, match="there is no such user attribute; did you mean 'paid'"):
        prepare(config.compose("prepare", words))  # type: ignore[arg-type]
