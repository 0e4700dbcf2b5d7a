"""What comes next in a history, asked of each position that something comes after.

Events of one instant have no order: what comes next is all items of the next instant.

Shapes as in deeprec/batch.py, and:
    W  events inside the windows of a batch        P  positions that are asked
    G  instants of the users in a batch
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprec.batch import Jagged
from deeprec.model.window import Windows, newest


class NextItems(NamedTuple):
    """Positions and what comes after each of them."""

    windows: Windows  # of the events that something comes after
    asked_P: Tensor  # int64 [P], 1 + event of the windows; 0: the beginning of a history
    target: Jagged  # distinct items of each position, ascending


def what_comes_next(
    history: Jagged, when_N: Tensor, *, max_events: int, repeats: bool, num_items: int
) -> NextItems:
    """Asks the last event of each instant for the items of the next one.

    The beginning of a history is asked for its first items, where the window reaches that far.
    A position with nothing to be asked for is not asked.

    Args:
        history: on the host.
        when_N: [N], equal for events of one instant: seconds, or days before one moment; empty [0]:
            every event has an instant of its own.
        max_events: of a window.
        repeats: whether what was had before is asked for again.
        num_items: V.

    Example:
        >>> history = Jagged(torch.tensor([4, 2, 3, 4]), torch.tensor([0, 4]))
        >>> ages = torch.tensor([9.0, 5.0, 5.0, 1.0])
        >>> found = what_comes_next(history, ages, max_events=9, repeats=True, num_items=5)
        >>> found.asked_P.tolist(), found.target.values.tolist(), found.target.offsets.tolist()
        ([0, 1, 3], [4, 2, 3, 4], [0, 1, 3, 4])
    """
    offsets_B1 = history.offsets
    users_N = torch.repeat_interleave(offsets_B1.diff())
    begins_N = _begin_instants(users_N, when_N)
    starts_G = torch.nonzero(begins_N).squeeze(1)
    users_G = users_N[starts_G]
    starts_B = offsets_B1[:-1]
    # the last instant of a user predicts nothing
    ends_B = starts_B.scatter_reduce(0, users_G, starts_G, "amax")
    windows = newest(starts_B, ends_B, max_events)
    first_B = ends_B - windows.offsets_B1.diff()  # event of each window
    is_beginning_G = starts_G == starts_B[users_G]
    before_G = starts_G - 1 - first_B[users_G]  # place in the window of the event before
    kept_G = torch.where(is_beginning_G, before_G == -1, before_G >= 0)
    position_G = (1 + windows.offsets_B1[users_G] + before_G).masked_fill(is_beginning_G, 0)
    instants_N = begins_N.cumsum(0) - 1
    chosen_N = kept_G[instants_N]
    if not repeats:
        chosen_N &= _firsts(users_N * num_items + history.values)
    pairs = torch.unique(instants_N[chosen_N] * num_items + history.values[chosen_N])
    asked, lengths_P = torch.unique_consecutive(pairs // num_items, return_counts=True)
    offsets = F.pad(lengths_P.cumsum(0), (1, 0))
    return NextItems(windows, position_G[asked], Jagged(pairs % num_items, offsets))


class Prefixes(NamedTuple):
    """The events that each position has seen, position after position, oldest first."""

    events: Tensor  # int64, where in the batch each stands
    offsets_P1: Tensor  # int64 [P + 1]
    ages: Tensor  # float32, days from each to what comes after its position; empty where unknown


def seen_by(asked_P: Tensor, windows: Windows, ages_N: Tensor) -> Prefixes:
    """What each position has seen of its window.

    Args:
        asked_P: as of `NextItems`.
        windows: of these positions.
        ages_N: float32 [N], days; empty [0] where unknown.

    Example:
        >>> windows = newest(torch.tensor([0]), torch.tensor([3]), 9)
        >>> ages = torch.tensor([9.0, 6.0, 5.0, 1.0])
        >>> seen = seen_by(torch.tensor([0, 2]), windows, ages)
        >>> seen.events.tolist(), seen.offsets_P1.tolist(), seen.ages.tolist()
        ([0, 1], [0, 0, 2], [4.0, 1.0])
    """
    last_P = (asked_P - 1).clamp(min=0)
    if len(windows.users_W) == 0:
        return Prefixes(last_P[:0], torch.zeros(len(asked_P) + 1, dtype=torch.int64), ages_N[:0])
    lengths_P = asked_P - windows.offsets_B1[windows.users_W[last_P]]
    lengths_P = lengths_P.masked_fill(asked_P == 0, 0)
    offsets_P1 = F.pad(lengths_P.cumsum(0), (1, 0))
    positions = torch.repeat_interleave(lengths_P)
    places = torch.arange(len(positions)) - offsets_P1[1:][positions]  # below 0, from the last on
    ends_P = windows.events_W[last_P] + 1
    events = ends_P[positions] + places
    ages = ages_N[events] - ages_N[ends_P][positions] if len(ages_N) else ages_N
    return Prefixes(events, offsets_P1, ages)


def _begin_instants(users_N: Tensor, when_N: Tensor) -> Tensor:
    """Whether each event is the first of its instant: bool [N]."""
    begins_N = torch.ones_like(users_N, dtype=torch.bool)
    if len(when_N):
        begins_N[1:] = (when_N[1:] != when_N[:-1]) | (users_N[1:] != users_N[:-1])
    return begins_N


def _firsts(pairs_N: Tensor) -> Tensor:
    """Whether each pair of user and item is the first of its kind: bool [N]."""
    ascending_N, order_N = torch.sort(pairs_N, stable=True)
    is_first = torch.ones_like(pairs_N, dtype=torch.bool)
    is_first[1:] = ascending_N[1:] != ascending_N[:-1]
    return torch.empty_like(is_first).index_copy_(0, order_N, is_first)
