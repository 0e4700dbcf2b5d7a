"""Histories to batches: a pure function of seed, epoch, rank and position, resumable anywhere."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deeprec.batch import Batch, Jagged
from deeprec.data.attribute_histories import AttributeHistories
from deeprec.data.grouping import Grouping
from deeprec.data.judge import attributes_of, distinct, judged_batch, without_seen
from deeprec.data.makers import Makers, Place
from deeprec.data.packed import Packed
from deeprec.data.prefetch import ahead
from deeprec.data.store import SECONDS_PER_DAY, Events, PartName, Prepared
from deeprec.data.target import Examples, Target, after


class Batches:
    """The training batches of one epoch after the other.

    Every pass over this object gives the rest of the epoch at hand. A user with nothing to be
    shown or nothing to predict in an epoch is left out of its batch, which may so become smaller,
    or empty.

    Args:
        prepared: the prepared folder.
        target: what the model learns to predict.
        grouping: which users share a batch, before some are left out.
        seed: of the order of users and of what the target draws.
        prefetch: batches made ahead of their use; 0: each when it is asked for.
        processes: so many make batches, each `prefetch` ahead; 0: a thread beside this one.
        finish: what is made of a batch, where the batch is made, and given in its place; it draws
            from a generator of its own for each batch. None: nothing.
        receive: what is then made of it in this process, in a thread beside this one. None:
            nothing, but that what processes made is unpacked.
        more: histories that are learned from beside those of users, each once an epoch.
        rank: this process, in [0, world).
        world: processes that share the users.
    """

    def __init__(
        self,
        prepared: Prepared,
        target: Target,
        *,
        grouping: Grouping,
        seed: int,
        prefetch: int = 0,
        processes: int = 0,
        finish: Callable[[Batch, torch.Generator], Any] | None = None,
        receive: Callable[[Any], Any] | None = None,
        more: AttributeHistories | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.prepared, self.target, self.grouping = prepared, target, grouping
        self.prefetch, self.processes = prefetch, processes
        self.finish, self.receive, self.more = finish, receive, more
        self.seed, self.rank, self.world = seed, rank, world
        self.users = prepared.training_users()
        self._lengths = prepared.parts["train"].lengths
        self.period = prepared.training_period
        self.end = None if self.period is None or prepared.judged_apart else self.period[1]
        self.epoch, self.position = 0, 0
        self._plan = lru_cache(maxsize=1)(self._plan_epoch)
        self._makers: Makers | None = None

    def __len__(self) -> int:
        """Batches in an epoch, the same for every rank."""
        return self.grouping.num_batches(self.lengths, self.world)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [U]: events of each of the users."""
        return self._lengths[self.users]

    @property
    def users_of_batch(self) -> int:
        """About how many users a batch holds."""
        return self.grouping.users_of_batch(self.lengths)

    def __iter__(self) -> Iterator[Any]:
        positions = range(self.position, len(self))
        for position, batch in zip(positions, self._ahead(positions), strict=True):
            # before the yield: whoever counts len(self) batches never comes back for the rest
            self.epoch, self.position = self._after((self.epoch, position))
            yield batch

    def close(self) -> None:
        """Ends the processes that make batches; a further pass begins others."""
        if self._makers is not None:
            self._makers.close()
            self._makers = None

    def batch(self, epoch: int, position: int, rank: int | None = None) -> Batch:
        """The batch at this place of this epoch, whatever was asked for before.

        Args:
            epoch: counted from 0.
            position: of the batch in it, likewise.
            rank: of the process whose batch it is; None: this one.
        """
        groups, uniform = self._plan(epoch)
        rows = np.sort(groups[position * self.world + (self.rank if rank is None else rank)])
        events = self.prepared.parts["train"].take(rows)
        examples = self.target(events, uniform[rows], self.period)
        if examples.moments is None:
            examples.moments = after(events, uniform[rows], self.end)
        shows_target = self.target.shows_target
        return training_batch(self.prepared, rows, examples, shows_target=shows_target)

    def finished(self, epoch: int, position: int) -> Any:
        """What a pass gives at this place of this epoch."""
        return self._received(self._made((epoch, position)))

    def _ahead(self, positions: range) -> Iterator[Any]:
        """What a pass gives at these positions of the epoch at hand."""
        if self.processes == 0:
            return ahead(partial(self.finished, self.epoch), positions, self.prefetch)
        makers = self._makers_at((self.epoch, self.position))
        return ahead(lambda _: self._received(next(makers)), positions, 1)

    def _makers_at(self, place: Place) -> Makers:
        """Those of the pass before, if they are at this place; they outlive epochs."""
        if self._makers is None or self._makers.next_place != place:
            self.close()
            self._makers = Makers(
                self._made, place, self._after, processes=self.processes, ahead=self.prefetch
            )
        return self._makers

    def _received(self, made: Any) -> Any:
        if self.receive is not None:
            return self.receive(made)
        return made.unpacked() if isinstance(made, Packed) else made

    def _made(self, place: Place) -> Any:
        epoch, position = place
        batch = self.batch(epoch, position)
        if self.more is not None:
            batch = self.more.beside(batch, self._share(epoch, position))
        if self.finish is None:
            return batch
        entropy = [self.seed, epoch, position * self.world + self.rank]
        draw = torch.Generator()
        draw.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))
        return self.finish(batch, draw)

    def state_dict(self) -> dict[str, int]:
        """Where the next pass begins."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def _after(self, place: Place) -> Place:
        epoch, position = place
        return (epoch + 1, 0) if position + 1 == len(self) else (epoch, position + 1)

    def _share(self, epoch: int, position: int) -> npt.NDArray[np.int64]:
        """Which of the further histories stand beside this batch: all of an epoch have them all."""
        assert self.more is not None
        order = np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.more))
        place, places = position * self.world + self.rank, len(self) * self.world
        first, last = (len(order) * np.array([place, place + 1])) // places
        return np.sort(order[first:last])

    def _plan_epoch(
        self, epoch: int
    ) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.float64]]:
        """The users of every batch, and one draw for every user of the folder."""
        draw = np.random.default_rng([self.seed, epoch])
        order, uniform = draw.permutation(self.users), draw.random(self.prepared.num_users)
        return self.grouping.plan(order, self._lengths[order], draw, self.world), uniform


class JudgedBatches:
    """The batches a model is validated on, always the same.

    Args:
        max_users: users judged, drawn once with `seed`; None: all of them.
        exclude_seen: judge users on items that are not in their history only.
    """

    def __init__(
        self,
        prepared: Prepared,
        part: PartName,
        *,
        batch_users: int,
        max_users: int | None = None,
        seed: int = 0,
        exclude_seen: bool,
    ) -> None:
        self.prepared, self.part = prepared, part
        self.batch_users, self.exclude_seen = batch_users, exclude_seen
        self.users = drawn_users(prepared.judged_users(part), max_users, seed)

    def __len__(self) -> int:
        return -(-len(self.users) // self.batch_users)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.users), self.batch_users):
            rows = self.users[start : start + self.batch_users]
            batch = judged_batch(self.prepared, rows, self.part)
            yield without_seen(batch) if self.exclude_seen else batch


def drawn_users(
    users: npt.NDArray[np.int64], max_users: int | None, seed: int
) -> npt.NDArray[np.int64]:
    """At most so many of the users, ascending, always the same for a seed; None: all of them."""
    if max_users is None or len(users) <= max_users:
        return users
    return np.sort(np.random.default_rng(seed).permutation(users)[:max_users])


def training_batch(
    prepared: Prepared, rows: npt.NDArray[np.int64], examples: Examples, *, shows_target: bool
) -> Batch:
    """The examples of those users who have a target, and so a history.

    Where items may not be recommended again, what a user already had is no target, unless the
    target is what is shown.
    """
    history = examples.history
    batch = Batch(
        user_rows=torch.from_numpy(rows),
        history=_jagged(history),
        target=distinct(_jagged(examples.taken)),
    )
    if not shows_target and not prepared.repeats:
        batch = without_seen(batch)
    assert batch.target is not None
    if examples.weighs:
        batch.target.weights = torch.from_numpy(_weights(examples.taken, batch.target))
    lengths = batch.target.offsets.diff().numpy()
    useful = lengths > 0
    shown = np.repeat(useful, history.lengths)
    ages = _ages(history, examples.moments)
    weights = prepared.user_weights
    return Batch(
        user_rows=batch.user_rows[torch.from_numpy(useful)],
        history=Jagged(
            batch.history.values[torch.from_numpy(shown)], _offsets(history.lengths[useful])
        ),
        ages=None if ages is None else torch.from_numpy(ages[shown]),
        attributes=attributes_of(prepared, rows[useful]),
        target=Jagged(batch.target.values, _offsets(lengths[useful]), batch.target.weights),
        user_weights=None if weights is None else torch.from_numpy(weights[rows[useful]]),
        input_weights={
            name: torch.from_numpy(of_input[rows[useful]])
            for name, of_input in prepared.input_weights.items()
        },
        own_target=examples.taken is history,
        times=None if history.times is None else torch.from_numpy(history.times[shown]),
    )


def _weights(taken: Events, target: Jagged) -> npt.NDArray[np.float32]:
    """float32 [P]: the values of the events on each distinct item of a user, added up."""
    assert taken.values is not None
    items, offsets = target.values.numpy(), target.offsets.numpy()
    span = int(max(items.max(initial=0), taken.items.max(initial=0))) + 1
    keys = np.repeat(np.arange(taken.num_users), np.diff(offsets)) * span + items
    wanted = np.repeat(np.arange(taken.num_users), taken.lengths) * span + taken.items
    places = np.searchsorted(keys, wanted).clip(max=max(len(keys) - 1, 0))
    found = keys[places] == wanted if len(keys) else np.zeros(len(wanted), bool)  # seen ones left
    sums = np.bincount(places[found], taken.values[found], minlength=len(keys))
    return sums.astype(np.float32)


def _ages(history: Events, moments: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32] | None:
    """Days from each event to its user's moment of prediction."""
    if moments is None or history.times is None:
        return None
    seconds = np.repeat(moments, history.lengths) - history.times
    ages: npt.NDArray[np.float32] = (seconds.clip(0) / SECONDS_PER_DAY).astype(np.float32)
    return ages


def _jagged(events: Events) -> Jagged:
    return Jagged(torch.from_numpy(events.items.astype(np.int64)), torch.from_numpy(events.offsets))


def _offsets(lengths: npt.NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
