"""How good a model is while it trains: ndcg over the whole catalog, as evaluation computes it."""

from collections.abc import Iterable

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor

from deeprec.batch import Batch, Jagged
from deeprec.metric.ranking import ndcg
from deeprec.model.base import Recommender
from deeprec.model.rank import rank

CUTOFF = 100


def validate(
    model: Recommender, batches: Iterable[Batch], *, exclude_seen: bool, device: torch.device
) -> float | None:
    """Mean ndcg@100 over the users of the batches that have a target; None if there are none."""
    found = [_ndcg_of(model, _on(batch, device), exclude_seen) for batch in batches]
    ndcg_U = torch.cat(found) if found else torch.zeros(0)
    return ndcg_U.mean().item() if len(ndcg_U) else None


def hits(items_BK: Tensor, target: Jagged, num_items: int) -> Tensor:
    """Bool [B, K]: whether each recommended item is in its user's target."""
    users_B1 = torch.arange(len(items_BK), device=items_BK.device)[:, None]
    users_N = torch.repeat_interleave(target.offsets.diff())
    found = torch.isin(users_B1 * num_items + items_BK, users_N * num_items + target.values)
    return found & (items_BK >= 0)


def _ndcg_of(model: Recommender, batch: Batch, exclude_seen: bool) -> Tensor:
    assert batch.target is not None
    items_BK, _ = rank(model, batch, CUTOFF, exclude_seen)
    hits_BK = hits(items_BK, batch.target, len(model.item_bias))
    num_relevant = batch.target.offsets.diff()
    judged = num_relevant > 0
    ndcg_B: Tensor = ndcg(hits_BK[judged], num_relevant[judged]).double().cpu()
    return ndcg_B


def _on(batch: Batch, device: torch.device) -> Batch:
    moved: Batch = move_data_to_device(batch, device)
    return moved
