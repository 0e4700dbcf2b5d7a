"""Things made ahead of their use, by threads beside the one that uses them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(
    make: Callable[[Given], Made], given: Iterable[Given], count: int, threads: int = 1
) -> Iterator[Made]:
    """`make` of each, in order, with up to `count` of them made before they are asked for.

    What `make` raises is raised where its result would have been. Whoever stops asking stops the
    threads too.

    Args:
        make: called in other threads; its result must depend on its argument alone.
        given: what it is called with.
        count: 0 makes each when it is asked for, without a thread.
        threads: that make them at once, each of them with one thread of torch: pools of pools would
            wait for each other.

    Example:
        >>> list(ahead(abs, [-1, 2, -3], 2))
        [1, 2, 3]
    """
    if count == 0:
        yield from map(make, given)
        return
    pending: deque[Future[Made]] = deque()
    before = torch.get_num_threads()
    alone = partial(torch.set_num_threads, 1) if threads > 1 else None
    with ThreadPoolExecutor(threads, "ahead", initializer=alone) as worker:
        try:
            for each in given:
                pending.append(worker.submit(make, each))
                if len(pending) > count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            worker.shutdown(wait=False, cancel_futures=True)
            if threads > 1:  # threads that begin later have as many as the last that was told
                torch.set_num_threads(before)
