"""What every system of a report is asked: for whom, on what, under which rules."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deeprec.batch import Batch, Jagged
from deeprec.data.judge import judged_batch, without_seen
from deeprec.data.store import PartName, Prepared
from deeprec.halving import Halving


@dataclass(frozen=True)
class Question:
    """One evaluation, as it is put to each system.

    Users are asked about in the same batches whoever ranks, and however many processes share them,
    so that figures do not depend on either.

    Args:
        users: rows of those who are asked about, ascending.
        batch_users: users ranked at once.
        up_close: rows of users who are shown besides, judged or not, in the order wanted.
        halving: of all that rank, as they share this process and its memory.
    """

    prepared: Prepared
    part: PartName
    exclude_seen: bool
    cutoffs: list[int]
    batch_users: int
    users: npt.NDArray[np.int64]
    up_close: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    halving: Halving = field(default_factory=Halving, compare=False)

    @property
    def k(self) -> int:
        """The longest list that is asked for."""
        return max(self.cutoffs)

    def num_candidates(self, history: Jagged) -> npt.NDArray[np.int64]:
        """int64 [B]: how many items a list may hold of users with these distinct items."""
        lengths_B: npt.NDArray[np.int64] = history.offsets.diff().numpy()
        return self.prepared.num_items - lengths_B * self.exclude_seen

    def batches(self, first: int = 0, step: int = 1) -> Iterator[tuple[int, Batch]]:
        """The users with anything relevant, some at a time, and how many were looked at for it.

        Args:
            first: batch to begin with.
            step: batches from one to the next; others are another process's.
        """
        for start in range(first * self.batch_users, len(self.users), step * self.batch_users):
            rows = self.users[start : start + self.batch_users]
            yield len(rows), self._with_relevant(rows)

    def _with_relevant(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Those of the users whose part holds anything that a list could hold too."""
        batch = judged_batch(self.prepared, rows, self.part)
        if not self.exclude_seen:
            return batch
        unseen = without_seen(batch).target
        assert unseen is not None
        findable = rows[unseen.offsets.diff().numpy() > 0]
        return without_seen(judged_batch(self.prepared, findable, self.part))
