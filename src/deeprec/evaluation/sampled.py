"""Metrics against a few drawn negatives, as many older papers give them, under names that say so.

They are a different quantity: with few negatives almost any list looks good, and which of two
systems is ahead may turn around. They are for reading old tables, never for choosing a system.

Reference:
    Krichene and Rendle, On Sampled Metrics for Item Recommendation, KDD 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from deeprec.batch import Batch, Jagged
from deeprec.console import progress
from deeprec.errors import ConfigError
from deeprec.evaluation.judging import FloatArray
from deeprec.evaluation.question import Question
from deeprec.evaluation.slices import IntArray
from deeprec.evaluation.system import System
from deeprec.metric import ranking
from deeprec.metric.hits import Hits

WARNING = (
    "sampled_* rank what a user took among {negatives} drawn items only: they lie far above the "
    "figures over the whole catalog and may put systems in another order; use them to compare "
    "with papers that give nothing else, never to choose"
)
FEWER = (
    "sampled_*: {few:,} of {judged:,} users have fewer than {negatives} items that they neither "
    "had nor took, and are judged against these"
)
NONE = "; {none:,} of them have none, and every system scores as well as can be for them"
SAMPLED = {
    "sampled_NAME@k": "NAME@k where only what the user took and the drawn items are ranked; equal "
    "places count against what was taken"
}
CELLS = 2**25  # places of whole-catalog lists held at once: 256 MB


def refuse_more_than_there_are(negatives: int, num_items: int) -> None:
    """Raises ConfigError where a catalog has not so many negatives for anyone."""
    if negatives >= num_items:
        raise ConfigError(
            f"sampled_negatives: {negatives} of a catalog of {num_items} items; draw fewer"
        )


@dataclass(frozen=True)
class Sampled:
    """What was found against drawn items.

    Args:
        values: per system, `sampled_ndcg@k`, `sampled_recall@k` and `sampled_hit@k`, each [U].
        num_drawn: int64 [U], negatives of each user.
    """

    values: list[dict[str, FloatArray]]
    num_drawn: IntArray

    def warnings(self, negatives: int) -> list[str]:
        """What must be said beside them, where so many negatives were asked for."""
        few, none = int((self.num_drawn < negatives).sum()), int((self.num_drawn == 0).sum())
        said = FEWER.format(few=few, judged=len(self.num_drawn), negatives=negatives)
        fewer = [said + NONE.format(none=none) if none else said] if few else []
        return [WARNING.format(negatives=negatives), *fewer]


def sampled_metrics(
    question: Question, systems: Sequence[System], negatives: int, seed: int
) -> Sampled:
    """Judges each system on what users took among items drawn for them.

    A user's negatives are drawn uniformly from the items that the user neither had nor took, the
    same for every system; where there are not so many, a user has fewer. What a list does not name
    stands behind what it names, wanted items last. A bundle, which gives no list of a large
    catalog, is asked for these items alone.
    """
    batch_users = max(1, min(question.batch_users, CELLS // question.prepared.num_items))
    asked = replace(question, batch_users=batch_users)
    found: list[dict[str, list[FloatArray]]] = [{} for _ in systems]
    num_drawn: list[int] = []
    with progress("ranking against drawn items", len(question.users), "users") as advance:
        for looked_at, batch in asked.batches():
            if batch.num_users:
                drawn = [_negatives(asked, batch, user, negatives, seed) for user in _users(batch)]
                num_drawn += map(len, drawn)
                for system, values in zip(systems, found, strict=True):
                    _judge(asked, system, batch, drawn, values)
            advance(looked_at)
    joined = [{name: np.concatenate(parts) for name, parts in of.items()} for of in found]
    return Sampled(joined, np.array(num_drawn, np.int64))


def _users(batch: Batch) -> range:
    return range(batch.num_users)


def _negatives(question: Question, batch: Batch, user: int, negatives: int, seed: int) -> Tensor:
    """Distinct items that the user neither had nor took, int64 [up to `negatives`]."""
    assert batch.target is not None
    target, history = batch.target, batch.history
    taken = target.values[target.offsets[user] : target.offsets[user + 1]].numpy()
    had = history.values[history.offsets[user] : history.offsets[user + 1]].numpy()
    barred = np.union1d(taken, had)
    num_items = question.prepared.num_items
    draw = np.random.default_rng([seed, int(batch.user_rows[user])])
    drawn = draw.choice(num_items, min(num_items, negatives + len(barred)), replace=False)
    return torch.from_numpy(drawn[~np.isin(drawn, barred)][:negatives])


def _lists(system: System, batch: Batch, drawn: Sequence[Tensor], num_items: int) -> Tensor:
    """What stands in which order, of all items or of those that are looked at, int64 [B, K]."""
    longest = num_items if system.longest is None else min(num_items, system.longest)
    if system.among is None:
        return system.lists(batch, longest)
    assert batch.target is not None
    rows = [
        torch.cat([batch.target.rows(user, user + 1).values, drawn[user]]) for user in _users(batch)
    ]
    ends = torch.tensor([0, *map(len, rows)]).cumsum(0)
    k = min(longest, max(map(len, rows)))
    return system.among(batch, k, Jagged(torch.cat(rows), ends))


def _judge(
    question: Question,
    system: System,
    batch: Batch,
    drawn: Sequence[Tensor],
    values: dict[str, list[FloatArray]],
) -> None:
    assert batch.target is not None
    num_items = question.prepared.num_items
    items_BK = _lists(system, batch, drawn, num_items)
    behind = items_BK.shape[1]
    place_BV = torch.full((batch.num_users, num_items + 1), behind)
    places_BK = torch.arange(behind).expand_as(items_BK)
    place_BV.scatter_(1, torch.where(items_BK >= 0, items_BK, num_items), places_BK)
    target, positions = batch.target, []
    for user in _users(batch):
        taken = target.values[target.offsets[user] : target.offsets[user + 1]]
        wanted = place_BV[user, taken].sort().values
        others = place_BV[user, drawn[user]].sort().values
        # one behind each negative at the same place or before it
        before = torch.searchsorted(others, wanted, side="right") + torch.arange(len(wanted))
        positions.append((before + 1).tolist())
    hits = Hits.at(positions, target.offsets.diff().tolist())
    for k in question.cutoffs:
        for metric in (ranking.ndcg, ranking.recall, ranking.hit):
            values.setdefault(f"sampled_{metric.__name__}@{k}", []).append(metric(hits, k))
