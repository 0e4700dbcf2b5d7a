"""Controls: scorers whose right answers are known, sent through the same ranking and metrics.

They say whether the harness can be believed on this very data: a random scorer must find what
chance finds, a constant one must not find more, popularity must be ranked as counting ranks it, and
a score that is no number must be refused.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor, nn

from deeprec.batch import Batch, Encoded
from deeprec.data.dataset import drawn_users
from deeprec.data.judge import distinct
from deeprec.data.leakage import Finding, Level
from deeprec.errors import NonFiniteError
from deeprec.evaluation.question import Question
from deeprec.halving import Lists
from deeprec.metric import expectation
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import recall
from deeprec.model.base import Recommender
from deeprec.model.rank import rank, seen_if
from deeprec.model.repeat import without_repeat

MOST_USERS, FEW_USERS = 1000, 50  # enough to see a mistake
MOST_CELLS = 2e9  # users times items that are ranked
ORDERS = 1000  # of the catalog that a constant scorer is compared with
UNLIKELY = 0.001  # what chance would do so rarely is no chance

IntArray = npt.NDArray[np.int64]


def controls(question: Question, cutoff: int, seed: int) -> list[dict[str, Any]]:
    """All controls at one cutoff, on at most 1,000 of the users; what report.json holds."""
    most = int(min(MOST_USERS, max(FEW_USERS, MOST_CELLS // question.prepared.num_items)))
    users = drawn_users(question.users, most, seed)
    asked = Question(
        question.prepared, question.part, question.exclude_seen, [cutoff], len(users), users
    )
    _, batch = next(asked.batches())
    found = (_random, _constant, _popularity, _not_a_number)
    return [asdict(one(question, batch, cutoff, seed)) for one in found]


def _random(question: Question, batch: Batch, k: int, seed: int) -> Finding:
    """Each user a random list of the candidates: of h relevant ones it finds h k / candidates."""
    assert batch.target is not None
    items_BK = _random_lists(question, batch, k, seed)
    num_relevant_B = batch.target.offsets.diff().numpy()
    num_candidates_B = question.num_candidates(distinct(batch.history))
    chance_B = expectation.recall(num_relevant_B, num_candidates_B, k)
    hits, expected = len(Hits.of(items_BK, batch.target).users_H), num_relevant_B @ chance_B
    floors = {
        f"expected_{name}@{k}": float(of(num_relevant_B, num_candidates_B, k).mean())
        for name, of in expectation.EXPECTED.items()
    }
    # the true spread is that of hypergeometric counts, which is smaller
    p = 2 * min(stats.poisson.cdf(hits, expected), stats.poisson.sf(hits - 1, expected))
    says = (
        f"random lists of {k} found {hits:,} of {num_relevant_B.sum():,} items; chance expects "
        f"{expected:,.1f} (p {min(1.0, p):.2g}), and ndcg@{k} {floors[f'expected_ndcg@{k}']:.2g}"
    )
    level: Level = "ok" if p >= UNLIKELY else "fail"
    if level == "fail":
        says += "; lists or metrics of this report are wrong, please tell the authors"
    facts = {"found": hits, "expected": float(expected), "p": min(1.0, float(p)), **floors}
    return Finding("random", level, says, facts)


def _constant(question: Question, batch: Batch, k: int, seed: int) -> Finding:
    """All items score the same, so ties alone decide: by index, which must not tell what is taken.

    What a list that is the same for all finds depends on its items only, so it is compared with the
    lists that other orders of the catalog would give.
    """
    num_items = question.prepared.num_items
    right = _in_order(np.arange(num_items), question, batch, k)
    same = _ranked(torch.zeros(num_items), question, batch, k)
    weight_V = _worth(batch, num_items)
    draw = np.random.default_rng(seed)
    size = min(k, num_items)
    others = np.array(
        [weight_V[draw.choice(num_items, size, replace=False)].sum() for _ in range(ORDERS)]
    )
    found, expected = float(weight_V[:size].sum()), float(weight_V.sum() * size / num_items)
    p = float((1 + (others >= found - 1e-12).sum()) / (1 + ORDERS))
    says = (
        f"the first {k} items of the catalog score recall@{k} {found:.5f}; a random order of it "
        f"expects {expected:.5f}, and {100 * p:.1f} % of the orders reach as much"
    )
    level: Level = "ok" if p > 1 / ORDERS else "warn"
    if level == "warn":
        says += (
            "; the order of item ids tells what is taken, and ties go to lower indices: many "
            "equal scores would look like skill"
        )
    if not np.array_equal(right, same):
        level, says = "fail", f"equal scores were not ranked by item index; {says}"
    return Finding("constant", level, says, {"found": found, "expected": expected, "p": p})


def _popularity(question: Question, batch: Batch, k: int, seed: int) -> Finding:
    """The ranker must list by popularity what sorting by popularity lists."""
    popularity_V = question.prepared.popularity
    order = np.argsort(-popularity_V, kind="stable")
    right = _in_order(order, question, batch, k)
    ranked = _ranked(torch.tensor(popularity_V).float(), question, batch, k)
    share = float((right == ranked).mean())
    assert batch.target is not None
    found = float(recall(Hits.of(torch.from_numpy(ranked), batch.target), k).mean())
    level: Level = "ok" if share == 1 else "fail"
    says = (
        f"popularity ranked equals popularity sorted in {100 * share:.4g} % of "
        f"{right.size:,} places; recall@{k} {found:.5f}"
    )
    return Finding("popularity", level, says, {"equal": share, "found": found})


def _not_a_number(question: Question, batch: Batch, k: int, seed: int) -> Finding:
    """One score that is NaN must stop the ranking."""
    scores_V = torch.zeros(question.prepared.num_items)
    scores_V[-1] = torch.nan
    try:
        _ranked(scores_V, question, batch, k)
    except NonFiniteError:
        return Finding("nan", "ok", "a score of NaN is refused, never ranked", {})
    return Finding("nan", "fail", "a score of NaN was ranked", {})


class _SameForAll(nn.Module):
    """A recommender that scores every item the same for everyone, in its output bias alone."""

    def __init__(self, scores_V: Tensor) -> None:
        super().__init__()
        self.item_weight = nn.Parameter(torch.zeros(len(scores_V), 1), requires_grad=False)
        self.item_bias = nn.Parameter(scores_V, requires_grad=False)

    def encode(self, items_N: Tensor, offsets_B1: Tensor, *_: object) -> Encoded:
        return without_repeat(torch.zeros(len(offsets_B1) - 1, 1))


def _ranked(scores_V: Tensor, question: Question, batch: Batch, k: int) -> IntArray:
    """What a run with these scores would list: int64 [B, K]."""
    model = cast(Recommender, _SameForAll(scores_V))

    def asked(start: int, stop: int) -> Lists:
        return rank(model, batch.some(start, stop), k, question.exclude_seen)

    return question.halving(asked, batch.num_users)[0].numpy()


def _seen(question: Question, batch: Batch) -> Iterator[IntArray]:
    """The distinct items that each user must not get."""
    values, offsets = seen_if(question.exclude_seen, batch)
    for seen in np.split(values.numpy(), offsets[1:-1].numpy()):
        yield np.unique(seen)


def _in_order(order_V: IntArray, question: Question, batch: Batch, k: int) -> IntArray:
    """The first k items of an order that each user may get, by plain filtering: int64 [B, K]."""
    lists = np.full((batch.num_users, k), -1, np.int64)
    for user, seen in enumerate(_seen(question, batch)):
        _fill(lists[user], order_V[: k + len(seen)], seen)
    return lists


def _random_lists(question: Question, batch: Batch, k: int, seed: int) -> Tensor:
    """Each user a list of their own, drawn from the candidates alone: int64 [B, K]."""
    num_items = question.prepared.num_items
    lists = np.full((batch.num_users, k), -1, np.int64)
    for user, seen in enumerate(_seen(question, batch)):
        draw = np.random.default_rng([seed, int(batch.user_rows[user])])
        size = min(num_items, k + len(seen))
        _fill(lists[user], draw.choice(num_items, size, replace=False), seen)
    return torch.from_numpy(lists)


def _fill(list_K: IntArray, items: IntArray, seen: IntArray) -> None:
    """Puts the first of the items that are not seen into a list, as far as they go."""
    kept = items[~np.isin(items, seen)][: len(list_K)]
    list_K[: len(kept)] = kept


def _worth(batch: Batch, num_items: int) -> npt.NDArray[np.float64]:
    """float64 [V]: the mean recall that an item gives by being in everybody's list."""
    assert batch.target is not None
    lengths_B = batch.target.offsets.diff().numpy()
    weight_N = np.repeat(1 / lengths_B / batch.num_users, lengths_B)
    worth_V = np.bincount(batch.target.values.numpy(), weight_N, num_items).astype(np.float64)
    return worth_V
