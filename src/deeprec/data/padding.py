"""Batches filled up to the same shapes, so that what a step asks of its device is always the same.

What fills them changes nothing: users without history or target, to a loss that passes over them; a
value of a field in rows that are nobody's, with weight 0; a touched row of a table that stands
again, and changes to the same values again; a target or own item that stands again, and is not
counted; a drawn item that stands again, for no item of the catalog.

Shapes as in deeprec/batch.py.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deeprec.batch import Arranged, Asked, ByItem, Jagged, Sample, again

SPARE_ROWS = 16  # nobody's, which share what fills a field: one would have a bag of thousands
ROUND = 64  # shapes are multiples of this
DEVIATIONS = 6.0  # of the sizes looked at: so much above their mean hardly any batch is


class Sizes(NamedTuple):
    """Of rows of values."""

    values: int
    distinct: int


class AskedSizes(NamedTuple):
    """Of what is asked of a task."""

    targets: int
    drawn: int  # items of a sample; 0: the whole catalog is scored
    repeats: Sizes


@dataclass(frozen=True)
class Padding:
    """The shapes that batches are filled up to.

    What is asked of a sample is told by places among its items, and stands for what is asked of the
    whole catalog too.

    Args:
        num_users: of a batch; those it lacks have nothing.
        exactly: a batch of another number of users stays as it is.
        shown: by field.
        asked: of each task.
    """

    num_users: int
    exactly: bool
    shown: dict[str, Sizes]
    asked: tuple[AskedSizes, ...]

    def __call__(self, arranged: Arranged) -> Arranged:
        """The batch filled up, or as it is where it does not fit."""
        if not self.holds(arranged):
            return arranged
        if (fill := getattr(arranged, "filled", None)) is not None:
            arranged = fill(self.asked[0].repeats.values, self.num_users)
        shown = arranged.fields.items()
        return replace(
            arranged,
            fields={
                name: filled_field(rows, self.shown[name], self.num_users) for name, rows in shown
            },
            asked=[
                filled_asked(asked, room, self.num_users)
                for asked, room in zip(arranged.asked, self.asked)
            ],
            padded=True,
        )

    def holds(self, arranged: Arranged) -> bool:
        """Whether a batch fits."""
        if obstacle_to_filling(arranged) or arranged.num_users > self.num_users:
            return False
        if self.exactly and arranged.num_users != self.num_users:
            return False
        shown = [(sizes_of(rows), self.shown[name]) for name, rows in arranged.fields.items()]
        asked = [(sizes_asked(one), room) for one, room in zip(arranged.asked, self.asked)]
        numbers = [*shown, *((one[:2], room[:2]) for one, room in asked)]
        numbers += [(one.repeats, room.repeats) for one, room in asked]
        if any(bool(one.repeats.values) != bool(room.repeats.values) for one, room in asked):
            return False  # of nothing there is no last one to stand again
        return all(one <= room for pair in numbers for one, room in zip(*pair))


def padding_of(batches: Sequence[Arranged], *, exactly: bool) -> Padding | str:
    """Shapes into which most batches such as these fit; or why there are none.

    Args:
        batches: some of a run, one or more.
        exactly: whether all that are filled up must have the same number of users.
    """
    obstacles = [obstacle_to_filling(one) for one in batches]
    fitting = [one for one, why in zip(batches, obstacles) if why is None]
    if exactly and fitting:
        users = Counter(one.num_users for one in fitting).most_common(1)[0][0]
        fitting = [one for one in fitting if one.num_users == users]
    if 2 * len(fitting) <= len(batches):
        others = "batches are of different numbers of users, over all of which the loss is a mean"
        return next((why for why in obstacles if why is not None), others)
    users_of = [one.num_users for one in fitting]
    return Padding(
        max(users_of) if len({*users_of}) == 1 else _above(users_of),
        exactly,
        {
            name: _sizes([sizes_of(one.fields[name]) for one in fitting])
            for name in fitting[0].fields
        },
        tuple(
            _asked_sizes([sizes_asked(one.asked[task]) for one in fitting])
            for task in range(len(fitting[0].asked))
        ),
    )


def obstacle_to_filling(arranged: Arranged) -> str | None:
    """Why a batch cannot be filled up, if so: something of it is not known here, or is empty."""
    known = {one.name for one in fields(Arranged)}
    further = [getattr(arranged, one.name) for one in fields(arranged) if one.name not in known]
    if any(one is not None for one in further) and not hasattr(arranged, "filled"):
        return "the model reads more of a batch than can be filled up"
    if arranged.told is not None:
        return "processes share the catalog"
    for name, rows in arranged.fields.items():
        if rows.by_item is None or not len(rows.values):
            return f"a batch has nothing of {name}"
    return next((why for asked in arranged.asked if (why := _obstacle_of(asked))), None)


def _obstacle_of(asked: Asked) -> str | None:
    if asked.user_weights is not None:
        return "users weigh"
    if asked.own_BD is not None:
        return "a target is counted of hidden itself"
    if asked.target.by_item is None or not len(asked.target.values):
        return "a batch has no target"
    if asked.sample is None:
        return None
    if not isinstance(asked.sample, Sample) or len(asked.sample.pool):
        return "targets are scored for their own users, or negatives chosen by their scores"
    return (
        "items are drawn beside own items that have scores" if len(asked.repeats.values) else None
    )


def sizes_of(rows: Jagged) -> Sizes:
    return Sizes(len(rows.values), len(_by_item(rows).distinct))


def sizes_asked(asked: Asked) -> AskedSizes:
    drawn = 0 if asked.sample is None else len(asked.sample.items)
    return AskedSizes(len(asked.target.values), drawn, sizes_of(asked.repeats))


def filled_field(rows: Jagged, room: Sizes, num_users: int) -> Jagged:
    """A field with so many values, the further ones of weight 0 in spare rows after all users.

    Of its values by item there is no more than what the gradient of a table asks for.
    """
    by_item, size = _by_item(rows), sizes_of(rows)
    further, none = room.values - size.values, rows.values[:0]
    weights = torch.ones(size.values) if rows.weights is None else rows.weights
    transposed = ByItem(
        values=none,
        users=torch.cat([by_item.users, by_item.users.new_full((further,), num_users)]),
        order=torch.cat([by_item.order, torch.arange(size.values, room.values)]),
        **_touched(by_item, further, room.distinct),
        on_host=none.numpy(),
        num_users=_counted_users(by_item),
    )
    return Jagged(
        again(rows.values, room.values),
        _shared_out(again(rows.offsets, num_users + 1), further, SPARE_ROWS),
        F.pad(weights, (0, further)),
        transposed,
        SPARE_ROWS,
    )


def filled_asked(asked: Asked, room: AskedSizes, num_users: int) -> Asked:
    """What is asked of so many targets and own items, and of so many drawn ones if any were."""
    sample, repeats = asked.sample, filled_repeats(asked.repeats, room.repeats, num_users)
    if sample is None:
        target = filled_target(asked.target, room.targets, num_users)
        return replace(asked, target=target, repeats=repeats)
    assert isinstance(sample, Sample), "others are not plain"
    target = filled_target(sample.target, room.targets, num_users)
    size = len(sample.items)
    sample = replace(
        sample,
        items=again(sample.items, room.drawn),
        shares=F.pad(sample.shares, (0, room.drawn - size)),
        places=_places(size, room.drawn),
        target=target,
        repeats=repeats,
    )
    return replace(asked, target=target, repeats=repeats, sample=sample)


def filled_target(rows: Jagged, num_values: int, num_users: int) -> Jagged:
    """A target of so many values in the order of items, the further ones the last again.

    Its offsets tell how many each user has, and distinct items it has none.
    """
    by_item = _by_item(rows)
    values = again(by_item.values, num_values)
    transposed = ByItem(
        values=values,
        users=again(by_item.users, num_values),
        order=torch.arange(num_values),
        distinct=values[:0],
        offsets=values[:0],
        on_host=values.numpy(),
        num_users=_counted_users(by_item),
        counted=_counted(len(rows.values), num_values),
    )
    weights = None if rows.weights is None else again(rows.weights[by_item.order], num_values)
    return Jagged(values, again(rows.offsets, num_users + 1), weights, transposed)


def filled_repeats(rows: Jagged, room: Sizes, num_users: int) -> Jagged:
    """Own items, so many, the further ones the last again, each with a score of its own.

    By item they stand behind all others: there is one block, whose they are.
    """
    by_item, size = _by_item(rows), sizes_of(rows)
    offsets = again(rows.offsets, num_users + 1)
    if not room.values:
        return replace(rows, offsets=offsets)
    owner = torch.searchsorted(rows.offsets, size.values, right=False) - 1  # of the last one
    further, values = room.values - size.values, again(rows.values, room.values)
    items = torch.cat([by_item.values, values[size.values :]])
    transposed = ByItem(
        values=items,
        users=torch.cat([by_item.users, owner.expand(further)]),
        order=torch.cat([by_item.order, torch.arange(size.values, room.values)]),
        **_touched(by_item, further, room.distinct),
        on_host=items.numpy(),
        num_users=_counted_users(by_item),
        counted=_counted(size.values, room.values),
    )
    return Jagged(values, offsets, None, transposed)


def _touched(by_item: ByItem, further: int, distinct: int) -> dict[str, Tensor]:
    """What an update of so many rows reads, of which the further ones are the last again."""
    size = len(by_item.distinct)
    return {
        "distinct": again(by_item.distinct, distinct),
        "offsets": _shared_out(by_item.offsets, further, distinct - size),
        "places": _places(size, distinct),
    }


def _places(size: int, room: int) -> Tensor:
    """Of each, the place of what stands there or stands there again."""
    return torch.arange(room).clamp(max=size - 1)


def _sizes(found: Sequence[Sizes]) -> Sizes:
    """What holds these and others such as these."""
    return Sizes(*(_above([size[at] for size in found]) for at in range(2)))


def _asked_sizes(found: Sequence[AskedSizes]) -> AskedSizes:
    return AskedSizes(
        _above([size.targets for size in found]),
        _above([size.drawn for size in found]),
        _sizes([size.repeats for size in found]),
    )


def _above(sizes: Sequence[int]) -> int:
    """A size that others such as these hardly ever reach; of none, none."""
    most = max(float(np.mean(sizes)) + DEVIATIONS * float(np.std(sizes)), 1.02 * max(sizes))
    return math.ceil(most / ROUND) * ROUND


def _by_item(rows: Jagged) -> ByItem:
    assert rows.by_item is not None, "what is filled up comes arranged"
    return rows.by_item


def _counted_users(by_item: ByItem) -> Tensor:
    """A tensor, for it differs from batch to batch."""
    assert isinstance(by_item.num_users, int), "it is filled up already"
    return torch.tensor(float(max(1, by_item.num_users)))


def _counted(size: int, room: int) -> Tensor:
    return F.pad(torch.ones(size), (0, room - size))


def _shared_out(offsets: Tensor, further: int, rows: int) -> Tensor:
    """Offsets with so many rows more, which share further values; the last row has them all if 0.

    Example:
        >>> _shared_out(torch.tensor([0, 2]), 5, 2), _shared_out(torch.tensor([0, 2]), 5, 0)
        (tensor([0, 2, 4, 7]), tensor([0, 7]))
    """
    if rows == 0:
        return torch.cat([offsets[:-1], offsets[-1:] + further])
    return torch.cat([offsets, offsets[-1] + further * torch.arange(1, rows + 1) // rows])
