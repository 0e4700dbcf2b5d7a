"""What a narrower catalog table costs, on users of the validation part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deeprec.batch import Batch
from deeprec.data.judge import judged_batch, spread, without_seen
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import ndcg
from deeprec.model.base import Recommender
from deeprec.model.rank import rank

CUTOFF = 100
BATCH_USERS = 256


@dataclass(frozen=True)
class Price:
    """Of one table in the place of another."""

    users: int
    ndcg_before: float  # @100, mean over the users
    ndcg_after: float
    kept: float  # share of the first 100 places whose items are among the first 100 still

    @property
    def loss(self) -> float:
        """Share of ndcg that is lost; negative where there is a gain."""
        return 1 - self.ndcg_after / self.ndcg_before if self.ndcg_before > 0 else 0.0


def price(before: Recommender, after: Recommender, prepared: Prepared, num_users: int) -> Price:
    """Asks two models for the same users, spread over all of the validation part.

    Raises:
        ConfigError: nobody is judged on the validation part.
    """
    scores: list[tuple[float, float, float]] = []
    for batch in _batches(prepared, num_users):
        exclude_seen = not prepared.repeats
        lists = [rank(model, batch, CUTOFF, exclude_seen)[0] for model in (before, after)]
        assert batch.target is not None
        told = [ndcg(Hits.of(items_BK, batch.target), CUTOFF) for items_BK in lists]
        for row in np.flatnonzero(~np.isnan(told[0])):
            scores.append((told[0][row], told[1][row], _kept(lists[0][row], lists[1][row])))
    if not scores:
        raise ConfigError(
            f"{prepared.path} has nobody to validate on, so what a narrower table costs cannot be "
            "known; export with precision=float32, or prepare with a validation part"
        )
    mean = np.mean(scores, 0)
    return Price(len(scores), float(mean[0]), float(mean[1]), float(mean[2]))


def _batches(prepared: Prepared, num_users: int) -> Iterator[Batch]:
    users = spread(prepared.judged_users("validation"), num_users)
    for rows in np.split(users, range(BATCH_USERS, len(users), BATCH_USERS)):
        if len(rows):
            batch = judged_batch(prepared, rows, "validation")
            yield batch if prepared.repeats else without_seen(batch)


def _kept(before_K: Tensor, after_K: Tensor) -> float:
    had = before_K[before_K >= 0]
    return float(torch.isin(had, after_K).float().mean()) if len(had) else 1.0
