"""A model's lists are the best items of its dense scores, and never hold a NaN."""

from pathlib import Path

import numpy as np
import pytest
import torch

import reference
from deeprec.data.judge import judged_batch
from deeprec.errors import NonFiniteError
from deeprec.model.rank import rank
from standin import FIELDS, StandIn, prepared_folder


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("times", [True, False])
def test_lists_are_the_best_of_the_dense_scores(
    tmp_path: Path, exclude_seen: bool, times: bool
) -> None:
    prepared = prepared_folder(tmp_path / "prepared", times=times)
    batch = judged_batch(prepared, np.arange(prepared.num_users), "holdout")
    model = StandIn(prepared.num_items, FIELDS)
    items, scores = rank(model, batch, 8, exclude_seen, block_items=7)

    attributes = {name: (rows.values, rows.offsets) for name, rows in batch.attributes.items()}
    ages = torch.zeros(0) if batch.ages is None else batch.ages
    encoded = model.encode(batch.history.values, batch.history.offsets, ages, attributes)
    dense = reference.dense_scores(encoded, model.item_weight, model.item_bias)
    seen = reference.rows(batch.history.values, batch.history.offsets)
    excluded = [[int(item) for item in row] if exclude_seen else [] for row in seen]
    expected_items, expected_scores = reference.top_k(dense.tolist(), 8, excluded)
    assert items.tolist() == expected_items
    assert scores.numpy() == pytest.approx(np.array(expected_scores), rel=1e-5)


def test_a_score_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    prepared = prepared_folder(tmp_path / "prepared", num_users=3)
    model = StandIn(prepared.num_items, FIELDS)
    model.item_bias[5] = torch.nan
    batch = judged_batch(prepared, np.arange(3), "holdout")
    with pytest.raises(NonFiniteError, match="scores an item NaN"):
        rank(model, batch, 4, exclude_seen=False)
