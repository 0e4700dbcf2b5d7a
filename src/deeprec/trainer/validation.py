"""How good a model is while it trains: ndcg over the whole catalog, as evaluation computes it."""

from collections.abc import Iterable

import numpy as np
import torch
from lightning.pytorch.utilities import move_data_to_device

from deeprec.batch import Batch, Jagged
from deeprec.halving import Halving, Lists
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import FloatArray, ndcg
from deeprec.model.base import Recommender
from deeprec.model.rank import rank


def validate(
    model: Recommender,
    batches: Iterable[Batch],
    *,
    exclude_seen: bool,
    device: torch.device,
    cutoff: int = 100,
) -> float | None:
    """Mean ndcg@cutoff over the users of the batches that have a target; None: there are none."""
    halving = Halving()
    found = [
        _ndcg_of(model, _on(batch, device), cutoff, exclude_seen, halving) for batch in batches
    ]
    ndcg_U = np.concatenate(found) if found else np.zeros(0)
    return float(ndcg_U.mean()) if len(ndcg_U) else None


def _ndcg_of(
    model: Recommender, batch: Batch, cutoff: int, exclude_seen: bool, halving: Halving
) -> FloatArray:
    """Of the users of a batch that have a target."""
    assert batch.target is not None

    def lists(start: int, stop: int) -> Lists:
        return rank(model, batch.some(start, stop), cutoff, exclude_seen)

    items_BK, _ = halving(lists, batch.num_users)
    target = Jagged(batch.target.values.cpu(), batch.target.offsets.cpu())
    ndcg_B = ndcg(Hits.of(items_BK.cpu(), target), cutoff)
    return ndcg_B[~np.isnan(ndcg_B)]


def _on(batch: Batch, device: torch.device) -> Batch:
    moved: Batch = move_data_to_device(batch, device)
    return moved
