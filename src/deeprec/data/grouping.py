"""Which users share a training batch: so many users, or so many interactions; alike in length."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

POOL_BATCHES = 50  # users are sorted by length within so many batches' worth: still well shuffled


@dataclass(frozen=True)
class Grouping:
    """How the users of an epoch are cut into batches; every user is in exactly one.

    Args:
        batch_users: users in a batch of one process.
        batch_interactions: interactions in a batch instead, about: a user is never divided.
        bucket_lengths: users with histories of similar length share a batch.

    Raises:
        ValueError: not exactly one of the two sizes is given, or it is below 1.

    Example:
        >>> lengths = np.array([5, 1, 1, 1, 4])
        >>> Grouping(batch_interactions=6).bounds(lengths, 1).tolist()
        [0, 2, 5]
    """

    batch_users: int | None = None
    batch_interactions: int | None = None
    bucket_lengths: bool = False

    def __post_init__(self) -> None:
        sizes = {"batch_users": self.batch_users, "batch_interactions": self.batch_interactions}
        given = {name: size for name, size in sizes.items() if size is not None}
        if len(given) != 1:
            told = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(
                f"give one of batch_users and batch_interactions, the other as null; got {told}"
            )
        for name, size in given.items():
            if size < 1:
                raise ValueError(f"{name} must be 1 or more, got {size}")

    def users_of_batch(self, lengths: npt.NDArray[np.int64]) -> int:
        """About how many users a batch holds."""
        if self.batch_users is not None:
            return min(self.batch_users, len(lengths))
        assert self.batch_interactions is not None
        fitting = round(self.batch_interactions / float(self._counted(lengths).mean()))
        return max(1, min(len(lengths), fitting))

    def num_batches(self, lengths: npt.NDArray[np.int64], world: int) -> int:
        """Batches of each process in an epoch: the same number in every epoch."""
        if self.batch_users is not None:
            return -(-len(lengths) // (self.batch_users * world))
        assert self.batch_interactions is not None
        return -(-int(self._counted(lengths).sum()) // (self.batch_interactions * world))

    def bounds(self, lengths: npt.NDArray[np.int64], world: int) -> npt.NDArray[np.int64]:
        """int64 [batches * world + 1]: batch i holds users [bounds[i], bounds[i + 1]).

        By interactions none is empty, unless there are fewer users than batches. One who has more
        of them than a batch fills it, however many these are.
        """
        groups = self.num_batches(lengths, world) * world
        places = np.arange(groups + 1)
        if self.batch_users is not None:
            return (places * self.batch_users).clip(max=len(lengths))
        counted = self._counted(lengths)
        middles = np.cumsum(counted) - counted / 2
        bounds: npt.NDArray[np.int64]
        bounds = np.searchsorted(middles, places * (counted.sum() / groups))
        bounds = np.maximum.accumulate(bounds - places) + places  # a user each, at least
        latest = places + max(0, len(lengths) - groups)
        bounds = np.minimum(bounds, latest).clip(max=len(lengths))
        return bounds

    def _counted(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Interactions of each user, as many as a batch has of one who has more."""
        assert self.batch_interactions is not None
        return lengths.clip(max=self.batch_interactions)

    def plan(
        self,
        users: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        draw: np.random.Generator,
        world: int,
    ) -> list[npt.NDArray[np.int64]]:
        """The users of every batch of an epoch, of all processes, in the order of training.

        Args:
            users: int64 [U].
            lengths: int64 [U], interactions of each, 1 or more.
            draw: of this epoch; it has made the first permutation of the users already.
            world: processes.
        """
        if not self.bucket_lengths:
            return np.split(users, self.bounds(lengths, world)[1:-1])
        pools = np.arange(len(users)) // (POOL_BATCHES * world * self.users_of_batch(lengths))
        order = np.lexsort((lengths, pools))
        groups = np.split(users[order], self.bounds(lengths[order], world)[1:-1])
        return [groups[i] for i in draw.permutation(len(groups))]
