"""Things made ahead of their use, by one thread beside the one that uses them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(make: Callable[[Given], Made], given: Iterable[Given], count: int) -> Iterator[Made]:
    """`make` of each, in order, with up to `count` of them made before they are asked for.

    What `make` raises is raised where its result would have been. Whoever stops asking stops the
    thread too.

    Args:
        make: called in another thread; its result must depend on its argument alone.
        given: what it is called with.
        count: 0 makes each when it is asked for, without a thread.

    Example:
        >>> list(ahead(abs, [-1, 2, -3], 2))
        [1, 2, 3]
    """
    if count == 0:
        yield from map(make, given)
        return
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as worker:
        try:
            for each in given:
                pending.append(worker.submit(make, each))
                if len(pending) > count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            worker.shutdown(wait=False, cancel_futures=True)
