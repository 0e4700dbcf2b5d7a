"""The lists of some users: what a bundle says of their histories."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from deeprec.batch import Batch, Jagged
from deeprec.data.translation import ask
from deeprec.halving import Halving, Lists
from deeprec.serve import Bundle

LISTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_ids", pa.list_(pa.string())),  # best first
        ("scores", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Histories:
    """What some users did, in the indices of the bundle."""

    user_ids: Sequence[str]  # [B]
    items: Jagged
    ages: torch.Tensor | None  # float32 [N]
    attributes: dict[str, Jagged]
    num_unknown: int  # events left out, because the bundle does not know their item

    @property
    def num_events(self) -> int:
        """Events of these users, those left out too."""
        return len(self.items.values) + self.num_unknown


@dataclass(frozen=True)
class Wanted:
    """What everybody's list is to be."""

    k: int  # items, at most
    exclude_seen: bool
    allowed: npt.NDArray[np.int64] | None  # the only items that it may hold; None: all


@dataclass(frozen=True)
class Packed:
    """Histories on their way to another process; as tensors they would share memory with it."""

    user_ids: Sequence[str]
    items: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    ages: npt.NDArray[np.float32] | None
    attributes: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]


def packed(histories: Histories) -> Packed:
    """As arrays."""
    return Packed(
        histories.user_ids,
        (histories.items.values.numpy(), histories.items.offsets.numpy()),
        None if histories.ages is None else histories.ages.numpy(),
        {
            name: (rows.values.numpy(), rows.offsets.numpy())
            for name, rows in histories.attributes.items()
        },
    )


def unpacked(sent: Packed) -> Histories:
    """As tensors again; what was left out is counted where they came from."""
    return Histories(
        sent.user_ids,
        _jagged(sent.items),
        None if sent.ages is None else torch.from_numpy(sent.ages),
        {name: _jagged(rows) for name, rows in sent.attributes.items()},
        0,
    )


def _jagged(rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> Jagged:
    values, offsets = rows
    return Jagged(torch.from_numpy(values), torch.from_numpy(offsets))


def one_row(items: npt.NDArray[np.int64]) -> Jagged:
    """Items that hold for everybody."""
    return Jagged(torch.from_numpy(items), torch.tensor([0, len(items)]))


def answer(
    opened: Bundle, histories: Histories, wanted: Wanted, halving: Halving
) -> pa.RecordBatch:
    """The lists of these users, best first, shorter than k where there are no more candidates."""
    users = torch.arange(len(histories.user_ids))
    batch = Batch(users, histories.items, histories.ages, histories.attributes)
    allowed = None if wanted.allowed is None else one_row(wanted.allowed)

    def asked(start: int, stop: int) -> Lists:
        some = batch.some(start, stop)
        known = some.history, some.ages, some.attributes
        return ask(opened, *known, k=wanted.k, exclude_seen=wanted.exclude_seen, allowed=allowed)

    items, scores = halving(asked, batch.num_users)
    found = items >= 0
    offsets = pa.array([0, *found.sum(1).cumsum(0).tolist()], pa.int32())
    item_ids = opened.item_ids.take(pa.array(items[found].numpy())).cast(pa.string())
    return pa.record_batch(
        [
            pa.array(histories.user_ids, pa.string()),
            pa.ListArray.from_arrays(offsets, item_ids),
            pa.ListArray.from_arrays(offsets, pa.array(scores[found].numpy())),
        ],
        schema=LISTS,
    )
