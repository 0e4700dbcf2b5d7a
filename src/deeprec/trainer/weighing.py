"""Which weights a blend takes: those that are best on validation."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from rich.status import Status
from torch import Tensor

from deeprec.batch import Batch
from deeprec.console import SECONDS_A_LINE, console, progress
from deeprec.data.dataset import JudgedBatches
from deeprec.data.store import Prepared
from deeprec.errors import DataError
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import FloatArray, ndcg
from deeprec.model.blend import Blend, scores_at
from deeprec.model.rank import seen_if
from deeprec.model.topk import keys_of, no_key, top_k

BATCH_USERS = 256
SPARE = 100  # items that each member puts forward beside as many as a list has
STEPS = (0.2, 0.1, 0.05)  # by which weight goes from one member to another
LONG = 10.0  # seconds: what takes so long is told before

Weights = tuple[float, ...]


class NobodyJudgedError(DataError):
    """No user can be judged on validation, so weights cannot be chosen."""


@dataclass(frozen=True)
class Candidates:
    """Some users, the items that may come into their lists, and what each member says of these."""

    batch: Batch
    items_BC: Tensor  # int64, distinct inside a user; -1: none
    scores_NBC: Tensor  # float32, of each of N members, over their spread; 0 beside -1

    @property
    def judges_somebody(self) -> bool:
        """Whether any of the users took something."""
        return self.batch.target is not None and len(self.batch.target.values) > 0

    def ndcg(self, weights: Weights, cutoff: int) -> FloatArray:
        """Of each user by the weighted sum; NaN where nothing was taken."""
        scores_BC = torch.tensordot(torch.tensor(weights), self.scores_NBC, 1)
        keys_BC = keys_of(scores_BC, self.items_BC)  # of equal scores the lower item, as in lists
        keys_BC.masked_fill_(self.items_BC < 0, no_key())
        best_BK = keys_BC.topk(min(cutoff, keys_BC.shape[1]), dim=1).indices
        assert self.batch.target is not None
        return ndcg(Hits.of(self.items_BC.gather(1, best_BK), self.batch.target), cutoff)


def tried(
    model: Blend, prepared: Prepared, max_users: int, cutoff: int
) -> Callable[[Weights], float]:
    """Validation ndcg@cutoff by weights, among the items that some member ranks high.

    Raises:
        NobodyJudgedError: nobody is left to validate on.
    """
    judged = JudgedBatches(
        prepared,
        "validation",
        batch_users=BATCH_USERS,
        max_users=max_users,
        exclude_seen=not prepared.repeats,
    )
    if not len(judged.users):
        raise NobodyJudgedError(
            f"{prepared.path}: nobody has events to validate on, so weights cannot be chosen; "
            "prepare with a validation part, or give weights"
        )
    found: list[Candidates] = []
    with progress("scoring the runs on validation", len(judged.users), "users") as advance:
        for batch in judged:
            found.append(_candidates(model, batch, judged.exclude_seen, cutoff + SPARE))
            advance(batch.num_users)
    if not any(one.judges_somebody for one in found):
        users = len(judged.users)
        raise NobodyJudgedError(
            f"{prepared.path}: of {users:,} validation user{'s' * (users != 1)} none took an item "
            "there that was new to them, so nobody can be judged and weights cannot be chosen; "
            "prepare with a larger validation part, or give weights"
        )

    def score(weights: Weights) -> float:
        return float(np.nanmean(np.concatenate([one.ndcg(weights, cutoff) for one in found])))

    return score


@torch.no_grad()
def _candidates(model: Blend, batch: Batch, exclude_seen: bool, ranked: int) -> Candidates:
    seen = seen_if(exclude_seen, batch)
    alone = model.standardised(batch)
    lists = [top_k(said, table, model.item_bias, ranked, *seen)[0] for said, table in alone]
    items_BC = distinct(torch.cat(lists, 1))
    scores_NBC = torch.stack([scores_at(said, table, items_BC) for said, table in alone])
    return Candidates(batch, items_BC, scores_NBC.masked_fill_(items_BC < 0, 0.0))


def distinct(items_BL: Tensor) -> Tensor:
    """Each user's items once, ascending, and -1 after them; no wider than the longest row needs.

    Members put forward much the same: of nine on MovieLens 1M, a fifth of what they do is distinct,
    and weights are tried hundreds of times.

    Example:
        >>> distinct(torch.tensor([[5, 2, 5, 2], [3, -1, 7, 3]])).tolist()
        [[2, 5], [3, 7]]
    """
    none = torch.iinfo(items_BL.dtype).max  # stands last
    items_BL = items_BL.masked_fill(items_BL < 0, none).sort(1).values
    items_BL[:, 1:].masked_fill_(items_BL.diff(dim=1) == 0, none)
    items_BL = items_BL.sort(1).values
    longest = max(1, int((items_BL < none).sum(1).max()))
    return items_BL[:, :longest].masked_fill(items_BL[:, :longest] == none, -1)


def climbed(score: Callable[[Weights], float], num_members: int) -> Weights:
    """The best weights that are found by moving some from one member to another, ever less.

    From equal ones, and from all on the best member if that is better than these.

    Example:
        >>> weights = climbed(lambda w: -((w[0] - 0.7) ** 2), 2)
        >>> [round(weight, 2) for weight in weights]
        [0.7, 0.3]
    """
    equal: Weights = (1.0 / num_members,) * num_members
    begun = time.monotonic()
    alone = max((only(index, num_members) for index in range(num_members)), key=score)
    seconds = (time.monotonic() - begun) / num_members  # a try
    begins = [equal, alone] if score(alone) > score(equal) else [equal]
    seconds *= len(begins) * len(STEPS) * num_members * (num_members - 1)
    with console.status("choosing weights") as status:
        shown = Shown(status)
        if seconds >= LONG:
            console.print(f"choosing weights of {num_members} models: about {seconds:,.0f} seconds")
        found = [_climbed_from(begin, score, shown) for begin in begins]
    return max(found, key=score)


class Shown:
    """Tells how far the choice is; in a log now and then, as `deeprec.console.Advance`.

    Args:
        status: where it is told in a terminal.
    """

    def __init__(self, status: Status) -> None:
        self.status, self.tried, self._told = status, 0, time.monotonic()

    def __call__(self, top: float) -> None:
        """One more was tried; `top` is the best score so far."""
        self.tried += 1
        text = f"choosing weights: {self.tried:,} tried, {top:.4f} so far"
        self.status.update(text)
        if not console.is_terminal and time.monotonic() - self._told >= SECONDS_A_LINE:
            self._told = time.monotonic()
            console.print(text)


def only(index: int, num_members: int) -> Weights:
    """All on one member."""
    return tuple(1.0 if other == index else 0.0 for other in range(num_members))


def _climbed_from(best: Weights, score: Callable[[Weights], float], shown: Shown) -> Weights:
    top = score(best)
    for step in STEPS:
        gained = True
        while gained:
            gained = False
            for giver, taker in permutations(range(len(best)), 2):
                moved = _moved(best, giver, taker, step)
                if (reached := score(moved)) > top:
                    best, top, gained = moved, reached, True
                shown(top)
    return best


def _moved(weights: Weights, giver: int, taker: int, step: float) -> Weights:
    """The same but for so much that goes from one member to another, or what there is."""
    moved = list(weights)
    given = min(step, moved[giver])
    moved[giver], moved[taker] = moved[giver] - given, moved[taker] + given
    return tuple(round(weight, 6) for weight in moved)
