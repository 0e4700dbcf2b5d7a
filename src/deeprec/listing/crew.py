"""Histories answered by several processes, each with the bundle open; answers come in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import pyarrow as pa
import torch

from deeprec import serve
from deeprec.errors import ResourceError
from deeprec.halving import Halving
from deeprec.listing.answering import (
    Histories,
    Packed,
    Wanted,
    answer,
    packed,
    unpacked,
)
from deeprec.serve import Bundle

AHEAD = 2  # batches a process: one that it answers, one that waits, so memory is bounded

# of a process that answers; set once, when it starts
_opened: Bundle
_wanted: Wanted
_halving: Halving


def answers(
    opened: Bundle,
    some_histories: Iterable[Histories],
    wanted: Wanted,
    processes: int,
) -> Iterator[tuple[Histories, pa.RecordBatch]]:
    """Histories and the lists of their users, in the order of the histories.

    Args:
        opened: the verified bundle; other processes open it again.
        processes: 1: this one answers.

    Raises:
        ResourceError: a process died, or memory does not suffice for one user.
    """
    if processes == 1:
        halving = Halving()
        for histories in some_histories:
            yield histories, answer(opened, histories, wanted, halving)
        return
    threads = max(1, torch.get_num_threads() // processes)
    start = (str(opened.path), str(opened.device), threads, wanted)
    waiting: deque[tuple[Histories, Future[pa.RecordBatch]]] = deque()
    with ProcessPoolExecutor(processes, get_context("spawn"), _open, start) as pool:
        try:
            for histories in some_histories:
                waiting.append((histories, pool.submit(_answer, packed(histories))))
                if len(waiting) >= AHEAD * processes:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        except BrokenProcessPool as error:
            raise ResourceError(
                f"one of {processes} processes died while it answered, as when memory runs out; "
                "each holds the bundle: give fewer processes="
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _first(
    waiting: deque[tuple[Histories, Future[pa.RecordBatch]]],
) -> tuple[Histories, pa.RecordBatch]:
    histories, lists = waiting.popleft()
    return histories, lists.result()


def _open(path: str, device: str, threads: int, wanted: Wanted) -> None:
    global _opened, _wanted, _halving
    torch.set_num_threads(threads)
    _wanted = wanted
    _opened, _halving = serve.load(path, verify=False, device=device), Halving()


def _answer(sent: Packed) -> pa.RecordBatch:
    return answer(_opened, unpacked(sent), _wanted, _halving)
