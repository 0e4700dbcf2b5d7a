"""The newest events of each user, as a model that reads their order needs them.

Scriptable and of plain aten operations, so that training and serving run the same code.
Shapes as in deeprec/batch.py, and:
    W  events inside the windows of a batch        L  events of its longest window
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprec.model.exporting import is_exporting


class Windows(NamedTuple):
    """The newest events of each user, oldest first."""

    events_W: Tensor  # int64 [W], where in the batch each stands
    users_W: Tensor  # int64 [W]
    offsets_B1: Tensor  # int64 [B + 1]
    cells_W: Tensor  # int64 [W], cell of each in a grid [B, L] whose rows fill from the left
    longest: int  # L


def newest(starts_B: Tensor, ends_B: Tensor, max_events: int) -> Windows:
    """The last `max_events` of the events [start, end) of each user; waits for the device.

    Example:
        >>> windows = newest(torch.tensor([0, 3, 3]), torch.tensor([3, 3, 4]), 2)
        >>> windows.events_W.tolist(), windows.offsets_B1.tolist(), windows.cells_W.tolist()
        ([1, 2, 3], [0, 2, 2, 3], [0, 1, 4])
    """
    num_users, device = starts_B.shape[0], starts_B.device
    lengths_B = (ends_B - starts_B).clamp(min=0, max=max_events)
    longest = longest_of(lengths_B, max_events)
    users_W = torch.arange(num_users, device=device).repeat_interleave(lengths_B)
    offsets_B1 = F.pad(lengths_B.cumsum(0), (1, 0))
    columns_W = torch.arange(users_W.shape[0], device=device) - offsets_B1[users_W]
    return Windows(
        events_W=(ends_B - lengths_B)[users_W] + columns_W,
        users_W=users_W,
        offsets_B1=offsets_B1,
        cells_W=users_W * longest + columns_W,
        longest=longest,
    )


def longest_of(lengths_B: Tensor, max_events: int) -> int:
    """The longest, or more than that in a program, whose grids have one width."""
    longest = max_events
    if not is_exporting():
        longest = int(lengths_B.max()) if lengths_B.shape[0] > 0 else 0
    return longest


def gaps_to_next(windows: Windows, ages_N: Tensor, ends_B: Tensor) -> Tensor:
    """int64 [W]: how long after each event comes the next one, by class, see `gap_limits`.

    Class 0: times are unknown; 1: at once. What comes after the last event of a user is the moment
    of prediction. Known is only when something comes, never what.

    Args:
        windows: of the batch.
        ages_N: float32 [N], days; empty [0] where unknown, or -1.
        ends_B: int64 [B], one past the last event of each user.

    Example:
        >>> windows = newest(torch.tensor([0]), torch.tensor([3]), 3)
        >>> ages = torch.tensor([40.0, 8.0, 8.0])  # 32 days, none at all, and 8 days
        >>> gaps_to_next(windows, ages, torch.tensor([3])).tolist()
        [13, 1, 11]
    """
    if ages_N.shape[0] == 0:
        return torch.zeros_like(windows.events_W)
    next_W = windows.events_W + 1
    next_ages_W = F.pad(ages_N, (0, 1))[next_W].masked_fill(next_W == ends_B[windows.users_W], 0.0)
    gaps_W = ages_N[windows.events_W] - next_ages_W
    classes_W = 1 + torch.bucketize(gaps_W, gap_limits(ages_N.device), right=True)
    return classes_W.masked_fill(ages_N[windows.events_W] < 0, 0)


def gap_limits(device: torch.device) -> Tensor:
    """Days from which on a gap is of the next class, float32: a minute to two years."""
    minutes, hours = [1.0, 5.0, 15.0], [1.0, 4.0, 12.0]
    days = [1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 60.0, 90.0, 180.0, 365.0, 730.0]
    limits = [one / 1440.0 for one in minutes] + [one / 24.0 for one in hours] + days
    return torch.tensor(limits, device=device)


NUM_GAPS = len(gap_limits(torch.device("cpu"))) + 2  # and at once, and unknown
