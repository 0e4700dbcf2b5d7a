"""Users asked about together: half of them, and half of these, where memory does not suffice."""

from collections.abc import Callable

import torch
from torch import Tensor

from deeprec.console import console
from deeprec.errors import ResourceError

Lists = tuple[Tensor, Tensor]  # items int64 [B, K] and their scores float32 [B, K]

# what torch says of a CPU's memory, of CUDA's, of cuBLAS' own, and of what C++ asks for
SAID = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED", "std::bad_alloc")


class Halving:
    """Asks about users in pieces that memory has room for, and remembers the size of these.

    Their lists are the same but for what rounding decides: no user's list depends on who else is
    asked about, though products of few rows are summed in another order than those of many.
    """

    def __init__(self) -> None:
        self.most = 2**62  # users at once; none were too many so far

    def __call__(self, ask: Callable[[int, int], Lists], num_users: int) -> Lists:
        """What is answered of all users, as if they had been asked about at once.

        Args:
            ask: (start, stop) -> items and scores of users `start` to `stop - 1`.
            num_users: of the batch.

        Raises:
            ResourceError: memory does not suffice for one user.
        """
        found: list[Lists] = []
        start, most = 0, self.most
        while not found or start < num_users:
            stop = min(num_users, start + self.most)
            answer = self._answer(ask, start, stop)
            if answer is None:  # the error is gone by now, and with it what its frames held
                self.most = (stop - start + 1) // 2
                continue
            found.append(answer)
            start = stop
        if self.most < most:
            console.print(
                f"[yellow]note[/yellow] memory does not suffice to rank for {num_users:,} users at "
                f"once: it is done for {self.most:,} at a time, and lists are the same to rounding"
            )
        if len(found) == 1:
            return found[0]
        items, scores = zip(*found, strict=True)
        return torch.cat(items), torch.cat(scores)

    def _answer(self, ask: Callable[[int, int], Lists], start: int, stop: int) -> Lists | None:
        """None: memory does not suffice."""
        try:
            return ask(start, stop)
        except (MemoryError, RuntimeError) as error:
            if not denies_memory(error):
                raise
            if stop - start <= 1:
                said = str(error).strip().splitlines()[-1]
                raise ResourceError(
                    f"memory does not suffice to rank for one user ({said}); leave this process "
                    "more of it"
                ) from error
            return None


def denies_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, of whichever device and library."""
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(one in said for one in SAID)
    )
