"""The rules of tables against the torch optimizers they stand for."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from deeprec import table as table_module
from deeprec.table import (
    AdaDelta,
    Adagrad,
    LazyAdam,
    Momentum,
    RmsProp,
    Rows,
    RowwiseAdagrad,
    Sgd,
    TableRule,
    update_rows,
)

ROWS, WIDTH, STEPS = 11, 4, 6
RULES: list[tuple[Callable[..., TableRule], Callable[..., torch.optim.Optimizer]]] = [
    (partial(Sgd, 0.1), partial(torch.optim.SGD, lr=0.1)),
    (partial(Adagrad, 0.1, 1e-8), partial(torch.optim.Adagrad, lr=0.1, eps=1e-8)),
    (
        partial(RmsProp, 0.1, 0.9, 1e-8),
        partial(torch.optim.RMSprop, lr=0.1, alpha=0.9, eps=1e-8),
    ),
    (partial(Momentum, 0.1, 0.8), partial(torch.optim.SGD, lr=0.1, momentum=0.8)),
    (
        partial(Momentum, 0.1, 0.8, True),
        partial(torch.optim.SGD, lr=0.1, momentum=0.8, nesterov=True),
    ),
    (
        partial(AdaDelta, 0.1, 0.8, 1e-3),
        partial(torch.optim.Adadelta, lr=0.1, rho=0.8, eps=1e-3),
    ),
    (
        partial(LazyAdam, 0.1, (0.8, 0.95), 1e-8),
        partial(torch.optim.Adam, lr=0.1, betas=(0.8, 0.95), eps=1e-8),
    ),
]
every_rule = pytest.mark.parametrize(("rule", "theirs"), RULES)


def start() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))


def gradient(step: int) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(10 + step))


def by_torch(make: Callable[..., torch.optim.Optimizer], steps: int = STEPS) -> Tensor:
    table = torch.nn.Parameter(start())
    optimizer = make([table])
    for step in range(steps):
        table.grad = gradient(step)
        optimizer.step()
    return table.detach()


@every_rule
@pytest.mark.parametrize("block_rows", [1, 4, ROWS])
def test_block_after_block_is_the_optimizer_of_torch(
    rule: Callable[..., TableRule], theirs: Callable[..., torch.optim.Optimizer], block_rows: int
) -> None:
    made, table = rule(), start()
    state = made.new_state(table)
    for step in range(STEPS):
        for first in range(0, ROWS, block_rows):
            rows = slice(first, min(first + block_rows, ROWS))
            made.update(table, state, rows, gradient(step)[rows])
        made.finish_step(state)
    torch.testing.assert_close(table, by_torch(theirs), atol=1e-6, rtol=0)


@every_rule
def test_rows_in_any_order_are_the_same_rows(
    rule: Callable[..., TableRule], theirs: Callable[..., torch.optim.Optimizer]
) -> None:
    made, table = rule(), start()
    state = made.new_state(table)
    for step in range(STEPS):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(step))
        for rows in order.split(3):
            made.update(table, state, rows, gradient(step)[rows])
        made.finish_step(state)
    torch.testing.assert_close(table, by_torch(theirs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [slice(1, 9), torch.tensor([8, 0, 3, 5, 10, 1, 2])])
@pytest.mark.parametrize("rule", [*(rule for rule, _ in RULES), partial(RowwiseAdagrad, 0.1)])
def test_rows_a_few_at_a_time_end_where_all_at_once_do(
    rule: Callable[..., TableRule], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for cached_floats in (10**6, 3 * WIDTH, 1):
        monkeypatch.setattr(table_module, "CACHED_FLOATS", cached_floats)
        made, table = rule(), start()
        state = made.new_state(table)
        for step in range(STEPS):
            update_rows(made, table, state, rows, gradient(step)[rows])
            made.finish_step(state)
        ends.append(table)
    assert (ends[0] != start()).any(1).sum() == len(start()[rows])
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0])


@pytest.mark.parametrize("rule", [*(rule for rule, _ in RULES), partial(RowwiseAdagrad, 0.1)])
def test_rows_that_are_not_handed_over_stay_as_they_are(rule: Callable[..., TableRule]) -> None:
    """They neither move nor decay, whatever was remembered of them before."""
    made, table = rule(weight_decay=0.5), start()
    state = made.new_state(table)
    made.update(table, state, slice(0, ROWS), gradient(0))
    made.finish_step(state)
    before = table.clone()
    made.update(table, state, torch.tensor([7, 2]), gradient(1)[[7, 2]])
    changed = (table != before).any(1)
    assert changed.nonzero().flatten().tolist() == [2, 7]


def test_adagrad_on_some_rows_equals_the_sparse_gradients_of_torch() -> None:
    made, table = Adagrad(0.1, 1e-8), start()
    theirs = torch.nn.Parameter(start())
    optimizer = torch.optim.Adagrad([theirs], lr=0.1, eps=1e-8)
    state = made.new_state(table)
    for step in range(STEPS):
        rows = torch.randperm(ROWS, generator=torch.Generator().manual_seed(step))[:3]
        of_rows = gradient(step)[rows]
        with torch.sparse.check_sparse_tensor_invariants():
            theirs.grad = torch.sparse_coo_tensor(rows[None], of_rows, theirs.shape)
            optimizer.step()
        made.update(table, state, rows, of_rows.clone())
        made.finish_step(state)
    torch.testing.assert_close(table, theirs.detach(), atol=1e-6, rtol=0)


def test_a_table_of_numbers_is_a_table_of_width_one() -> None:
    for rule, _ in [*RULES, (partial(RowwiseAdagrad, 0.1), None)]:
        made, table, numbers = rule(), start()[:, :1].clone(), start()[:, 0].clone()
        states = made.new_state(table), made.new_state(numbers)
        for step in range(3):
            rows = torch.tensor([4, 0, 9])
            made.update(table, states[0], rows, gradient(step)[rows, :1].clone())
            made.update(numbers, states[1], rows, gradient(step)[rows, 0].clone())
        torch.testing.assert_close(table[:, 0], numbers)


@pytest.mark.parametrize("rows", [slice(2, 4), torch.tensor([3, 2])])
@pytest.mark.parametrize("rule", [*(rule for rule, _ in RULES), partial(RowwiseAdagrad, 0.1)])
def test_a_row_that_changes_decays_first(rule: Callable[..., TableRule], rows: object) -> None:
    """Decoupled: lr * weight_decay of the row is lost, and the step is what it was without."""
    moved = []
    for decay in (0.0, 0.5):
        made, table = rule(weight_decay=decay), start()
        made.update(table, made.new_state(table), rows, gradient(0)[rows])
        moved.append(table[rows] - (1 - 0.1 * decay) * start()[rows])
    torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=0)
    assert moved[0].abs().min() > 0


def test_a_long_gradient_of_a_row_is_shortened_and_a_short_one_is_not() -> None:
    made, table = Sgd(1.0, clip_norm=2.0), torch.zeros(2, 2)
    made.update(table, {}, slice(0, 2), torch.tensor([[30.0, 40.0], [0.3, 0.4]]))
    torch.testing.assert_close(table, -torch.tensor([[1.2, 1.6], [0.3, 0.4]]))


@pytest.mark.parametrize("rule", [*(rule for rule, _ in RULES), partial(RowwiseAdagrad, 0.1)])
def test_no_rows_are_no_update(rule: Callable[..., TableRule]) -> None:
    made, table = rule(clip_norm=1.0), start()
    none = torch.zeros(0, dtype=torch.int64)
    update_rows(made, table, made.new_state(table), none, torch.zeros(0, WIDTH))
    assert torch.equal(table, start())
