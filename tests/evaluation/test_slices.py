"""Bands by hand: who is in them, and what of theirs was found."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deeprec.data import store
from deeprec.data.judge import judged_batch
from deeprec.data.store import Events, Prepared
from deeprec.errors import ConfigError
from deeprec.evaluation.slices import MOST_BANDS, popularity_bands, slices

DAY = 86_400
CUT = 100 * DAY


def events(rows: list[list[tuple[int, int]]]) -> Events:
    """Per user, (item, day) of each event."""
    flat = [event for row in rows for event in row]
    return Events(
        np.cumsum([0, *map(len, rows)]),
        np.array([item for item, _ in flat], np.int32),
        times=np.array([day * DAY for _, day in flat], np.int64),
    )


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    before = [[(0, day) for day in range(5)], [], [(1, 3)]]
    after = [[(2, 107), (2, 100), (1, 106)], [(0, 128)], [(3, 107)]]
    store.write(
        tmp_path / "prepared",
        items=pa.table(
            {
                "item_id": ["a", "b", "c", "d"],
                "popularity": [2, 1, 1, 0],
                "kind": ["x", "y", None, "x"],
                "role": ["toy", "tool", "tool", "toy"],  # an attribute as any other, of an item
            }
        ),
        users=pa.table(
            {
                "user_id": ["u", "v", "w"],
                "role": ["all", "all", "holdout"],
                "town": ["n", None, "n"],
                "likes": [["x", "y"], None, []],
            }
        ),
        vocabularies={},
        parts={
            "train": [events(before)],
            "validation": [events([[], [], []])],
            "holdout": [events(after)],
        },
        contract={},
        manifest={
            "repeats": True,
            "instants": {"train": None, "validation": CUT, "holdout": CUT},
            "split": {"name": "time_cut"},
        },
    )
    return Prepared(tmp_path / "prepared")


def bands(prepared: Prepared, name: str) -> list[str]:
    """The band of each user, or of each target in the order of users and items."""
    (one,) = slices([name], prepared, "holdout")
    batch = judged_batch(prepared, np.arange(3), "holdout")
    return [one.bands[code] for code in one.codes(batch)]


def test_users_are_in_bands_by_history_training_and_attribute(prepared: Prepared) -> None:
    assert bands(prepared, "history") == ["5 to 19 events", "no event", "1 to 4 events"]
    known = ["trained on", "new, without one", "new, with a history"]
    assert bands(prepared, "users") == known
    assert bands(prepared, "user.town") == ["n", "unknown", "n"]


def test_what_was_taken_is_in_bands_by_item_and_by_its_first_day(prepared: Prepared) -> None:
    # u took b on day 106 and c on days 107 and 100, v took a on day 128, w took d on day 107
    assert bands(prepared, "time") == [
        "day 1 to 7",
        "day 1 to 7",
        "day 29 and later",
        "day 8 to 28",
    ]
    assert bands(prepared, "item.kind") == ["y", "unknown", "x", "x"]
    assert bands(prepared, "item.role") == ["tool", "tool", "toy", "toy"]
    with pytest.raises(ConfigError, match=r"user\.role: there is no such attribute"):
        bands(prepared, "user.role")
    warm = [bands(prepared, "popularity")[place] for place in (2, 0, 1)]
    # of three items that were had, one is the first 1 %, the 10 % ends in it too, the half has two
    assert warm == ["most popular 1 %", "next 40 %", "other half"]
    assert bands(prepared, "popularity")[3] == "cold"


def test_the_bands_of_popularity_are_shares_of_the_items_that_were_had(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    popularity = np.random.default_rng(0).permutation(300) - 100
    monkeypatch.setitem(prepared.__dict__, "popularity", popularity.clip(0))
    assert np.bincount(popularity_bands(prepared)).tolist() == [2, 18, 80, 99, 101]


def test_rare_values_are_one_band(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    towns = [f"town {number:02}" for number in range(30) for _ in range(30 - number)]
    prepared.users = pa.table({"town": [*towns, None]})
    (one,) = slices(["user.town"], prepared, "holdout")
    kept = [f"town {number:02}" for number in range(MOST_BANDS - 1)]
    assert one.bands == [*kept, "other", "unknown"]


def test_numbers_of_many_values_are_ranges_of_as_many_rows(prepared: Prepared) -> None:
    years = [None, *range(2039, 1991, -1)]
    prepared.users = pa.table({"year": years})
    (one,) = slices(["user.year"], prepared, "holdout")
    starts = range(1992, 2040, 4)  # twelve of four years, none of them `other`
    assert one.bands == [*(f"{year} to {year + 3}" for year in starts), "unknown"]
    batch = judged_batch(prepared, np.arange(3), "holdout")
    assert [one.bands[code] for code in one.codes(batch)] == ["unknown", *["2036 to 2039"] * 2]


def test_time_is_left_out_where_nothing_was_cut(prepared: Prepared) -> None:
    assert slices(["time"], prepared, "train") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("histroy", "none of history, users"),
        ("user.twon", "did you mean 'town'"),
        ("user.likes", "has several values of it"),
        ("item.", "none"),
    ],
)
def test_a_slice_that_is_not_there_is_refused(prepared: Prepared, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        slices([name], prepared, "holdout")
