"""Slices of a judgement: which users, items and events a figure holds for.

A slice divides the judged users, or what they took, into bands. A band of users is judged by what
its users were given; a band of items or events by how much of itself was found: there only what
belongs to the band is relevant, and only users who took anything of it are asked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deeprec.batch import Batch
from deeprec.data.bucket import buckets_of, numbers_of
from deeprec.data.store import SECONDS_PER_DAY, Kind, PartName, Prepared, attribute_names
from deeprec.data.vocabulary import holds_lists
from deeprec.errors import ConfigError, did_you_mean

IntArray = npt.NDArray[np.int64]

MOST_BANDS = 12  # of an attribute; what is rarer is called `other`
UNKNOWN, OTHER = "unknown", "other"
LENGTHS = (1, 5, 20, 100, 500)  # events of a history, where a band begins
DAYS = (0, 7, 28)  # after the cut, where a band begins
POPULARITY = ("most popular 1 %", "next 9 %", "next 40 %", "other half", "cold")


@dataclass(frozen=True)
class Slice:
    """One way to divide a judgement into bands.

    Args:
        name: as the config asks for it.
        of: what is divided: the users, or what they took, by its item or as an event.
        says: what is divided by what, for a person.
        bands: their names, in the order of codes.
        codes: batch -> the band of each user [B], or of each target [N].
        band_V: of items, the band of each.
    """

    name: str
    of: Literal["users", "items", "events"]
    says: str
    bands: Sequence[str]
    codes: Callable[[Batch], IntArray]
    band_V: IntArray | None = None


def slices(names: Sequence[str], prepared: Prepared, part: PartName) -> list[Slice]:
    """The slices asked for: `history`, `users`, `popularity`, `time`, user.NAME or item.NAME.

    `time` is left out where the split has no instant from which time could count.

    Raises:
        ConfigError: there is no such slice or attribute.
    """
    found: list[Slice] = []
    for name in names:
        of, _, attribute = name.partition(".")
        if name == "history":
            found.append(_history())
        elif name == "users":
            found.append(_users(prepared))
        elif name == "popularity":
            found.append(_popularity(prepared))
        elif name == "time":
            found.extend(_time(prepared, part))
        elif of == "user" and attribute:
            found.append(_user_attribute(prepared, attribute))
        elif of == "item" and attribute:
            found.append(_item_attribute(prepared, attribute))
        else:
            known = "history, users, popularity, time, user.ATTRIBUTE, item.ATTRIBUTE"
            raise ConfigError(f"slices: {name!r} is none of {known}")
    return found


def popularity_bands(prepared: Prepared) -> IntArray:
    """int64 [V]: the band of `POPULARITY` of each item; one nobody trained on had is cold.

    Example:
        Of 200 items that were all had, the first two are the most popular 1 %.
    """
    popularity = prepared.popularity
    place_V = np.empty(len(popularity), np.int64)
    place_V[np.argsort(-popularity, kind="stable")] = np.arange(len(popularity))
    num_warm = int((popularity > 0).sum())
    ends = np.ceil(np.array([0.01, 0.1, 0.5]) * num_warm).astype(np.int64)
    band_V = np.searchsorted(ends, place_V, side="right")
    band_V[popularity == 0] = POPULARITY.index("cold")
    return band_V


def _history() -> Slice:
    ends = [f"{a} to {b - 1} events" for a, b in pairwise(LENGTHS)]
    bands = ["no event", *ends, f"{LENGTHS[-1]} events and more"]

    def codes(batch: Batch) -> IntArray:
        return np.searchsorted(LENGTHS, batch.history.offsets.diff().numpy(), side="right")

    return Slice("history", "users", "users by the events of their history", bands, codes)


def _users(prepared: Prepared) -> Slice:
    trained = prepared.training_users()
    bands = ["trained on", "new, with a history", "new, without one"]

    def codes(batch: Batch) -> IntArray:
        known = np.isin(batch.user_rows.numpy(), trained)
        empty = batch.history.offsets.diff().numpy() == 0
        return np.where(known, 0, np.where(empty, 2, 1))

    return Slice("users", "users", "users by whether training saw them", bands, codes)


def _popularity(prepared: Prepared) -> Slice:
    says = "items by how many users of the training part had them; cold: none"
    return _of_items("popularity", says, POPULARITY, popularity_bands(prepared))


def _time(prepared: Prepared, part: PartName) -> Iterator[Slice]:
    instant = prepared.instant(part)
    if instant is None or not prepared.has_times:
        return
    ends = [f"day {a + 1} to {b}" for a, b in pairwise(DAYS)]
    bands = [*ends, f"day {DAYS[-1] + 1} and later"]

    def codes(batch: Batch) -> IntArray:
        assert batch.target is not None
        events = prepared.parts[part].take(batch.user_rows.numpy())
        assert events.times is not None
        days = (events.times - instant) // SECONDS_PER_DAY
        users_M = np.repeat(np.arange(batch.num_users), events.lengths)
        keys_M = users_M * prepared.num_items + events.items
        order = np.lexsort((days, keys_M))  # the first event of each user and item comes first
        users_N = np.repeat(np.arange(batch.num_users), batch.target.offsets.diff().numpy())
        keys_N = users_N * prepared.num_items + batch.target.values.numpy()
        first_N = order[np.searchsorted(keys_M[order], keys_N)]
        band_N: IntArray = np.searchsorted(DAYS, days[first_N], side="right") - 1
        return band_N

    yield Slice("time", "events", "events by how long after the cut they came", bands, codes)


def _user_attribute(prepared: Prepared, name: str) -> Slice:
    codes_U, bands = _bands(prepared.users, name, "user")

    def codes(batch: Batch) -> IntArray:
        codes_B: IntArray = codes_U[batch.user_rows.numpy()]
        return codes_B

    return Slice(f"user.{name}", "users", f"users by {name}", bands, codes)


def _item_attribute(prepared: Prepared, name: str) -> Slice:
    codes_V, bands = _bands(prepared.items, name, "item")
    return _of_items(f"item.{name}", f"items by {name}", bands, codes_V)


def _of_items(name: str, says: str, bands: Sequence[str], band_V: IntArray) -> Slice:
    def codes(batch: Batch) -> IntArray:
        assert batch.target is not None
        band_N: IntArray = band_V[batch.target.values.numpy()]
        return band_N

    return Slice(name, "items", says, bands, codes, band_V)


def _bands(table: pa.Table, name: str, of: Kind) -> tuple[IntArray, list[str]]:
    """The band of each row, by its value: the most frequent ones, `other`, and `unknown`.

    Numbers of more values than there are bands are ranges of about as many rows each, ascending.
    """
    attributes = attribute_names(table, of)
    if name not in attributes:
        raise ConfigError(
            f"slices: {of}.{name}: there is no such attribute; {did_you_mean(name, attributes)}"
        )
    if holds_lists(table[name].type):
        raise ConfigError(
            f"slices: {of}.{name}: a user or item has several values of it, and a slice has each "
            "once; leave it out"
        )
    values, kept = _ranked(table[name].combine_chunks())
    bands = kept if len(kept) <= MOST_BANDS else [*kept[: MOST_BANDS - 1], OTHER]
    codes = pc.fill_null(pc.index_in(values, pa.array(kept, pa.string())), len(kept))
    codes = codes.to_numpy().astype(np.int64)
    unknown = codes == len(kept)
    codes = codes.clip(max=len(bands) - 1)
    if unknown.any():
        codes[unknown] = len(bands)
        bands = [*bands, UNKNOWN]
    return codes, bands


def _ranked(column: pa.Array) -> tuple[pa.Array, list[str]]:
    """Each row's value as text; and the distinct ones, most frequent first, or ranges ascending."""
    numbers = numbers_of(column)
    if numbers is not None and len(np.unique(numbers[~np.isnan(numbers)])) > MOST_BANDS:
        ranges = buckets_of(numbers, MOST_BANDS)
        ascending = ranges.take(pa.array(np.argsort(numbers, kind="stable")))
        return ranges, pc.unique(ascending.drop_null()).to_pylist()
    values = column.cast(pa.string())
    counts = pc.value_counts(values.drop_null()).to_pylist()
    ranked = sorted(counts, key=lambda one: (-one["counts"], one["values"]))
    return values, [one["values"] for one in ranked]
