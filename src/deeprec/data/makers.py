"""Things made ahead of their use by processes, which do not wait for each other as threads do."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from deeprec.begun import deaf, end_with
from deeprec.data.packed import Packed, packed, shared
from deeprec.errors import DeeprecError, ResourceError

Place = tuple[int, int]  # epoch, position


class Makers:
    """Makes something for one place after the other, in order, without end.

    The processes are forked from this one, and so know what it knows; they must not touch CUDA.
    They end when this is closed, and with this process however it ends.

    Args:
        make: its result depends on its argument alone; of tensors and arrays on the host.
        first: the first place.
        after: the place after a place.
        processes: how many.
        ahead: so many are made ahead by each.
    """

    def __init__(
        self,
        make: Callable[[Place], Any],
        first: Place,
        after: Callable[[Place], Place],
        *,
        processes: int,
        ahead: int,
    ) -> None:
        self.next_place, self._after = first, after
        self._in_use, own = threading.Lock(), os.getpid()
        loader = DataLoader(
            _Made(make),
            batch_size=None,
            sampler=_places(first, after),
            num_workers=processes,
            prefetch_factor=ahead,
            multiprocessing_context="fork",
            collate_fn=_as_it_is,
            worker_init_fn=lambda _: end_with(own),
            generator=torch.Generator(),  # else it would draw from the one of this process
        )
        with _forking():
            self._made: Any = iter(loader)

    def __iter__(self) -> Iterator[Packed]:
        return self

    def __next__(self) -> Packed:
        """What was made for `next_place`.

        Raises:
            ResourceError: a process died, or there was no room for what it made.
        """
        with self._in_use:
            try:
                made: Packed | DeeprecError = next(self._made)
            except (RuntimeError, OSError, EOFError) as error:
                if why := _starved(error):
                    raise ResourceError(why) from error
                raise
        if isinstance(made, DeeprecError):
            raise made
        self.next_place = self._after(self.next_place)
        return made

    def close(self) -> None:
        """Ends the processes, once nobody waits for one of them."""
        with self._in_use:
            self._made._shutdown_workers()  # else whenever the last traceback that knows it is gone
            self._made = iter(())


class _Made(Dataset[Packed | DeeprecError]):
    def __init__(self, make: Callable[[Place], Any]) -> None:
        self.make = make

    def __getitem__(self, place: Place) -> Packed | DeeprecError:
        try:
            return packed(self.make(place), shared)
        except DeeprecError as error:
            return error  # raised where it is asked for, without the traceback in its message


def _places(first: Place, after: Callable[[Place], Place]) -> Iterable[Place]:
    place = first
    while True:
        yield place
        place = after(place)


def _as_it_is(made: Any) -> Any:
    return made


@contextmanager
def _forking() -> Iterator[None]:
    """Signals are for this process: what is forked meanwhile never hears of them.

    torch would raise at once, wherever this process is, that another died; it is told of it at the
    latest five seconds after it asks for what that one should have made.
    """
    with deaf():
        child_ends = signal.getsignal(signal.SIGCHLD)
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, child_ends)


def _starved(error: Exception) -> str | None:
    """What a person can do where a process ended, or had no room; None: it is another error."""
    said = str(error).strip() or type(error).__name__
    of_a_maker = said.startswith("Caught ")  # raised there, and told by it
    gone = isinstance(error, ConnectionError | EOFError | FileNotFoundError) and not of_a_maker
    if not (gone or said.startswith("DataLoader worker (pid") or "shared memory" in said):
        return None
    return (
        f"a process that makes batches ended ({said.splitlines()[-1]}), as when memory or /dev/shm "
        "is used up. What is saved is whole: go on with more memory, or with fewer "
        "trainer.prefetch_processes or 0; in a container give `--shm-size=4g` or `--ipc=host`"
    )
