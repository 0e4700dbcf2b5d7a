"""What processes make is what one makes, in order, and they never outlive who asked for it."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from deeprec.data.makers import Makers, Place
from deeprec.errors import DataError, ResourceError


def after(place: Place) -> Place:
    """Epochs of three."""
    epoch, position = place
    return (epoch + 1, 0) if position == 2 else (epoch, position + 1)


@pytest.fixture
def makers() -> Iterator[Callable[..., Makers]]:
    begun: list[Makers] = []

    def begin(make: Callable[[Place], Any], first: Place = (0, 0), processes: int = 2) -> Makers:
        begun.append(Makers(make, first, after, processes=processes, ahead=2))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()
    assert not multiprocessing.active_children()


def test_places_come_in_order_through_epochs(makers: Callable[..., Makers]) -> None:
    def slow_at_first(place: Place) -> Place:
        time.sleep(0.05 * (place == (0, 1)))
        return place

    made = makers(slow_at_first, (0, 1))
    assert [next(made).unpacked() for _ in range(6)] == [
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
    ]
    assert made.next_place == (2, 1)


def test_nothing_of_this_process_is_drawn(makers: Callable[..., Makers]) -> None:
    before = torch.get_rng_state()
    next(makers(lambda place: place))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_for_a_person_comes_in_its_place_as_it_was_said(
    makers: Callable[..., Makers],
) -> None:
    def fail(place: Place) -> Place:
        if place == (0, 2):
            raise DataError("no times; prepare other data")
        return place

    made = makers(fail)
    assert [next(made).unpacked() for _ in range(2)] == [(0, 0), (0, 1)]
    with pytest.raises(DataError, match=r"^no times; prepare other data$"):
        next(made)


def test_another_error_comes_with_where_it_was(makers: Callable[..., Makers]) -> None:
    with pytest.raises(ZeroDivisionError, match="in <lambda>"):
        next(makers(lambda place: 1 // place[0]))


def test_a_process_that_dies_is_told_with_a_way_out(makers: Callable[..., Makers]) -> None:
    def die(place: Place) -> Place:
        if place == (0, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return place

    made = makers(die)
    with pytest.raises(ResourceError, match=r"fewer trainer\.prefetch_processes or 0.*--shm-size"):
        for _ in range(3):
            next(made)


def test_no_room_in_shared_memory_is_told_with_a_way_out(makers: Callable[..., Makers]) -> None:
    def no_room(place: Place) -> Place:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space")

    with pytest.raises(ResourceError, match="--shm-size"):
        next(makers(no_room))


def test_signals_are_for_who_asked_alone(makers: Callable[..., Makers]) -> None:
    made = makers(lambda place: place)
    next(made)
    children = multiprocessing.active_children()
    assert len(children) == 2
    for child in children:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            assert child.pid is not None
            os.kill(child.pid, number)
    assert [next(made).unpacked() for _ in range(8)][-1] == (2, 2)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_they_end_at_once_with_a_process_that_is_killed() -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            made = Makers(lambda place: place, (0, 0), after, processes=2, ahead=2)
            next(made)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    os.close(writing)
    os.set_blocking(reading, False)
    for _ in range(100):  # they hold the other end of the pipe, as they would a lock
        try:
            assert os.read(reading, 1) == b""
            break
        except BlockingIOError:
            time.sleep(0.02)
    else:
        pytest.fail("a process lives on")
    os.close(reading)
