"""What a reader gives: events under their canonical names, and what is known beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ibis.expr.types as ir

from deeprec.data.contract import Check
from deeprec.data.filter import Filters


@dataclass(frozen=True)
class EventLog:
    """The events of one data config.

    Args:
        events: user (string), item (string) and, where known, time (int64 seconds), kind (string),
            value (float64), price (float64); no nulls.
        repeats: whether an item of the history may be recommended again.
        filters: what of it to keep; not applied yet.
        files: every file that was read.
        checks: what reading found.
        user_attributes: tables of `user` and attributes; a user may be missing from them.
        item_attributes: tables of `item` and attributes.
        time_format: how times are written, where that was told.
        more: reads further events of the same form from another place; None if there is no form.
        holdout_from: the instant that `split=auto` judges from, if the data set has a usual one.
        validation_from: the instant that `split=auto` validates from.
    """

    events: ir.Table
    repeats: bool
    filters: Filters
    files: tuple[Path, ...] = ()
    checks: tuple[Check, ...] = ()
    user_attributes: tuple[ir.Table, ...] = ()
    item_attributes: tuple[ir.Table, ...] = ()
    time_format: str | None = None
    more: Callable[[str], "EventLog"] | None = None
    holdout_from: str | int | None = None
    validation_from: str | int | None = None

    @property
    def has_times(self) -> bool:
        return "time" in self.events.columns
