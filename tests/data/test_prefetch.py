"""What is made ahead comes in order, fails in its place, and stops when nobody asks."""

import threading
import time

import pytest

from deeprec.data.prefetch import ahead


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_everything_comes_in_order(count: int) -> None:
    assert list(ahead(lambda i: i * i, range(20), count)) == [i * i for i in range(20)]


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_comes_where_the_result_would_have_been(count: int) -> None:
    found = ahead(lambda i: 6 // (3 - i), range(6), count)
    assert [next(found) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_no_more_than_so_many_are_made_ahead() -> None:
    made: list[int] = []
    found = ahead(lambda i: made.append(i) or i, range(100), 3)
    assert next(found) == 0
    time.sleep(0.1)
    assert len(made) <= 4
    found.close()
    time.sleep(0.1)
    assert len(made) <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]
