"""Batches filled up to the same shapes, so that what a step asks of its device is always the same.

What fills them changes nothing: a value of a field with weight 0, in rows that are nobody's; a
touched row of a table that stands again, and changes to the same values again; a target that stands
again, and is not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deeprec.batch import Arranged, Asked, ByItem, Jagged, Sample

SPARE_ROWS = 16  # nobody's, which share what fills a field: one would have a bag of thousands
ROUND = 64  # shapes are multiples of this
DEVIATIONS = 6.0  # of the sizes looked at: so much above their mean hardly any batch is


class Sizes(NamedTuple):
    """Of a field: its values, and distinct ones. Of what is asked: targets, and items drawn."""

    values: int
    distinct: int


@dataclass(frozen=True)
class Padding:
    """The shapes that batches are filled up to.

    What is asked of a sample is told by places among its items, and stands for what is asked of the
    whole catalog too.

    Args:
        num_users: of every batch; one of another number stays as it is.
        shown: by field.
        asked: of each task.
        with_targets: users of each task that have targets, likewise of every batch.
    """

    num_users: int
    shown: dict[str, Sizes]
    asked: tuple[Sizes, ...]
    with_targets: tuple[int, ...]

    def __call__(self, arranged: Arranged) -> Arranged:
        """The batch filled up, or as it is where it does not fit."""
        if not self._holds(arranged):
            return arranged
        return replace(
            arranged,
            fields={
                name: filled_field(rows, self.shown[name]) for name, rows in arranged.fields.items()
            },
            asked=[filled_asked(asked, sizes) for asked, sizes in zip(arranged.asked, self.asked)],
            padded=True,
        )

    def _holds(self, arranged: Arranged) -> bool:
        if not can_be_filled(arranged) or arranged.num_users != self.num_users:
            return False
        if tuple(_with_targets(asked) for asked in arranged.asked) != self.with_targets:
            return False
        shown = ((sizes_of(rows), self.shown[name]) for name, rows in arranged.fields.items())
        asked = ((sizes_asked(one), room) for one, room in zip(arranged.asked, self.asked))
        return all(
            size.values <= room.values and size.distinct <= room.distinct
            for size, room in (*shown, *asked)
        )


def padding_of(batches: Sequence[Arranged]) -> Padding | None:
    """Shapes into which batches such as these fit; None: they are of too different a kind.

    Args:
        batches: some of a run, one or more.
    """
    first = batches[0]
    if not all(can_be_filled(one) for one in batches):
        return None
    users = {(one.num_users, *map(_with_targets, one.asked)) for one in batches}
    if len(users) > 1:
        return None
    return Padding(
        first.num_users,
        {name: _room([sizes_of(one.fields[name]) for one in batches]) for name in first.fields},
        tuple(
            _room([sizes_asked(one.asked[task]) for one in batches])
            for task in range(len(first.asked))
        ),
        tuple(map(_with_targets, first.asked)),
    )


def can_be_filled(arranged: Arranged) -> bool:
    """Whether all that a batch holds is known here, and nothing of it is empty."""
    known = {one.name for one in fields(Arranged)}
    if any(
        getattr(arranged, one.name) is not None for one in fields(arranged) if one.name not in known
    ):
        return False
    if arranged.told is not None or not all(map(_is_plain, arranged.asked)):
        return False
    held = [*arranged.fields.values(), *(asked.target for asked in arranged.asked)]
    return all(rows.by_item is not None and len(rows.values) > 0 for rows in held)


def _is_plain(asked: Asked) -> bool:
    sample = asked.sample
    drawn = sample is None or (isinstance(sample, Sample) and not len(sample.pool))
    absent = asked.user_weights, asked.own_BD
    return drawn and all(one is None for one in absent) and not len(asked.repeats.values)


def sizes_of(rows: Jagged) -> Sizes:
    return Sizes(len(rows.values), len(_by_item(rows).distinct))


def sizes_asked(asked: Asked) -> Sizes:
    drawn = asked.sample.items if asked.sample is not None else asked.target.values[:0]
    return Sizes(len(asked.target.values), len(drawn))


def filled_field(rows: Jagged, room: Sizes) -> Jagged:
    """A field with so many values, the further ones of weight 0 in spare rows after all others.

    Of its values by item there is no more than what the gradient of a table asks for.
    """
    by_item, num_users = _by_item(rows), len(rows.offsets) - 1
    size = sizes_of(rows)
    weights = torch.ones(size.values) if rows.weights is None else rows.weights
    further = room.values - size.values
    none = by_item.values[:0]
    transposed = ByItem(
        values=none,
        users=torch.cat([by_item.users, by_item.users.new_full((further,), num_users)]),
        order=torch.cat([by_item.order, torch.arange(size.values, room.values)]),
        distinct=_again(by_item.distinct, room.distinct),
        offsets=_ends(by_item.offsets, further, room.distinct - size.distinct),
        on_host=none.numpy(),
        num_users=by_item.num_users,
        places=torch.arange(room.distinct).clamp(max=size.distinct - 1),
    )
    return Jagged(
        _again(rows.values, room.values),
        _ends(rows.offsets, further, SPARE_ROWS),
        F.pad(weights, (0, further)),
        transposed,
        SPARE_ROWS,
    )


def filled_asked(asked: Asked, room: Sizes) -> Asked:
    """What is asked of so many targets, and of so many items that were drawn, if any were."""
    sample = asked.sample
    if sample is None:
        return replace(asked, target=filled_target(asked.target, room.values))
    assert isinstance(sample, Sample), "others are not plain"
    size, target = len(sample.items), filled_target(sample.target, room.values)
    sample = replace(
        sample,
        items=_again(sample.items, room.distinct),
        shares=F.pad(sample.shares, (0, room.distinct - size)),
        places=torch.arange(room.distinct).clamp(max=size - 1),
        target=target,
    )
    return replace(asked, target=target, sample=sample)  # of the whole catalog nothing is asked


def filled_target(rows: Jagged, num_values: int) -> Jagged:
    """A target of so many values in the order of items, the further ones the last again.

    Its offsets tell how many each user has, and distinct items it has none.
    """
    by_item, size = _by_item(rows), len(rows.values)
    values = _again(by_item.values, num_values)
    none = values[:0]
    transposed = ByItem(
        values=values,
        users=_again(by_item.users, num_values),
        order=torch.arange(num_values),
        distinct=none,
        offsets=none,
        on_host=values.numpy(),
        num_users=by_item.num_users,
        counted=F.pad(torch.ones(size), (0, num_values - size)),
    )
    weights = None if rows.weights is None else _again(rows.weights[by_item.order], num_values)
    return Jagged(values, rows.offsets, weights, transposed)


def _room(found: Sequence[Sizes]) -> Sizes:
    """What holds these and others such as these."""
    return Sizes(*(_above([size[at] for size in found]) for at in range(2)))


def _above(sizes: Sequence[int]) -> int:
    most = max(float(np.mean(sizes)) + DEVIATIONS * float(np.std(sizes)), 1.02 * max(sizes))
    return math.ceil(most / ROUND) * ROUND


def _by_item(rows: Jagged) -> ByItem:
    assert rows.by_item is not None, "what is filled up comes arranged"
    return rows.by_item


def _with_targets(asked: Asked) -> int:
    return _by_item(asked.target).num_users


def _again(values: Tensor, count: int) -> Tensor:
    """So many, the last one again and again."""
    return torch.cat([values, values[-1:].expand(count - len(values))])


def _ends(offsets: Tensor, further: int, rows: int) -> Tensor:
    """Offsets with so many rows more, which share further values; the last row has them all if 0.

    Example:
        >>> _ends(torch.tensor([0, 2]), 5, 2), _ends(torch.tensor([0, 2]), 5, 0)
        (tensor([0, 2, 4, 7]), tensor([0, 7]))
    """
    if rows == 0:
        return torch.cat([offsets[:-1], offsets[-1:] + further])
    return torch.cat([offsets, offsets[-1] + further * torch.arange(1, rows + 1) // rows])
