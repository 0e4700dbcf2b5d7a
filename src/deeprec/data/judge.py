"""Users as they stood before a part, and what they did in it: what models are judged on.

Validation, evaluation, export and recommendation all show a user to a model through here.
"""

import numpy as np
import numpy.typing as npt
import torch

from deeprec.batch import Batch, Jagged, offsets_of_kept, ordered
from deeprec.data.store import SECONDS_PER_DAY, Events, PartName, Prepared


def judged_batch(
    prepared: Prepared,
    user_rows: npt.NDArray[np.int64],
    part: PartName,
    *,
    with_target: bool = True,
) -> Batch:
    """The histories of these users before `part`, and the items they took in it.

    Ages count from the moment of prediction: the instant of a time cut, else the user's first
    event in `part`, else (a user without any) the user's latest event. An event after that moment,
    which only a split that ignores time leaves in a history, has age 0.

    Args:
        prepared: the prepared folder.
        user_rows: int64 [B], rows in users.parquet, in the order wanted.
        part: what is predicted. Before the holdout lie train and validation, else train alone.
        with_target: whether to read the part's items; without, `target` is None.

    Returns:
        Batch of B users: history oldest first with repeats, event values as its weights where
        known, ages where times are known, one `attributes` entry per vocabulary, and as target
        each user's distinct items of `part`, ascending.
    """
    history = prepared.history(user_rows, part)
    judged = prepared.parts[part].take(user_rows)
    return Batch(
        user_rows=torch.from_numpy(np.asarray(user_rows, np.int64)),
        history=_jagged(history.items, history.offsets, history.values),
        ages=_ages(history, judged, prepared.instant(part)),
        attributes=attributes_of(prepared, user_rows),
        target=distinct(_jagged(judged.items, judged.offsets)) if with_target else None,
    )


def spread(users: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most so many of the users, at even distances, the first and the last among them.

    Example:
        >>> spread(np.arange(10, 20), 3).tolist()
        [10, 14, 19]
    """
    places = np.linspace(0, len(users) - 1, min(most, len(users))).astype(np.int64)
    return users[places]


def known_users(prepared: Prepared, part: PartName) -> Batch:
    """Whom solved models learn from: those who may be trained on, with what is known before `part`.

    Users who are only judged (the unseen ones of a user holdout) are not among them.
    """
    users = np.flatnonzero(np.isin(prepared.roles, ["all", "train"]))
    return judged_batch(prepared, users, part, with_target=False)


def share_had_before(prepared: Prepared, part: PartName, max_users: int) -> float | None:
    """Of the events of a part those whose item the user had before; None: the part is empty.

    Args:
        prepared: the folder.
        part: `validation` or `holdout`.
        max_users: so many are looked at.
    """
    users = spread(prepared.judged_users(part), max_users)
    history, judged = prepared.history(users, part), prepared.parts[part].take(users)
    asked, known = (_jagged(one.items, one.offsets) for one in (judged, history))
    span = prepared.num_items
    again = np.isin(_pairs(asked, span), _pairs(known, span))
    return float(again.mean()) if len(again) else None


def attributes_of(prepared: Prepared, user_rows: npt.NDArray[np.int64]) -> dict[str, Jagged]:
    """Per user attribute with a vocabulary, indices of its values; a user with none owns none."""
    return {name: prepared.attribute(name, user_rows) for name in prepared.vocabularies}


def distinct(rows: Jagged) -> Jagged:
    """Each row's distinct values, ascending; weights are left behind.

    Example:
        >>> distinct(Jagged(torch.tensor([5, 3, 5, 9]), torch.tensor([0, 3, 3, 4])))
        Jagged(values=tensor([3, 5, 9]), offsets=tensor([0, 2, 2, 3]), weights=None)
    """
    values, lengths = rows.values.numpy(), np.diff(rows.offsets.numpy())
    owners = np.repeat(np.arange(len(lengths)), lengths)
    ascending, order = ordered(values)
    ascending = ascending[ordered(owners[order])[1]]  # within each row, as the first is kept
    first = (np.diff(ascending, prepend=-1) != 0) | (np.diff(owners, prepend=-1) != 0)
    offsets = offsets_of_kept(torch.from_numpy(first), rows.offsets)
    return Jagged(torch.from_numpy(ascending[first]), offsets)


def without_seen(batch: Batch) -> Batch:
    """The same users, judged only on items that their histories do not hold.

    A ranking that excludes seen items cannot find these, so they do not count as missed.
    """
    assert batch.target is not None, "there is no target to take seen items from"
    span = max(_span(batch.history), _span(batch.target))
    unseen = np.setdiff1d(_pairs(batch.target, span), _pairs(batch.history, span))
    target = _rows_of(unseen, span, batch.num_users)
    return Batch(batch.user_rows, batch.history, batch.ages, batch.attributes, target)


def _ages(history: Events, judged: Events, instant: int | None) -> torch.Tensor | None:
    if history.times is None:
        return None
    if instant is None:
        moments = _per_row(judged, np.minimum, otherwise=_per_row(history, np.maximum, otherwise=0))
    else:
        moments = np.full(history.num_users, instant)
    seconds = np.repeat(moments, history.lengths) - history.times
    return torch.from_numpy((seconds.clip(0) / SECONDS_PER_DAY).astype(np.float32))


def _per_row(
    events: Events, reduce: np.ufunc, otherwise: npt.NDArray[np.int64] | int
) -> npt.NDArray[np.int64]:
    """int64 [U]: the earliest or latest time of each user, `otherwise` where there is none."""
    assert events.times is not None
    moments = np.broadcast_to(np.asarray(otherwise, np.int64), events.num_users).copy()
    some = events.lengths > 0
    if some.any():
        moments[some] = reduce.reduceat(events.times, events.offsets[:-1][some])
    return moments


def _jagged(
    values: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32] | None = None,
) -> Jagged:
    return Jagged(
        torch.from_numpy(values.astype(np.int64)),
        torch.from_numpy(offsets.astype(np.int64)),
        None if weights is None else torch.from_numpy(weights),
    )


def _span(rows: Jagged) -> int:
    return int(rows.values.max()) + 1 if len(rows.values) else 1


def _pairs(rows: Jagged, span: int) -> npt.NDArray[np.int64]:
    """int64 [N]: row * span + value, one number for each (row, value)."""
    lengths = np.diff(rows.offsets.numpy())
    values: npt.NDArray[np.int64] = rows.values.numpy()
    return np.repeat(np.arange(len(lengths)), lengths) * span + values


def _rows_of(pairs: npt.NDArray[np.int64], span: int, num_rows: int) -> Jagged:
    """Ascending `_pairs` as rows again."""
    offsets = np.searchsorted(pairs, np.arange(num_rows + 1) * span)
    rows = np.repeat(np.arange(num_rows) * span, np.diff(offsets))
    return _jagged(pairs - rows, offsets)  # a division takes longer
