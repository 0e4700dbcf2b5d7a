"""Whether a run is still worth something: its norms, and its end against its beginning."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from deeprec.errors import DataError, NonFiniteError

LOWER = "Lower the learning rates (optimizer.lr, optimizer.table_lr) or give optimizer.warmup_steps"
OTHER = "Nothing is learned in steps here: change the settings of model, or the weights of users"
# above these a run is called wrecked: sound ones stay far below, whatever loss they have
TIMES = 100.0  # the first loss; that of a sum over targets varies tenfold between batches
SMALLEST = 1.0  # nats or the like; some losses begin near 0
FEW = 0.05  # of the users, with something to learn in an epoch
BY_CHANCE = 20  # users, of fewer of whom none may have anything to learn in an epoch
TO_MANY = (
    "where it is target=after_cut, a cut at a time may leave most users on one side of it: cut "
    "between events (target.window_events=1), or at more days (target.cut_days=null)"
)
JUDGED = 100  # users; the mean score of fewer falls to its half by chance


def norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all of them together; on CUDA this waits for the device."""
    return math.hypot(*(torch.linalg.vector_norm(one.detach()).item() for one in tensors))


def way_out(model: nn.Module) -> str:
    """What to change where a weight is not finite."""
    return OTHER if hasattr(model, "solve") else LOWER


def weight_norm(model: nn.Module, step: int) -> float:
    """The norm of what is learned.

    Raises:
        NonFiniteError: it is not finite, though no weight need be.
    """
    found = norm(model.parameters())
    if not math.isfinite(found):
        norms = {name: norm([one]) for name, one in model.named_parameters()}
        worst = next(name for name, one in norms.items() if not math.isfinite(one))
        raise NonFiniteError(
            f"the norm of {worst} became {norms[worst]} at or before step {step}; nothing of it is "
            f"saved. {way_out(model)}"
        )
    return found


def few_taught(taught: int, num_users: int) -> str | None:
    """What to say of a first epoch in which few users had something to learn; None: nothing.

    Raises:
        DataError: nobody had, and that is no chance.
    """
    if taught == 0 and num_users >= BY_CHANCE:
        raise DataError(
            f"none of {num_users:,} users had both a history and a target in an epoch, so nothing "
            f"is learned; {TO_MANY}, or use target=reconstruct"
        )
    if taught >= FEW * num_users:
        return None
    return f"in this epoch {taught:,} of {num_users:,} users had something to learn; {TO_MANY}"


def warning(
    *,
    first_loss: float | None,
    last_loss: float | None,
    best_score: float | None,
    last_score: float | None,
    judged: int,
    metric: str = "ndcg@100",
) -> str | None:
    """What to say of a run that ended far worse than it was; None: it did not.

    Args:
        first_loss: of the first step, before anything was learned; None: unknown.
        last_loss: the mean of the last epoch.
        best_score: of all validations; None: there was none.
        last_score: of the last one.
        judged: users validated on.
        metric: of the scores.

    Example:
        >>> told = {"best_score": 0.4, "last_score": 0.3, "judged": 500}
        >>> warning(first_loss=18.8, last_loss=1e11, **told)[:62]
        'the loss was 18.8 at the first step, 1e+11 at the end: trainin'
        >>> warning(first_loss=18.8, last_loss=100.0, **told) is None
        True
    """
    found = []
    if None not in (first_loss, last_loss) and _rose(first_loss or 0.0, last_loss or 0.0):
        found.append(f"the loss was {first_loss:.3g} at the first step, {last_loss:.3g} at the end")
    fell = last_score is not None and last_score < (best_score or 0.0) / 2
    if fell and judged >= JUDGED:
        found.append(f"{metric} was {best_score:.4f} at its best, {last_score:.4f} at the end")
    advice = f". {LOWER}" if first_loss is not None else ""  # a solved model has no learning rates
    return f"{', and '.join(found)}: training went wrong{advice}" if found else None


def _rose(first: float, last: float) -> bool:
    return last > TIMES * max(abs(first), SMALLEST)
