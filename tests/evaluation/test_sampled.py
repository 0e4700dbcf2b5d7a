"""Metrics against drawn negatives, by a loop over positions, and never without their warning."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
import standin
from deeprec.batch import Batch
from deeprec.data.judge import judged_batch
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.evaluate import evaluate
from deeprec.evaluation.question import Question
from deeprec.evaluation.sampled import Sampled, _negatives, sampled_metrics
from deeprec.evaluation.system import System, open_systems
from deeprec.model.rank import rank
from deeprec.verb import EvaluateConfig


@pytest.fixture
def question(tmp_path: Path) -> Question:
    prepared = standin.prepared_folder(tmp_path / "prepared")
    return Question(prepared, "holdout", False, [1, 3], 7, prepared.judged_users("holdout"))


def ranking(num_items: int) -> Callable[[Batch, int], Tensor]:
    """A list of the whole catalog for each user, the same whatever the batch."""

    def lists(batch: Batch, k: int) -> Tensor:
        rows = [np.random.default_rng(int(row)).permutation(num_items) for row in batch.user_rows]
        return torch.from_numpy(np.stack(rows)[:, :k])

    return lists


def test_a_target_stands_where_it_would_among_the_drawn(question: Question) -> None:
    num_items = question.prepared.num_items
    lists = ranking(num_items)
    (values,) = sampled_metrics(question, [System("any", "run", lists)], 5, seed=2).values
    batch = judged_batch(question.prepared, question.users, "holdout")
    assert batch.target is not None
    for user in range(batch.num_users):
        start, end = batch.target.offsets[user : user + 2].tolist()
        taken = set(batch.target.values[start:end].tolist())
        drawn = set(_negatives(question, batch, user, 5, seed=2).tolist())
        history = batch.history.values[
            batch.history.offsets[user] : batch.history.offsets[user + 1]
        ]
        assert len(drawn) == 5
        assert not drawn & (taken | set(history.tolist()))
        order = lists(batch, num_items)[user].tolist()
        ranked = [item for item in order if item in taken | drawn]
        for k in (1, 3):
            truth = reference.metrics(ranked, taken, k, len(ranked))
            for name in ("ndcg", "recall", "hit"):
                assert values[f"sampled_{name}@{k}"][user] == pytest.approx(truth[name])


def test_users_with_fewer_items_to_draw_from_are_counted(question: Question) -> None:
    num_items = question.prepared.num_items
    batch = judged_batch(question.prepared, question.users, "holdout")
    assert batch.target is not None
    known = [
        set(batch.history.rows(user, user + 1).values.tolist())
        | set(batch.target.rows(user, user + 1).values.tolist())
        for user in range(batch.num_users)
    ]
    asked = num_items - 5
    found = sampled_metrics(question, [System("any", "run", ranking(num_items))], asked, seed=2)
    assert found.num_drawn.tolist() == [min(asked, num_items - len(items)) for items in known]
    few = sum(len(items) > 5 for items in known)
    assert 0 < few < len(known)
    warned = f"{few} of {len(known)} users have fewer than {asked} items that they neither had"
    assert warned in found.warnings(asked)[1]
    assert len(found.warnings(1)) == 1  # so many everybody has
    assert "; 2 of them have none" in Sampled([], np.array([0, 3, 4, 0])).warnings(4)[1]


def test_what_a_file_does_not_name_stands_behind_wanted_items_last(question: Question) -> None:
    empty = System(
        "file",
        "recommendations",
        lambda batch, k: torch.full((batch.num_users, 3), -1),
        longest=3,
    )
    (values,) = sampled_metrics(question, [empty], 5, seed=2).values
    assert all((of_users == 0).all() for of_users in values.values())


def test_a_bundle_of_more_items_than_its_lists_hold_is_as_its_model(tmp_path: Path) -> None:
    path = standin.bundle_folder(tmp_path / "bundle", num_items=10_010, num_users=20)
    prepared = Prepared(tmp_path / "bundle-prepared")
    users = prepared.judged_users("holdout")
    question = Question(prepared, "holdout", True, [1, 3], 7, users)
    model = standin.trained(prepared).model
    whole = System("model", "run", lambda batch, k: rank(model, batch, k, True)[0])
    bundle = open_systems([path], [], question, torch.device("cpu"))
    of_model, of_bundle = sampled_metrics(question, [whole, *bundle], 5, seed=2).values
    for name, values in of_model.items():
        np.testing.assert_array_equal(of_bundle[name], values)
    assert 0.1 < of_model["sampled_hit@3"].mean() < 0.9


def test_more_negatives_than_items_are_refused_before_anything_is_opened(
    question: Question, tmp_path: Path
) -> None:
    (tmp_path / "lists.csv").write_text("no lists")
    config = EvaluateConfig(
        recommendations=str(tmp_path / "lists.csv"),
        prepared=str(question.prepared.path),
        output_dir=str(tmp_path / "report"),
        sampled_negatives=question.prepared.num_items,
    )
    with pytest.raises(ConfigError, match="draw fewer"):
        evaluate(config)
