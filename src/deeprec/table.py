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

Rows = slice | Tensor  # a block of rows, or int64 [R] distinct rows
State = dict[str, Tensor]

# Takes the gradient of some rows, float [R, D] ([R] of a table of numbers), and changes them.
RowUpdate = Callable[[Rows, Tensor], None]


class Updates(NamedTuple):
    """Who changes catalog rows as soon as a loss knows their gradient; None: autograd gathers it.

    A loss that uses them returns no gradient for what they change. One that does not use them
    returns its gradients as ever, and the optimizer's step applies those.
    """

    item_weight: RowUpdate | None = None
    item_bias: RowUpdate | None = None
    weight: float = 1.0  # of the loss in the loss of the step, which nobody knows from inside


NO_UPDATES = Updates()


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


class RowwiseAdagrad:
    """Adagrad with one number a row: the sum over steps of the row's mean squared gradient.

    Reference: FBGEMM's `EXACT_ROWWISE_ADAGRAD`, to which it is tested equal.
    """

    def __init__(self, lr: float, eps: float = 1e-8) -> None:
        self.lr, self.eps = lr, eps

    def new_state(self, table: Tensor) -> State:
        return {"sum": table.new_zeros(table.shape[0])}

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        gradient_RD = gradient.view(len(gradient), -1)
        square_R = torch.linalg.vector_norm(gradient_RD, dim=1).square_()
        sum_R = _take(state["sum"], rows) + square_R.div_(gradient_RD.shape[1])
        state["sum"][rows] = sum_R
        step_R = sum_R.sqrt_().add_(self.eps).reciprocal_().mul_(-self.lr)
        change_RD = gradient_RD.mul_(step_R[:, None])
        _add(table, rows, change_RD.view(gradient.shape))

    def finish_step(self, state: State) -> None:
        pass


class LazyAdam:
    """Adam on the rows it is handed; the moments of the others wait (`torch.optim.SparseAdam`).

    Handed every row at every step it is `torch.optim.Adam`.
    """

    def __init__(
        self, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps

    def new_state(self, table: Tensor) -> State:
        return {
            "step": torch.zeros((), device=table.device),  # steps finished
            "exp_avg": torch.zeros_like(table),
            "exp_avg_sq": torch.zeros_like(table),
        }

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        held = table, state["exp_avg"], state["exp_avg_sq"]
        values, means, squares = (_take(each, rows) for each in held)
        adam(
            [values],
            [gradient],
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
        if isinstance(rows, Tensor):
            for each, changed in zip(held, (values, means, squares), strict=True):
                each.index_copy_(0, rows, changed)

    def finish_step(self, state: State) -> None:
        state["step"] += 1


def _take(table: Tensor, rows: Rows) -> Tensor:
    """A view of a block; a copy of rows in a tensor, which indexing would make slowly."""
    return table.index_select(0, rows) if isinstance(rows, Tensor) else table[rows]


def _add(table: Tensor, rows: Rows, change: Tensor) -> None:
    if isinstance(rows, Tensor):
        table.index_add_(0, rows, change)
    else:
        table[rows].add_(change)
