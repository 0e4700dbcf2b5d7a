"""Text samples and index files, held against what DSSTNE's reader does with them."""

import math
import tracemalloc
from pathlib import Path

import pytest

from deeprec.dsstne.text import Samples, labels_of, read_index, read_samples, write_index
from deeprec.errors import DataError


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def told(samples: Samples) -> dict[str, tuple[list[str], list[float | None]]]:
    """The rows, None where a value is absent."""
    return {
        sample: (features, [None if math.isnan(value) else value for value in values])
        for sample, (features, values) in samples.rows.items()
    }


def test_lines_are_read_as_the_grammar_says(tmp_path: Path) -> None:
    text = "\ufeffu1\ta,1:b::c,2.5,9:\n\nno tab here\nu2\tx\ty,3\r\nu1\tz\n"
    samples = read_samples(written(tmp_path / "s", text))
    assert told(samples) == {"u2": (["x\ty"], [3.0]), "u1": (["z"], [None])}
    assert (samples.num_without_tab, samples.num_replaced, samples.num_without_value) == (1, 1, 1)


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    written(tmp_path / "b", "u\tlater\n")
    written(tmp_path / "a", "u\tearlier\n")
    assert told(read_samples(tmp_path)) == {"u": (["later"], [None])}


def test_a_feature_takes_no_text_and_no_object_of_its_own(tmp_path: Path) -> None:
    line = ":".join(f"item{item},{1_500_000_000 + item}" for item in range(1000))
    path = written(tmp_path / "s", "".join(f"u{user}\t{line}\n" for user in range(20)))
    tracemalloc.start()
    samples = read_samples(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # a place in a list, a float64, some room to grow; a text and a float were 119 bytes
    assert held / samples.num_features < 32


@pytest.mark.parametrize("value", ["much", "nan", "1e999"])
def test_a_value_that_is_no_number_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match=f"line 2: expected a number after the comma, got '{value}"):
        read_samples(written(tmp_path / "s", f"u\ta,1\nv\tb,{value}\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\t0\na\t1\n", "line 2: label 'a' stands there twice"),
        ("\t0\n", "line 1: expected a label, one tab and a number"),
        ("a 0\n", "line 1: expected a label, one tab and a number"),
        ("a\t0\t1\n", "line 1: expected a label, one tab and a number"),
        ("a\tb\n", "line 1: expected a label, one tab and a number"),
        ("a\t0\nb\t1\nc\t0\n", "line 3: number 0 stands there twice"),
    ],
)
def test_an_index_that_dsstne_refuses_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_index(written(tmp_path / "i", text))


def test_an_index_comes_in_any_order_and_is_written_in_its_own(tmp_path: Path) -> None:
    index = read_index(written(tmp_path / "i", "c\t2\na\t0\nb\t1\n"))
    assert labels_of(index, "i") == ["a", "b", "c"]
    write_index(tmp_path / "o", index)
    assert (tmp_path / "o").read_text() == "a\t0\nb\t1\nc\t2\n"
    with pytest.raises(DataError, match="the numbers must be 0 to 1, each once"):
        labels_of({"a": 0, "b": 2}, "i")
