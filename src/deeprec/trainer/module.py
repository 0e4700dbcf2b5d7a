"""What Lightning trains: a model, a loss and the model's optimizers, one step at a time."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from deeprec.batch import (
    Arranged,
    Asked,
    Batch,
    Encoded,
    Jagged,
    Penalty,
    Task,
    transposed,
)
from deeprec.data.packed import Packed
from deeprec.data.padding import Padding
from deeprec.device import seed_all
from deeprec.errors import NonFiniteError
from deeprec.loss.asked import Target, check
from deeprec.loss.negatives import Negatives
from deeprec.model.base import Trainable
from deeprec.table import RowUpdate, Updates
from deeprec.trainer.asked_of_all import told
from deeprec.trainer.brake import Brake, Braking
from deeprec.trainer.built import (
    begin_again,
    begin_state,
    leave_out,
    row_updates,
    set_rates,
    state_names,
    state_of_rows,
    state_tensors,
)
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.exchanged import exchanging
from deeprec.trainer.kinds import kinds_of
from deeprec.trainer.learner import Progress
from deeprec.trainer.optimizer import Optimizer
from deeprec.trainer.shards import Shards
from deeprec.trainer.sound import LOWER, norm

CHECK_STEPS = 50  # on CUDA a look at the loss waits for the device, so it is not taken at each step


class Loss(Protocol):
    """The contract of a config part in the group `loss`.

    A loss that does not score every item has `negatives`, which draw those it does. One whose
    scores should be the targets themselves, and not their log odds, says `log_odds = False`, and
    one for which a target's weight does not multiply its cost `weighs_targets = False`. One that
    goes over the whole catalog by the engine says `on_engine = True`; processes that share the
    catalog have the engine go over their own items, and add up what it finds. One that may be asked
    targets that only fill up a batch (`Blocks.counted`) says `fills_targets = True`. One that
    takes some values of targets alone has `check_values`, which targets go through where a batch is
    arranged. One that passes over users without targets, so that it is a mean over the others, says
    `passes_over_users = True`.
    """

    def __call__(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates,
    ) -> Tensor:
        """float32 []: mean over users, over the whole catalog.

        Rows of the catalog table and bias may be changed by `updates` instead of through backward.
        """
        ...


class Share(NamedTuple):
    """Of what the losses of a step are means over, in all processes, the part of this one."""

    rows: float  # of users, or positions of them: of a penalty
    tasks: list[float]  # of these, or of those alone that have targets: of each task


class Training(LightningModule):
    """One optimizer step per batch.

    Random draws of a step depend on (seed, step) alone, and those of `arrange` on seed, epoch and
    place of the batch, so that a resumed run draws the same.
    Optimizing is manual: catalog rows change inside the loss and input tables inside backward, so
    that gradients cannot be accumulated or clipped behind the model's back.

    Args:
        model: a recommender.
        loss: of one task.
        optimizer: builds the optimizers of the model, and schedules them.
        seed: of dropout.
        total_steps: steps of the whole run, for the learning rates.
        progress: where training begins; steps advance it.
        weighting: gives targets weights, on the host; None: all weigh alike.
        weighs_users: whether the loss of a user counts what its batch says.
        as_dsstne: forget velocities and means at every epoch and begin Adam at its second step.
        rate: what the learning rates of a step are multiplied with besides; None: nothing.
        brake: on losses that leap; None: none.
        group: the processes that train it together; None: this one does.
        shards: what they share out; None: each has all of it.

    `padding` fills batches up where they are arranged, and `graph` takes the steps of those that
    are filled up; both are given afterwards, for they depend on the batches.
    """

    def __init__(
        self,
        model: Trainable,
        loss: Loss,
        optimizer: Optimizer,
        *,
        seed: int,
        total_steps: int,
        progress: Progress,
        weighting: Callable[[Jagged], Jagged] | None = None,
        weighs_users: bool = False,
        as_dsstne: bool = False,
        rate: Callable[[int], float] | None = None,
        brake: Brake | None = None,
        group: Group | None = None,
        shards: Shards | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        assert isinstance(model, nn.Module)
        self.model: nn.Module = model
        self.loss = loss
        self.optimizer, self.seed, self.total_steps = optimizer, seed, total_steps
        self.progress, self.weighting, self.weighs_users = progress, weighting, weighs_users
        self._num_items = len(self.recommender.item_bias)  # of which steps may hold a part
        self.rate, self.brake, self.as_dsstne = rate, brake, as_dsstne
        self.group, self.shards, self.step_users = group, shards, 0
        self.padding: Padding | None = None
        self.graph: Callable[[Packed], Tensor | None] | None = None
        with exchanging(group, shards):
            self.built: list[torch.optim.Optimizer] = optimizer.build(model)
        kinds = kinds_of(model)
        self._layers = kinds.layers
        begin_state(self.built)
        # nothing may change before the brake knows the loss
        self._row_updates = row_updates(self.built, at_step=brake is not None)
        if shards is not None and shards.catalog is not None:
            shards.catalog.tables = kinds.scored
            shards.catalog.state = state_of_rows(self.built, kinds.scored)
        if shards is not None and shards.inputs is not None:
            shards.inputs.names = state_names(self.built)
        # over the users of this epoch; not finite once any was not; a tensor, because a look at it
        # waits for the device; float64, so that users are not lost in the sum of millions
        self.loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64)

    @property
    def recommender(self) -> Trainable:
        return cast(Trainable, self.model)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return self.built

    def arrange(self, batch: Batch, draw: torch.Generator) -> Arranged:
        """What a step reads of the batch, made on the host; see `Recommender.arrange`.

        Raises:
            ValueError: a target or an own item is not in the catalog, or stands twice at a user.
            DataError: a target has a value that the loss cannot take.
        """
        arranged = self.recommender.arrange(batch, draw)
        negatives: Negatives | None = getattr(self.loss, "negatives", None)
        check_values: Callable[[Jagged], None] | None = getattr(self.loss, "check_values", None)
        for asked in arranged.asked:
            check(asked, self._num_items)
            if self.weighting is not None:
                asked.target = self.weighting(asked.target)
            if check_values is not None:
                check_values(asked.target)
            if self.weighs_users:
                asked.user_weights = batch.user_weights
            if negatives is not None:
                asked.sample = negatives.sample(asked, draw)
        if self.shards is not None and self.shards.catalog is not None:
            arranged.told = told(arranged.asked).numpy()
        return arranged if self.padding is None else self.padding(arranged)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """See Lightning; what is packed goes there in the step, to where a graph reads it."""
        if isinstance(batch, Packed):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_step(self, batch: Arranged | Packed, batch_index: int) -> None:
        progress, group = self.progress, self.group
        if isinstance(batch, Packed):
            if self._taken_at_once(batch):
                return
            batch = batch.over(batch.memory.to(self.device, non_blocking=True))
            assert isinstance(batch, Arranged)
        users, share = self._meet(batch)
        if self.as_dsstne and progress.batch == 0:
            begin_again(self.built, step=1)
        self.step_users = users
        if users > 0:  # everybody of it may lack a history or a target
            rate = self._rate(progress.step)
            set_rates(self.built, rate)
            loss = self.loss_of(batch, share)
            whole = loss if group is None else group.add(loss.detach().clone())
            self.count_loss(whole, users)
            held = 1.0
            if self.brake is not None:
                held, progress.braking = self.brake.held(whole, progress.braking, progress.batch)
                set_rates(self.built, rate * held)
            if held:
                self._step(loss, whole)
            else:
                leave_out(self.built)
        progress.step += 1
        progress.batch += 1

    def take(self, batch: Arranged) -> Tensor:
        """A step that nobody looks at, of this process alone; the draws go on where they are.

        Returns:
            float32 []: its loss.
        """
        loss = self._loss_of(self.recommender.tasks(batch))
        self._find_gradients(loss)
        for optimizer in self.built:
            optimizer.step()
        return loss.detach()

    def _taken_at_once(self, batch: Packed) -> bool:
        """Takes the step as a graph, if there is one of it and nobody looks at this step."""
        progress, told = self.progress, batch.told
        if self.graph is None or not told.padded or progress.step % CHECK_STEPS == 0:
            return False
        if self.as_dsstne and progress.batch == 0:
            return False
        set_rates(self.built, self._rate(progress.step))
        seed_all(_step_seed(self.seed, progress.step, 0), self.device)
        loss = self.graph(batch)
        if loss is None:
            return False
        self.step_users = told.num_users
        self.count_loss(loss, told.num_users)
        progress.step += 1
        progress.batch += 1
        return True

    def _meet(self, batch: Arranged) -> tuple[int, Share | None]:
        """Users of all processes in the step, and the share of this one; None: it has all."""
        if self.group is None:
            return batch.num_users, None
        mine = [_rows_of(batch), *(self._mean_over(one) for one in batch.asked)]
        if self.shards is None:
            users, *whole = self.group.totals(batch.num_users, *mine)
        else:
            asked = np.zeros(0, np.int64) if batch.told is None else batch.told
            users, whole = self.shards.meet(batch.num_users, mine, torch.from_numpy(asked))
        rows, *tasks = (one / max(all_of, 1) for one, all_of in zip(mine, whole, strict=True))
        return users, Share(rows, tasks)

    def _mean_over(self, asked: Asked) -> int:
        """Over how many the loss of a task is a mean."""
        if not getattr(self.loss, "passes_over_users", False):
            return len(asked.target.offsets) - 1
        with_targets = transposed(asked.target).num_users
        assert isinstance(with_targets, int), "batches of several processes are not filled up"
        return with_targets

    def make_whole(self) -> None:
        """See `Learner`."""
        if self.shards is not None:
            self.shards.make_whole()

    def let_go(self) -> None:
        """Has here, after `make_whole`, what a step needs and no more."""
        if self.shards is not None:
            self.shards.let_go()

    def whole_state(self) -> dict[str, Tensor]:
        """See `Learner`."""
        if self.shards is None:
            return self.kept_state()
        return self.kept_state() | self.shards.whole_state()

    def state_to_read(self) -> dict[str, Tensor]:
        """See `Learner`."""
        if self.shards is None:
            return self.kept_state()
        return self.kept_state() | self.shards.to_read()

    def state_bytes(self) -> int:
        """See `Learner`."""
        shared_out = 0 if self.shards is None else self.shards.state_bytes
        return shared_out + sum(one.nbytes for one in self.kept_state().values())

    def kept_state(self) -> dict[str, Tensor]:
        """What the optimizers remember that is the same in every process."""
        catalog = None if self.shards is None else self.shards.catalog
        of_rows = {} if catalog is None else catalog.state
        state = state_tensors(self.built)
        return {name: one for name, one in state.items() if name not in of_rows}

    def shared(self) -> list[Tensor]:
        """What is the same in every process: weights, and what optimizers remember of them."""
        apart = set() if self.shards is None else {id(table) for table in self.shards.tables}
        names = {name for name, one in self.model.named_parameters() if id(one) in apart}
        weights = self.model.state_dict()
        return [
            *(one for name, one in weights.items() if name not in names),
            *self.kept_state().values(),
        ]

    def _rate(self, step: int) -> float:
        own = self.optimizer.rate(step, self.total_steps)
        return own if self.rate is None else own * self.rate(step)

    def loss_of(self, batch: Arranged, share: Share | None = None) -> Tensor:
        """What the step at hand makes smaller; the same whenever it is asked for.

        Args:
            batch: of this process.
            share: of the step, that of this process; None: it has all.
        """
        begin_step: Callable[[int], None] | None = getattr(self.model, "begin_step", None)
        if begin_step is not None:  # in every process, whoever has users
            begin_step(self.progress.step)
        has_users = share is None or share.rows > 0
        if not (has_users if self.shards is None else self.shards.is_asked):
            return torch.zeros((), device=self.device)
        rank = 0 if self.group is None else self.group.rank
        seed_all(_step_seed(self.seed, self.progress.step, rank), self.device)
        batch.step = self.progress.step
        asked = self.recommender.tasks(batch)
        shares = asked if share is None else _shared(asked, share) if has_users else []
        if self.shards is None:
            return self._loss_of(shares)
        return self._loss_among(self.shards, asked, shares)

    def check_finite(self) -> None:
        """Refuses to go on after a loss that is not finite.

        Raises:
            NonFiniteError: naming the steps between which it happened.
        """
        if not torch.isfinite(self.loss_sum):
            last = self.progress.step
            raise NonFiniteError(
                f"the loss became {self.loss_sum.item()} at or before step {last} (epoch "
                f"{self.progress.epoch + 1}); nothing of it is saved. {LOWER}"
            )

    def count_loss(self, loss: Tensor, num_users: int) -> None:
        """Takes the loss of a batch into the mean over users."""
        self.loss_sum = self.loss_sum.to(loss.device).add(loss.detach(), alpha=num_users)
        self.progress.loss_users += num_users

    def mean_loss(self) -> float:
        """Over the users since the last call: a batch weighs as many as it has."""
        mean = self.last_loss()
        self.loss_sum, self.progress.loss_users = torch.zeros_like(self.loss_sum), 0
        return mean

    def told_progress(self) -> Progress:
        """The progress with the loss so far in it; on CUDA this waits for the device."""
        self.progress.loss_sum = self.loss_sum.item()
        return self.progress

    def go_on_from(self, told: Mapping[str, Any]) -> None:
        """Takes over the progress that another life of the run told."""
        for name, value in told.items():
            setattr(self.progress, name, Braking(**value) if name == "braking" else value)
        self.loss_sum = torch.tensor(
            self.progress.loss_sum, dtype=torch.float64, device=self.device
        )

    def last_loss(self) -> float:
        """The mean so far of this epoch; on CUDA this waits for the device."""
        return self.loss_sum.item() / max(self.progress.loss_users, 1)

    def _loss_of(self, asked: Sequence[Task | Penalty]) -> Tensor:
        tasks = [one for one in asked if isinstance(one, Task)]
        losses = [
            (task.weight, self.loss(*task[1:], self._updates_for(task, tasks))) for task in tasks
        ]
        losses += [(one.weight, one.value) for one in asked if isinstance(one, Penalty)]
        weighed = [value if weight == 1.0 else weight * value for weight, value in losses]
        return sum(weighed[1:], weighed[0])

    def _loss_among(
        self, shards: Shards, asked: Sequence[Task | Penalty], shares: Sequence[Task | Penalty]
    ) -> Tensor:
        """The loss where things are shared out: every process goes forward and backward.

        Args:
            shards: what is.
            asked: of the model, about the users of this process.
            shares: the same, weighed by their share of those of all; empty if that is none.
        """
        tasks = [one for one in asked if isinstance(one, Task)]
        if shards.catalog is not None:
            penalties = [one for one in shares if isinstance(one, Penalty)]
            return self._loss_of([*shards.catalog.of_all(tasks), *penalties])
        assert shards.inputs is not None
        through = shards.inputs.through(tasks)
        return through + self._loss_of(shares) if shares else through

    def _updates_for(self, task: Task, tasks: list[Task]) -> Updates:
        """Who changes the rows that this task trains, where no other task reads them afterwards."""

        def update(table: Tensor, tables: list[Tensor]) -> RowUpdate | None:
            readers = [other for other in tables if other.data_ptr() == table.data_ptr()]
            alone = sum(other.requires_grad for other in readers) == 1
            return self._row_updates.get(table) if alone and readers[-1] is table else None

        catalog = None if self.shards is None else self.shards.catalog
        return Updates(
            update(task.item_weight_VD, [each.item_weight_VD for each in tasks]),
            update(task.item_bias_V, [each.item_bias_V for each in tasks]),
            task.weight,
            self.optimizer.constraints.score_slope_norm,
            None if catalog is None else catalog.own,
        )

    def _step(self, loss: Tensor, whole: Tensor) -> None:
        """Takes the step; `whole` is the loss over all processes, of which `loss` is a part."""
        if loss.device.type == "cpu" or self.progress.step % CHECK_STEPS == 0:
            self._look_at(whole)
        self._find_gradients(loss)
        if self.group is not None:
            self.group.add_gradients(self._layers)
        if self.progress.step % CHECK_STEPS == 0:
            self.progress.gradient_norm = self._gradient_norm()
        for optimizer in self.built:
            optimizer.step()

    def _find_gradients(self, loss: Tensor) -> None:
        for optimizer in self.built:
            optimizer.zero_grad()
        if loss.requires_grad:  # else nobody of this process has anything to learn
            self.manual_backward(loss)

    def _look_at(self, loss: Tensor) -> None:
        self.check_finite()
        if self.progress.first_loss is None and self.progress.step < CHECK_STEPS:
            self.progress.first_loss = loss.item()

    def _gradient_norm(self) -> float:
        """Of dense and sparse gradients; rows that a loss hands to the optimizer have none left.

        Raises:
            NonFiniteError: it is not finite.
        """
        given = [one.grad for one in self.model.parameters() if one.grad is not None]
        found = norm(_values_once(one) if one.is_sparse else one for one in given)
        if not math.isfinite(found):
            raise NonFiniteError(
                f"the norm of the gradient became {found} at step {self.progress.step} (epoch "
                f"{self.progress.epoch + 1}); nothing of it is saved. {LOWER}"
            )
        return found


def _shared(asked: Sequence[Task | Penalty], share: Share) -> list[Task | Penalty]:
    """The same, weighed by what of their means this process has."""
    of_tasks = iter(share.tasks)
    shares = [next(of_tasks) if isinstance(one, Task) else share.rows for one in asked]
    return [one._replace(weight=one.weight * of) for one, of in zip(asked, shares, strict=True)]


def _values_once(sparse: Tensor) -> Tensor:
    """Of a sparse gradient; a row that stands again in a padded batch counts once."""
    rows = sparse._indices()[0]
    if bool((rows.diff() < 0).any()):
        return sparse.coalesce().values()
    return sparse._values()[torch.cat([rows[:1] == rows[:1], rows.diff() != 0])]


def _rows_of(batch: Arranged) -> int:
    """Over how many its loss is a mean: users, or positions of them."""
    return len(batch.asked[0].target.offsets) - 1 if batch.asked else batch.num_users


def _step_seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step + (rank << 40)) % 2**63
