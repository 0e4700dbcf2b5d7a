"""Tables of rows, and the rules by which an optimizer changes some of their rows in place.

A rule changes the rows it is handed and no others: those that a batch read, those that a loss drew,
or one block of a table after another. So a step costs what it touched, and a gradient of the
whole table need not exist.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

# a block of rows, or int64 [R] distinct rows; one may stand again if its gradient does
Rows = slice | Tensor
State = dict[str, Tensor]

# Takes the gradient of some rows, float [R, D] ([R] of a table of numbers), and changes them.
RowUpdate = Callable[[Rows, Tensor], None]


class OwnItems(NamedTuple):
    """The items whose rows are here, where other processes make the loss of all the others."""

    items: slice  # of the catalog, with a start and a stop
    gather: Callable[[Tensor], Tensor]  # float [B] of each process -> all of them, [processes, B]


class Updates(NamedTuple):
    """What the trainer asks of a loss; above all, to hand it the gradient of catalog rows.

    Where nobody changes rows as soon as their gradient is known (None), autograd gathers it.

    A loss that uses them returns no gradient for what they change. One that does not use them
    returns its gradients as ever, and the optimizer's step applies those.
    """

    item_weight: RowUpdate | None = None
    item_bias: RowUpdate | None = None
    weight: float = 1.0  # of the loss in the loss of the step, which nobody knows from inside
    slope_norm: float | None = None  # longest slope of one user's loss in its scores; None: any
    own: OwnItems | None = None  # which the rows of the tables are; None: the whole catalog


NO_UPDATES = Updates()
# devices for which no batch is filled up, so that no row stands again; there adding takes a quarter
NONE_AGAIN = {"cpu"}
CACHED_FLOATS = 2**18  # of rows updated at once on a CPU: 1 MiB each of rows, gradient and moments


class TableRule(Protocol):
    """How an optimizer changes rows of one table, in place."""

    lr: float

    def new_state(self, table: Tensor) -> State:
        """What the optimizer remembers of a table, before the first update."""
        ...

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        """Changes these rows of `table` and of `state`; may overwrite the gradient."""
        ...

    def finish_step(self, state: State) -> None:
        """Told once a step, after its updates."""
        ...


class RuleAround:
    """What a rule that stands around another has of it: all but `update`.

    Args:
        rule: what changes rows.
    """

    def __init__(self, rule: TableRule) -> None:
        self.rule = rule

    @property
    def lr(self) -> float:
        return self.rule.lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self.rule.lr = lr

    def new_state(self, table: Tensor) -> State:
        return self.rule.new_state(table)

    def finish_step(self, state: State) -> None:
        self.rule.finish_step(state)


def update_rows(rule: TableRule, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
    """Changes rows by a rule; on a CPU a few at a time, so that what it works on stays in cache.

    Nine thousand rows of 600 floats at once take Adam three times as long: each of its copies is
    new memory, which the system clears first.

    Args:
        rule: of the table.
        table: float [V, D] or [V].
        state: of the table, by this rule.
        rows: as of a rule; on a CPU distinct.
        gradient: float [R, D] or [R] of these rows; may be overwritten.
    """
    if len(gradient) == 0:
        return
    width = gradient[:1].numel()
    count = max(1, CACHED_FLOATS // max(width, 1))
    if gradient.device.type != "cpu" or len(gradient) <= count:
        rule.update(table, state, rows, gradient)
        return
    for start in range(0, len(gradient), count):
        here = slice(start, min(start + count, len(gradient)))
        some = rows[here] if isinstance(rows, Tensor) else _part_of(rows, here)
        rule.update(table, state, some, gradient[here])


def _part_of(block: slice, part: slice) -> slice:
    """Counted from the start of the table, a part that is counted from the start of the block."""
    return slice(block.start + part.start, block.start + part.stop)


class RowRule:
    """What rules have in common: rows first lose a share of their value, then move.

    Args:
        lr: learning rate.
        weight_decay: as of `Sgd`.
        clip_norm: as of `Sgd`.
    """

    def __init__(self, lr: float, weight_decay: float, clip_norm: float | None) -> None:
        self.lr, self.weight_decay, self.clip_norm = lr, weight_decay, clip_norm

    def new_state(self, table: Tensor) -> State:
        return {}

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        change = self.change(state, rows, _clipped(gradient, self.clip_norm))
        if self.weight_decay:
            _decay(table, rows, self.lr * self.weight_decay)
        _add(table, rows, change)

    def change(self, state: State, rows: Rows, gradient: Tensor) -> Tensor:
        """What is added to the rows; changes their state, and may overwrite the gradient."""
        raise NotImplementedError

    def finish_step(self, state: State) -> None:
        pass


class Sgd(RowRule):
    """Plain gradient descent.

    Args:
        lr: learning rate.
        weight_decay: share of its value, times lr, that a row loses whenever it changes.
        clip_norm: a row's gradient is no longer than this; None: as long as it is.
    """

    def __init__(
        self, lr: float, *, weight_decay: float = 0.0, clip_norm: float | None = None
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm)

    def change(self, state: State, rows: Rows, gradient: Tensor) -> Tensor:
        return gradient.mul_(-self.lr)


class Adagrad(RowRule):
    """Adagrad on the rows it is handed: `torch.optim.Adagrad` for sparse gradients.

    Args:
        lr: learning rate.
        eps: added to the root of the summed squares.
        weight_decay: as of `Sgd`.
        clip_norm: as of `Sgd`.
    """

    def __init__(
        self,
        lr: float,
        eps: float = 1e-8,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm)
        self.eps = eps

    def new_state(self, table: Tensor) -> State:
        return {"sum": torch.zeros_like(table)}

    def change(self, state: State, rows: Rows, gradient: Tensor) -> Tensor:
        sums = _take(state["sum"], rows).addcmul_(gradient, gradient)
        _put(state["sum"], rows, sums)
        return gradient.div_(sums.sqrt().add_(self.eps)).mul_(-self.lr)


class RowwiseAdagrad(RowRule):
    """Adagrad with one number a row: the sum over steps of the row's mean squared gradient.

    Args:
        lr: learning rate.
        eps: added to the root of the sum.
        weight_decay: as of `Sgd`.
        clip_norm: as of `Sgd`.

    Reference: FBGEMM's `EXACT_ROWWISE_ADAGRAD`, to which it is tested equal.
    """

    def __init__(
        self,
        lr: float,
        eps: float = 1e-8,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm)
        self.eps = eps

    def new_state(self, table: Tensor) -> State:
        return {"sum": table.new_zeros(table.shape[0])}

    def change(self, state: State, rows: Rows, gradient: Tensor) -> Tensor:
        gradient_RD = gradient.view(len(gradient), -1)
        square_R = torch.linalg.vector_norm(gradient_RD, dim=1).square_()
        sum_R = _take(state["sum"], rows) + square_R.div_(gradient_RD.shape[1])
        _put(state["sum"], rows, sum_R)
        step_R = sum_R.sqrt_().add_(self.eps).reciprocal_().mul_(-self.lr)
        return gradient_RD.mul_(step_R[:, None]).view(gradient.shape)


class RmsProp(RowRule):
    """`torch.optim.RMSprop` on the rows it is handed; the squares of the others wait.

    Args:
        lr: learning rate.
        smoothing: share of the mean squared gradient that stays at an update, in [0, 1).
        eps: added to the root of the mean.
        weight_decay: as of `Sgd`.
        clip_norm: as of `Sgd`.
    """

    def __init__(
        self,
        lr: float,
        smoothing: float = 0.99,
        eps: float = 1e-8,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm)
        self.smoothing, self.eps = smoothing, eps

    def new_state(self, table: Tensor) -> State:
        return {"square_avg": torch.zeros_like(table)}

    def change(self, state: State, rows: Rows, gradient: Tensor) -> Tensor:
        squares = _take(state["square_avg"], rows).mul_(self.smoothing)
        squares.addcmul_(gradient, gradient, value=1.0 - self.smoothing)
        _put(state["square_avg"], rows, squares)
        return gradient.div_(squares.sqrt().add_(self.eps)).mul_(-self.lr)


class Momentum(RowRule):
    """`torch.optim.SGD` with momentum on the rows it is handed; the velocities of others wait.

    Args:
        lr: learning rate.
        momentum: share of the velocity that stays at an update, in [0, 1).
        nesterov: move by the velocity as the next update would leave it.
        weight_decay: as of `Sgd`.
        clip_norm: as of `Sgd`.
    """

    def __init__(
        self,
        lr: float,
        momentum: float = 0.9,
        nesterov: bool = False,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm)
        self.momentum, self.nesterov = momentum, nesterov

    def new_state(self, table: Tensor) -> State:
        return {"momentum_buffer": torch.zeros_like(table)}

    def change(self, state: State, rows: Rows, gradient: Tensor) -> Tensor:
        velocity = _take(state["momentum_buffer"], rows).mul_(self.momentum).add_(gradient)
        _put(state["momentum_buffer"], rows, velocity)
        step = gradient.add_(velocity, alpha=self.momentum) if self.nesterov else velocity
        return step * -self.lr


class AdaDelta(RowRule):
    """`torch.optim.Adadelta` on the rows it is handed; the means of the others wait.

    Args:
        lr: what a step is multiplied with.
        smoothing: share of the mean squares of gradients and of steps that stays, in [0, 1).
        eps: added to both.
        weight_decay: as of `Sgd`.
        clip_norm: as of `Sgd`.
    """

    def __init__(
        self,
        lr: float = 1.0,
        smoothing: float = 0.9,
        eps: float = 1e-6,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm)
        self.smoothing, self.eps = smoothing, eps

    def new_state(self, table: Tensor) -> State:
        return {"square_avg": torch.zeros_like(table), "acc_delta": torch.zeros_like(table)}

    def change(self, state: State, rows: Rows, gradient: Tensor) -> Tensor:
        rest = 1.0 - self.smoothing
        squares = _take(state["square_avg"], rows).mul_(self.smoothing)
        squares.addcmul_(gradient, gradient, value=rest)
        steps = _take(state["acc_delta"], rows)
        step = gradient * (steps + self.eps).sqrt_().div_((squares + self.eps).sqrt_())
        steps.mul_(self.smoothing).addcmul_(step, step, value=rest)
        _put(state["square_avg"], rows, squares)
        _put(state["acc_delta"], rows, steps)
        return step.mul_(-self.lr)


class LazyAdam:
    """Adam on the rows it is handed; the moments of the others wait (`torch.optim.SparseAdam`).

    Handed every row at every step it is `torch.optim.Adam`.

    Args:
        lr: learning rate.
        betas: shares of the mean and of the mean square that stay at an update.
        eps: added to the root of the mean square, as in `torch.optim.Adam`.
        weight_decay: as of `Sgd`.
        clip_norm: as of `Sgd`.
    """

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.clip_norm = weight_decay, clip_norm

    def new_state(self, table: Tensor) -> State:
        return {
            "step": torch.zeros((), device=table.device),  # steps finished
            "exp_avg": torch.zeros_like(table),
            "exp_avg_sq": torch.zeros_like(table),
        }

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        held = table, state["exp_avg"], state["exp_avg_sq"]
        if self.weight_decay:
            _decay(table, rows, self.lr * self.weight_decay)
        values, means, squares = (_take(each, rows) for each in held)
        adam(
            [values],
            [_clipped(gradient, self.clip_norm)],
            [means],
            [squares],
            [],
            [state["step"].clone()],  # torch counts this step in it
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.lr,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )
        for each, changed in zip(held, (values, means, squares), strict=True):
            _put(each, rows, changed)

    def finish_step(self, state: State) -> None:
        state["step"] += 1


def _take(table: Tensor, rows: Rows) -> Tensor:
    """A view of a block; a copy of rows in a tensor, which indexing would make slowly."""
    return table.index_select(0, rows) if isinstance(rows, Tensor) else table[rows]


def _put(table: Tensor, rows: Rows, values: Tensor) -> None:
    """Writes back what `_take` gave, if that was a copy, or other values of a block."""
    if isinstance(rows, Tensor):
        table.index_copy_(0, rows, values)
    elif table[rows].data_ptr() != values.data_ptr():
        table[rows] = values


def _add(table: Tensor, rows: Rows, change: Tensor) -> None:
    if not isinstance(rows, Tensor):
        table[rows].add_(change)
    elif table.device.type in NONE_AGAIN:
        table.index_add_(0, rows, change)
    else:  # what stands again would be added again
        _put(table, rows, _take(table, rows).add_(change))


def _decay(table: Tensor, rows: Rows, share: float) -> None:
    _put(table, rows, _take(table, rows).mul_(1.0 - share))


def _clipped(gradient: Tensor, norm: float | None) -> Tensor:
    """The gradient, each row no longer than `norm`; changes it in place."""
    if norm is None:
        return gradient
    rows_RD = gradient.view(len(gradient), -1)
    lengths_R = torch.linalg.vector_norm(rows_RD, dim=1).clamp_(min=norm)
    rows_RD.mul_(norm / lengths_R[:, None])
    return gradient
