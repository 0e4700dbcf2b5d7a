"""Events with known answers: popularity, tastes, their drift and repeats, all drawn from a seed.

Every item belongs to one taste cluster; item ids name it (`t03-0012`). A user prefers one cluster,
some change it at a moment of their own, so who knows a user's present cluster knows what to
recommend: its most popular items, and what the user had before.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deeprec.errors import ConfigError

CHUNK_USERS = 10_000  # users drawn at once; each chunk has a generator of its own
SECONDS_PER_DAY = 86_400


class Synthetic:
    """A generator of events; memory is that of one chunk of users.

    Args:
        num_users: how many.
        num_items: how many.
        events_per_user: on average; lengths are geometric, at least 1.
        num_tastes: clusters of items.
        zipf: popularity falls with rank ** -zipf.
        taste_strength: chance that an event comes from the user's own cluster, not from all items.
        drift: share of users whose cluster changes at a moment drawn for each.
        repeat_share: chance that an event is on an item the user already had.
        first_second: of the time covered.
        days: length of the time covered.
        seed: of everything drawn.
    """

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        events_per_user: float,
        num_tastes: int = 16,
        zipf: float = 1.0,
        taste_strength: float = 0.8,
        drift: float = 0.2,
        repeat_share: float = 0.2,
        first_second: int = 1_672_531_200,  # 2023-01-01
        days: int = 365,
        seed: int = 0,
    ) -> None:
        if num_users < 1 or num_items < num_tastes or num_tastes < 1:
            raise ConfigError(
                "data: num_users and num_tastes must be 1 or more, num_items at least num_tastes; "
                f"got num_users={num_users}, num_tastes={num_tastes}, num_items={num_items}"
            )
        if events_per_user < 1 or days < 1:
            raise ConfigError(
                f"data: events_per_user and days must be 1 or more, got {events_per_user}, {days}"
            )
        for name, share in (("taste_strength", taste_strength), ("drift", drift)):
            if not 0 <= share <= 1:
                raise ConfigError(f"data.{name}: must lie between 0 and 1, got {share}")
        if not 0 <= repeat_share < 1:
            raise ConfigError(f"data.repeat_share: must be at least 0, below 1, got {repeat_share}")
        self.num_users, self.num_items, self.num_tastes = num_users, num_items, num_tastes
        self.events_per_user, self.taste_strength = events_per_user, taste_strength
        self.drift, self.repeat_share = drift, repeat_share
        self.first_second, self.seconds, self.seed = first_second, days * SECONDS_PER_DAY, seed
        weights = np.arange(1, num_items + 1, dtype=np.float64) ** -zipf  # by rank = index
        # cumulative weights of all items (None) and of each cluster's
        self._heights = {None: np.cumsum(weights)} | {
            cluster: np.cumsum(weights[cluster::num_tastes]) for cluster in range(num_tastes)
        }

    @cached_property
    def item_ids(self) -> pa.Array:
        """Id of each item in order of popularity; item j is of taste j modulo `num_tastes`."""
        ranks = np.arange(self.num_items)
        tastes, places = ranks % self.num_tastes, ranks // self.num_tastes
        parts = pa.scalar("t"), _padded(tastes, 2), pa.scalar("-"), _padded(places, 4)
        return pc.binary_join_element_wise(*parts, "")

    def item_table(self) -> pa.Table:
        """item, name and taste of each item."""
        ranks = np.arange(self.num_items)
        tastes = ranks % self.num_tastes
        words = pa.array(ranks).cast("string"), pa.scalar("of taste"), pa.array(tastes)
        names = pc.binary_join_element_wise(
            pa.scalar("thing"), words[0], words[1], words[2].cast("string"), " "
        )
        taste = pc.binary_join_element_wise(pa.scalar("t"), _padded(tastes, 2), "")
        return pa.table({"item": self.item_ids, "name": names, "taste": taste})

    def pieces(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Events (user, item, time, kind, value, price) and users (user, region), by chunk."""
        for first in range(0, self.num_users, CHUNK_USERS):
            yield self._piece(first, min(CHUNK_USERS, self.num_users - first))

    def _piece(self, first: int, count: int) -> tuple[pa.Table, pa.Table]:
        draw = np.random.default_rng([self.seed, first])
        lengths = draw.geometric(1 / self.events_per_user, count)
        owner = np.repeat(np.arange(count), lengths)
        times = draw.integers(0, self.seconds, lengths.sum())
        times = times[np.lexsort((times, owner))]
        before, after, change = self._tastes(draw, count)
        taste = np.where(times < change[owner], before[owner], after[owner])
        items = self._items(draw, taste)
        items = _with_repeats(draw, items, lengths, self.repeat_share)
        ids = np.array([f"u{user:06d}" for user in range(first, first + count)])
        events = self._events(draw, ids[owner], items, times)
        return events, pa.table({"user": ids, "region": [f"r{taste:02d}" for taste in before]})

    def _tastes(
        self, draw: np.random.Generator, count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Each user's cluster before and after its moment of change, and that moment."""
        before = draw.integers(0, self.num_tastes, count)
        moved = draw.random(count) < self.drift
        after = np.where(moved, draw.integers(0, self.num_tastes, count), before)
        return before, after, draw.integers(0, self.seconds, count)

    def _items(
        self, draw: np.random.Generator, taste: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """An item of each event: of its taste, or of all; popular ones oftener."""
        chosen = _weighted(draw, self._heights[None], len(taste))
        own = draw.random(len(taste)) < self.taste_strength
        for cluster in range(self.num_tastes):
            here = np.flatnonzero(own & (taste == cluster))
            ranks = _weighted(draw, self._heights[cluster], len(here))
            chosen[here] = ranks * self.num_tastes + cluster
        return chosen

    def _events(
        self,
        draw: np.random.Generator,
        users: npt.NDArray[np.str_],
        items: npt.NDArray[np.int64],
        times: npt.NDArray[np.int64],
    ) -> pa.Table:
        count = len(items)
        value = 1.0 + draw.poisson(0.3, count)
        price = np.round((1 + items % 7) * value, 2)  # an item has one price
        kind = np.where(draw.random(count) < 0.7, "view", "purchase")
        columns = {
            "user": users,
            "item": self.item_ids.take(pa.array(items)),
            "time": times + self.first_second,
        }
        return pa.table({**columns, "kind": kind, "value": value, "price": price})


def _padded(numbers: npt.NDArray[np.int64], width: int) -> pa.Array:
    return pc.utf8_lpad(pa.array(numbers).cast("string"), width, "0")


def _weighted(
    draw: np.random.Generator, heights: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.int64]:
    """Indices with chances in proportion to weights, whose cumulative sums are given."""
    found = np.searchsorted(heights, draw.random(count) * heights[-1], side="right")
    chosen: npt.NDArray[np.int64] = np.minimum(found, len(heights) - 1).astype(np.int64)
    return chosen


def _with_repeats(
    draw: np.random.Generator,
    items: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    share: float,
) -> npt.NDArray[np.int64]:
    """Replaces some events by one of the same user's earlier events."""
    place = np.arange(len(items)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    earlier = (draw.random(len(items)) * place).astype(np.int64)  # in [0, place)
    again = (draw.random(len(items)) < share) & (place > 0)
    source = np.where(again, np.arange(len(items)) - place + earlier, np.arange(len(items)))
    while not np.array_equal(source, source[source]):  # a repeat of a repeat is of the first
        source = source[source]
    replaced: npt.NDArray[np.int64] = items[source]
    return replaced
