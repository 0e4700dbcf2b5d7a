"""What a loss is asked, made sure of: every item lies in the catalog, none twice at one user."""

import numpy as np
import torch
from torch import Tensor

from deeprec.batch import Asked, ByItem, Encoded, Jagged, with_transposition

Target = Jagged | Asked  # plain rows are arranged when a loss is called, which on CUDA waits


def asked_of(target: Target, encoded: Encoded, item_bias_V: Tensor) -> Asked:
    """What a loss was called with, arranged.

    Args:
        target: trusted if it is arranged; whoever did that has called `check`.
        encoded: whose repeats go with a target that is not.
        item_bias_V: float [V].

    Raises:
        ValueError: offsets do not have B + 1 entries, or as `check`.
    """
    if isinstance(target, Asked):
        return target
    num_users, given = encoded.hidden_BD.shape[0], target.offsets.shape[0]
    if given != num_users + 1:
        raise ValueError(f"target offsets need B + 1 = {num_users + 1} entries, got {given}")
    repeats = Jagged(encoded.repeat_items_M, encoded.repeat_offsets_B1)
    asked = Asked(with_transposition(target), with_transposition(repeats))
    check(asked, item_bias_V.shape[0])
    return asked


def users_of(rows: Jagged) -> Tensor:
    """int64 [N]: the user of each value."""
    return torch.repeat_interleave(rows.offsets.diff(), output_size=len(rows.values))


def check(asked: Asked, num_items: int) -> None:
    """Raises ValueError if an item is not in the catalog or stands twice at one user."""
    for name, rows in (("target", asked.target), ("repeat", asked.repeats)):
        assert rows.by_item is not None, "what is asked comes arranged"
        _check(name, rows.by_item, num_items)


def _check(name: str, by_item: ByItem, num_items: int) -> None:
    ends = by_item.on_host[[0, -1]] if len(by_item.on_host) else np.zeros(0, np.int64)
    wrong = ends[(ends < 0) | (ends >= num_items)]
    if len(wrong):
        raise ValueError(
            f"{name} items must lie in [0, {num_items}), got {wrong[0]}; "
            "were they made with another catalog?"
        )
    num_again = int(((by_item.values.diff() == 0) & (by_item.users.diff() == 0)).sum())
    if num_again:
        raise ValueError(f"{name} items must be distinct inside a user, got {num_again} repeats")
