"""The prepared folder gives back, for any users in any order, exactly what was written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deeprec.data import store
from deeprec.data.store import Events, Part, PartWriter, Prepared
from deeprec.errors import IntegrityError

DRAW = np.random.default_rng(0)


def random_events(num_users: int) -> Events:
    lengths = DRAW.integers(0, 4, num_users)
    total = int(lengths.sum())
    return Events(
        np.concatenate([[0], np.cumsum(lengths)]),
        DRAW.integers(0, 50, total).astype(np.int32),
        times=DRAW.integers(0, 2**40, total),
        prices=DRAW.random(total).astype(np.float32),
    )


def rows(events: Events, column: str) -> list[list[float]]:
    values = getattr(events, column)
    return [values[a:b].tolist() for a, b in zip(events.offsets, events.offsets[1:], strict=False)]


@pytest.mark.parametrize("column", ["items", "times", "prices"])
def test_taking_users_equals_indexing_plain_lists(tmp_path: Path, column: str) -> None:
    pieces = [random_events(n) for n in (5, 0, 9, 1)]
    with PartWriter(tmp_path / "part.arrow", ["items", "times", "prices"]) as writer:
        for piece in pieces:
            writer.append(piece)
    part = Part(tmp_path / "part.arrow")
    truth = [row for piece in pieces for row in rows(piece, column)]
    users = DRAW.integers(0, len(truth), 40)
    assert part.num_users == len(truth)
    assert rows(part.take(users), column) == [truth[user] for user in users]
    assert part.lengths.tolist() == [len(row) for row in truth]
    assert rows(part.take(np.array([], np.int64)), column) == []


def test_times_keep_every_second(tmp_path: Path) -> None:
    seconds = np.arange(1_700_000_000, 1_700_000_600)
    with PartWriter(tmp_path / "part.arrow", ["items", "times"]) as writer:
        writer.append(Events(np.array([0, 600]), np.zeros(600, np.int32), times=seconds))
    assert Part(tmp_path / "part.arrow").take(np.array([0])).times.tolist() == seconds.tolist()


def test_joining_puts_each_users_first_events_before_the_second() -> None:
    first = Events(np.array([0, 2, 2]), np.array([1, 2], np.int32))
    second = Events(np.array([0, 1, 3]), np.array([7, 8, 9], np.int32))
    assert rows(store.join(first, second), "items") == [[1, 2, 7], [8, 9]]


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        def part(*lists: list[int]) -> list[Events]:
            offsets = np.cumsum([0, *map(len, lists)])
            return [Events(offsets, np.array([i for row in lists for i in row], np.int32))]

        store.write(
            tmp_path / "prepared",
            items=pa.table({"item_id": ["007", "7", "x"], "popularity": [2, 1, 0]}),
            users=pa.table(
                {
                    "user_id": ["a", "b", "c", "d"],
                    "role": ["all", "train", "holdout", "validation"],
                    "age": ["young", None, "old", "young"],
                }
            ),
            vocabularies={"age": ["old", "young"]},
            parts={
                "train": part([0, 1], [0], [1], [2]),
                "validation": part([2], [], [], [0]),
                "holdout": part([0], [], [2, 1], []),
            },
            contract={},
            manifest={"repeats": False, "instants": {"validation": None, "holdout": None}},
        )
        return tmp_path / "prepared"

    return make


def test_roles_say_who_is_trained_on_and_who_is_judged(prepared: Callable[[], Path]) -> None:
    opened = Prepared(prepared())
    assert opened.training_users().tolist() == [0, 1]
    assert opened.judged_users("validation").tolist() == [0, 3]
    assert opened.judged_users("holdout").tolist() == [0, 2]
    assert rows(opened.history(np.array([0, 2]), "holdout"), "items") == [[0, 1, 2], [1]]
    assert rows(opened.history(np.array([0, 3]), "validation"), "items") == [[0, 1], [2]]
    ages = opened.vocabulary("age").indices_of(opened.users["age"].combine_chunks())
    assert ages.tolist() == [1, -1, 0, 1]
    assert opened.catalog.ids_of([0, 1]) == ["007", "7"]


def test_a_damaged_folder_is_refused_by_name(prepared: Callable[[], Path]) -> None:
    path = prepared() / "train.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"train\.arrow"):
        Prepared(path.parent)
