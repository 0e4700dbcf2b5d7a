"""Anybody's lists: read exactly, in any row order, or refused with the row named."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeprec.catalog import Catalog
from deeprec.data import lists
from deeprec.data.lists import Lists, read_lists
from deeprec.errors import DataError, NonFiniteError

USERS = Catalog(["a", "b", "007", "7", "e"])
ITEMS = Catalog([f"{i}" for i in range(10)])


def write(path: Path, users: Any, item_ids: Any, scores: Any = None) -> Path:
    columns = {"user_id": users, "item_ids": item_ids}
    if scores is not None:
        columns["scores"] = scores
    pq.write_table(pa.table(columns), path / "lists.parquet")
    return path / "lists.parquet"


def read(path: Path, k: int = 3, asked: Sequence[int] = range(5)) -> Lists:
    return read_lists(path, USERS, ITEMS, k, np.array(asked, np.int64))


def test_lists_are_laid_out_by_user_row_cut_at_k_and_padded(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        ["7", "stranger", "a", "007", "e"],
        [["3", "1", "2", "0"], ["1"], ["9", "?", "4"], ["5"], None],
        [[4.0, 3.0, 3.0, -1.0], [0.5], [1.0, 0.0, -np.inf], [0.0], None],
    )
    found = read(path)
    assert found.items.tolist() == [
        [9, -1, 4],
        [-1, -1, -1],
        [5, -1, -1],
        [3, 1, 2],
        [-1, -1, -1],
    ]
    assert found.lengths.tolist() == [3, -1, 1, 4, 0]
    assert found.num_unknown_users == 1
    assert found.unknown_items.tolist() == [1, 0, 0, 0, 0]
    some = read(path, asked=[0, 1, 3])  # no room is taken for the others
    assert some.items.tolist() == found.items[[0, 1, 3]].tolist()
    assert some.unknown_items.tolist() == [1, 0, 0]
    assert some.lengths.tolist() == found.lengths.tolist()
    assert some.places(np.array([3, 0])).tolist() == [2, 0]
    assert read(path, asked=[]).items.shape == (0, 3)


@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
def test_row_order_and_pieces_leave_no_trace(
    tmp_path: Path, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "ROWS_AT_ONCE", rows_at_once)
    rows = [("a", ["1", "2"]), ("b", []), ("7", ["2", "?"]), ("e", ["0"]), ("nobody", ["0"])]
    first = read(write(tmp_path, *map(list, zip(*rows, strict=True))))
    random.Random(1).shuffle(rows)
    second = read(write(tmp_path, *map(list, zip(*rows, strict=True))))
    for name in ("items", "lengths", "unknown_items", "num_unknown_users"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int64()),
        pa.list_(pa.uint8()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.list_(pa.string(), 2),
    ],
)
def test_other_ways_to_store_ids_are_read_exactly(tmp_path: Path, kind: pa.DataType) -> None:
    of_strings = pa.array([["7", "3"], ["0", "1"]])
    values = of_strings.flatten().cast(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        stored = pa.FixedSizeListArray.from_arrays(values, 2)
    elif pa.types.is_large_list(kind):
        stored = pa.LargeListArray.from_arrays([0, 2, 4], values)
    else:
        stored = pa.ListArray.from_arrays([0, 2, 4], values)
    assert stored.type == kind
    found = read(write(tmp_path, pa.array([7, 8]), stored))
    assert found.items[3].tolist() == [7, 3, -1]
    assert found.lengths.tolist() == [-1, -1, -1, 2, -1]  # 7 is "7", not "007"


@pytest.mark.parametrize(
    ("users", "item_ids", "scores", "message"),
    [
        (["a", "b"], [["1"], ["2", "3", "1", "3"]], None, r"row 2: item '3' .* twice"),
        (["a", "b"], [["?"], ["!", "!"]], None, r"row 2: item '!' .* twice"),
        (["a", "b", "a"], [["1"]] * 3, None, r"row 3: this user has a list already"),
        (["a"], [["1", "2"]], [[1.0]], r"row 1: 2 items but 1 scores"),
        (["b", "a"], [["1"], ["1", "2"]], [[1.0], [1.0, 2.0]], r"row 2.*score of 1 is"),
        ([1.5], [["1"]], None, "user_id must hold strings or integers, got double"),
        (["a"], [[1.0]], None, "item_ids must hold strings or integers, got double"),
        (["a"], ["1"], None, "item_ids must hold lists"),
        (["a", None], [["1"]] * 2, None, "user_id holds 1 nulls"),
        (["a"], [["1", None]], None, "item_ids holds 1 nulls"),
        (["someone"], [["1"]], None, "none of its 1 users is among the 5"),
        (["a"], [["x"]], None, "no item id .* for example 'x', the prepared folder '0'"),
        (pa.array([], pa.string()), pa.array([], pa.list_(pa.string())), None, "holds no lists"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, users: Any, item_ids: Any, scores: Sequence[Any] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message) as refused:
        read(write(tmp_path, users, item_ids, scores))
    said = str(refused.value).removeprefix(str(tmp_path))
    assert not any(repr(user) in said for user in users if isinstance(user, str))


@pytest.mark.parametrize("score", [np.nan, None])
def test_a_score_that_is_not_a_number_has_no_place(tmp_path: Path, score: float | None) -> None:
    with pytest.raises(NonFiniteError, match="row 1"):
        read(write(tmp_path, ["a"], [["1", "2"]], [[1.0, score]]))


def test_scores_may_fall_from_one_user_to_the_next_and_rise_between(tmp_path: Path) -> None:
    given = read(write(tmp_path, ["a", "b"], [["1"], ["2"]], [[1.0], [2.0]]))
    assert given.lengths.tolist().count(1) == 2


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "lists.parquet")
    (tmp_path / "lists.parquet").write_text("user_id,item_ids\n")
    with pytest.raises(DataError, match="row 1 is no list"):
        read(tmp_path / "lists.parquet")
    (tmp_path / "lists.parquet").write_text("PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(tmp_path / "lists.parquet")
    pq.write_table(pa.table({"user": ["a"], "item_ids": [["1"]]}), tmp_path / "lists.parquet")
    with pytest.raises(DataError, match="missing: user_id; found: user, item_ids"):
        read(tmp_path / "lists.parquet")


def text(path: Path, lines: str) -> Path:
    (path / "lists.txt").write_text(lines, encoding="utf-8")
    return path / "lists.txt"


@pytest.mark.parametrize("rows_at_once", [1, 100])
def test_the_text_of_dsstne_says_what_parquet_says(
    tmp_path: Path, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "ROWS_AT_ONCE", rows_at_once)
    path = text(
        tmp_path, "7\t3,0.982:1,0.982:2,0.1:0,-1e-3:\nstranger\t1,0.5:\ne\t\na\t9,1:?,0:4,0\n"
    )
    found = read(path)
    same = read(
        write(
            tmp_path,
            ["7", "stranger", "e", "a"],
            [["3", "1", "2", "0"], ["1"], [], ["9", "?", "4"]],
            [[0.982, 0.982, 0.1, -0.001], [0.5], [], [1.0, 0.0, 0.0]],
        )
    )
    for name in ("items", "lengths", "unknown_items", "num_unknown_users"):
        assert np.array_equal(getattr(found, name), getattr(same, name))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a\t1,0.5:\nb 2,0.5:\n", "row 2 is no list .no user"),
        ("a\t1,high:\n", "row 1 is no list .could not convert"),
        ("a\t1,0.5:2:\n", "row 1 is no list .no user before a TAB, or no item before a comma"),
        ("a\t1,0.5:1,0.4:\n", "row 1: item '1' is in the list twice"),
        ("a\t1,0.5:\na\t1,0.5:\n", "row 2: this user has a list already"),
        ("a\t1,0.5:2,0.6:\n", "row 1: lists are best first"),
        ("", "holds no lists"),
    ],
)
def test_text_that_is_wrong_is_named_by_its_row(tmp_path: Path, lines: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(text(tmp_path, lines))


def test_what_is_neither_text_nor_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lists").write_bytes(b"a\t1,0.5:\n\xff\xfe\n")
    with pytest.raises(DataError, match="neither Parquet nor UTF-8"):
        read(tmp_path / "lists")
