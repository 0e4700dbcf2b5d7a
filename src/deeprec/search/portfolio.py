"""Several spaces in one search: whichever model suits the data, and its settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from deeprec.model.auto import Shape
from deeprec.search.space import Space


class Portfolio:
    """The config part of the group `sweep` that holds further spaces.

    Args:
        again: spaces by name, for data whose items are taken again; null: left out.
        new: spaces for data whose items are not, or seldom though they may be.
        max_items: the largest catalog that a space is for, by its name.
        need_times: names of spaces for events with times alone.
        need_order: names of spaces for data where what is judged comes after what is known.
        need_disorder: names of spaces for data where it does not.
        read_order: names of spaces that are tried first where each user's newest events are judged.

    Example:
        >>> space = Space(ranges={"model.l2": {"low": 1.0, "high": 9.0}}, fixed=["model=ease"])
        >>> both = Portfolio(again={}, new={"ease": space}, max_items={"ease": 1000})
        >>> list(both.suited(Shape(500, 900, 20_000, False, None, None)))
        ['ease']
        >>> list(both.suited(Shape(500, 1100, 20_000, False, None, None)))
        []
    """

    def __init__(
        self,
        *,
        again: Mapping[str, Any],
        new: Mapping[str, Any],
        max_items: Mapping[str, int] | None = None,
        need_times: Sequence[str] = (),
        need_order: Sequence[str] = (),
        need_disorder: Sequence[str] = (),
        read_order: Sequence[str] = (),
    ) -> None:
        self.again = {name: space for name, space in again.items() if space is not None}
        self.new = {name: space for name, space in new.items() if space is not None}
        self.left_out = [name for name, space in {**again, **new}.items() if space is None]
        self.max_items, self.need_times = dict(max_items or {}), list(need_times)
        self.read_order = list(read_order)
        self.wrong = {
            True: list(need_disorder),
            False: list(need_order),
        }  # by whether it comes after
        for name, space in {**self.again, **self.new}.items():
            if not isinstance(space, Space):
                raise ValueError(f"{name} must be a space, as of sweep={name}, got {space!r}")

    def suited(self, shape: Shape) -> dict[str, Space]:
        """The spaces for data of this shape, in their order; if order is judged, that one first."""
        spaces = self.again if shape.repeats else self.new
        if shape.mostly_new:  # models of what is new may be as good there
            spaces = {**self.again, **self.new, **self.again}
        found = {
            name: space
            for name, space in spaces.items()
            if shape.num_items <= self.max_items.get(name, shape.num_items)
            and (shape.training_days is not None or name not in self.need_times)
            and name not in self.wrong[shape.in_order]
        }
        first = [name for name in found if name in self.read_order and shape.judges_next]
        return {name: found[name] for name in [*first, *found]}
