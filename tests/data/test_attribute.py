"""Attributes are joined by id, and numbers become as many buckets as say something."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeprec.data.attribute import (
    hashed_column,
    join_attributes,
    read_attributes,
    vocabulary,
)
from deeprec.data.vocabulary import Hashed, rows_of
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError
from deeprec.serve import hash_row


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], str]:
    def make(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return make


def ids(space: Workspace, names: list[str], of: str = "user") -> Any:
    table = pa.table({of: names, "row": range(len(names))})
    return space.keep("ids", ibis.memtable(table))


def test_a_list_of_lists_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"'likes': a list must hold text or numbers"):
        vocabulary("likes", pa.array([[["a"], ["b"]], None]))


def test_attributes_of_several_tables_are_joined_in_order(
    space: Workspace, file: Callable[[str, str], str]
) -> None:
    specs = [
        {"file": file("a.csv", "id,age,town\n07,30,Ulm\n7,,Bonn\n9,50,Rom\n"), "key": "id"},
        {"file": file("b.csv", "x,who\ny,7\nz,nobody\n"), "key": "who", "columns": ["x"]},
    ]
    tables, files = read_attributes(space, specs, "user")
    joined, checks = join_attributes(space, ids(space, ["07", "08", "7"]), tables, "user")
    assert joined.to_pydict() == {
        "age": ["30", None, None], "town": ["Ulm", None, "Bonn"], "x": [None, None, "y"]
    }  # fmt: skip
    assert [Path(file).name for file in files] == ["a.csv", "b.csv"]
    assert [check.facts for check in checks] == [{"known": 2, "twice": 0}, {"known": 1, "twice": 0}]


def test_an_id_that_stands_twice_is_counted_whatever_the_order(
    space: Workspace, file: Callable[[str, str], str]
) -> None:
    found = []
    for text in ("id,age\na,old\na,new\n", "id,age\na,new\na,old\n"):
        tables, _ = read_attributes(space, {"file": file("a.csv", text), "key": "id"}, "user")
        joined, checks = join_attributes(space, ids(space, ["a"]), tables, "user")
        found.append((joined["age"].to_pylist(), checks[0].level, checks[0].facts["twice"]))
    assert found == [(["new"], "warn", 1)] * 2


def test_a_table_whose_ids_fit_none_is_a_warning(
    space: Workspace, file: Callable[[str, str], str]
) -> None:
    spec = {"file": file("a.csv", "id,age\n1,old\n"), "key": "id"}
    tables, _ = read_attributes(space, spec, "user")
    joined, checks = join_attributes(space, ids(space, ["a"]), tables, "user")
    assert joined["age"].to_pylist() == [None]
    assert (checks[0].level, checks[0].facts["known"]) == ("warn", 0)


def test_mistakes_are_named(space: Workspace, file: Callable[[str, str], str]) -> None:
    path = file("a.csv", "id,role\na,x\n")
    with pytest.raises(ConfigError, match="did you mean 'columns'"):
        read_attributes(space, {"file": path, "key": "id", "colums": ["role"]}, "user")
    with pytest.raises(ConfigError, match="needs a file"):
        read_attributes(space, {"file": path}, "user")
    with pytest.raises(DataError, match="no column 'user'"):
        read_attributes(space, {"file": path, "key": "user"}, "user")
    tables, _ = read_attributes(space, {"file": path, "key": "id"}, "user")
    with pytest.raises(DataError, match="'role'"):
        join_attributes(space, ids(space, ["a"]), tables, "user")
    path = file("b.csv", "id,role,retired_in\na,x,2020\n")  # which a bundle has of its own
    tables, _ = read_attributes(space, {"file": path, "key": "id"}, "item")
    with pytest.raises(DataError, match="no column may be named 'retired_in'"):
        join_attributes(space, ids(space, ["a"], "item"), tables, "item")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array(["b", None, "a", "b"]), ["a", "b"]),
        (pa.array(["é", "z", "Z"]), ["Z", "z", "é"]),  # by their bytes
        (pa.array([2.5, 1.0, None]), ["1", "2.5"]),
        (pa.array([True, False]), ["false", "true"]),
        (pa.array([f"0{n:02d}" for n in range(99)]), [f"0{n:02d}" for n in range(99)]),  # codes
        (pa.array([None, None], pa.string()), []),
    ],
)
def test_few_values_stay_as_they_are(column: pa.Array, values: list[str]) -> None:
    text, found, _ = vocabulary("x", column)
    assert found == values
    assert text.null_count == column.null_count


@pytest.mark.parametrize("as_text", [False, True])
def test_many_numbers_become_buckets_of_equal_share_named_by_their_range(as_text: bool) -> None:
    numbers = np.random.default_rng(0).normal(50, 20, 1600).round(2)
    column = pa.array([None, *numbers.tolist()])
    text, values, _ = vocabulary("x", column.cast(pa.string()) if as_text else column)
    assert text[0].as_py() is None
    assert len(values) == 16
    for number, bucket in zip(numbers, text.to_pylist()[1:], strict=True):
        low, high = map(float, bucket.split(" to "))
        assert low <= number <= high
    sizes = np.unique(text.to_pylist()[1:], return_counts=True)[1]
    assert sizes.min() >= 95
    assert sizes.max() <= 105


def test_one_number_that_most_have_is_a_bucket_of_its_own() -> None:
    column = pa.array([0] * 900 + list(range(1, 101)))
    text, values, _ = vocabulary("x", column)
    assert text[0].as_py() == "0 to 0"
    assert len(values) == len(set(text.to_pylist())) >= 2


def test_a_value_for_each_user_is_a_warning() -> None:
    names = pa.array([f"name {n}" for n in range(5000)])
    assert vocabulary("x", names)[2][0].level == "warn"


def test_a_value_that_few_users_to_train_on_have_is_unknown() -> None:
    column = pa.array(["bern", "bern", "oslo", "oslo", None, "rome", "bern"])
    trained = np.array([True, True, True, False, True, True, False])
    text, values, checks = vocabulary("city", column, trained=trained, min_users=2)
    assert text.to_pylist() == ["bern", "bern", None, None, None, None, "bern"]
    assert values == ["bern"]
    assert checks[0].says == "1 values, and 2 too rare to be known"
    everybody = vocabulary("city", column, min_users=2)
    assert everybody[1] == ["bern", "oslo"]


def test_of_several_values_each_is_known_once_and_rare_ones_are_not() -> None:
    column = pa.array([["b", "a", "b"], None, ["c", None, "a"], [], ["a", "z"]])
    text, values, [check] = vocabulary("likes", column)
    assert values == ["a", "b", "c", "z"]
    assert text.to_pylist() == [["a", "b"], None, ["a", "c"], [], ["a", "z"]]
    assert check.facts == {"values": 4, "rare_values": 0}
    trained = np.array([True, True, True, True, False])
    text, values, [check] = vocabulary("likes", column, trained=trained, min_users=2)
    assert (values, check.facts["rare_values"]) == (["a"], 3)  # twice of one user is one user
    assert text.to_pylist() == [["a"], None, ["a"], [], ["a"]]
    numbers = pa.array([[n, n + 1] for n in range(100)])
    assert len(vocabulary("near", numbers)[1]) == 101  # none of them becomes a bucket


def test_of_several_values_each_is_hashed() -> None:
    column = pa.chunked_array([[["b", "a", "b"], None], [["a"]]])
    text, check = hashed_column("likes", column, 64)
    assert text.to_pylist() == [["a", "b"], None, ["a"]]
    assert check.facts["values"] == 2
    rows = rows_of(text, Hashed(64))
    assert rows.offsets.tolist() == [0, 2, 2, 3]
    assert rows.values.tolist() == [*sorted(hash_row(v, 64) for v in "ab"), hash_row("a", 64)]


def test_lists_of_a_table_are_joined_whatever_the_order_of_its_rows(
    space: Workspace, tmp_path: Path
) -> None:
    found = []
    for rows in ([["z"], ["b", "a"]], [["b", "a"], ["z"]]):
        pq.write_table(pa.table({"id": ["a", "a"], "likes": rows}), tmp_path / "u.parquet")
        spec = {"file": str(tmp_path / "u.parquet"), "key": "id"}
        tables, _ = read_attributes(space, spec, "user")
        joined, _ = join_attributes(space, ids(space, ["a", "b"]), tables, "user")
        found.append(joined["likes"].to_pylist())
    assert found[0] == found[1] == [["b", "a"], None]
