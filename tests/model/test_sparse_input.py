"""Tables updated in backward equal the same tables under an ordinary dense optimizer."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deeprec.batch import Jagged
from deeprec.errors import ConfigError
from deeprec.model.sparse_input import SparseInput
from deeprec.table import Adagrad, LazyAdam, RowwiseAdagrad, Sgd, TableRule

FIELDS = {"history": 50, "age": 5}
WIDTH = 8


def draw_rows(num_users: int, num_rows: int, draw: torch.Generator, *, weighted: bool) -> Jagged:
    lengths = torch.randint(0, 6, (num_users,), generator=draw)
    total = int(lengths.sum())
    return Jagged(
        torch.randint(0, num_rows, (total,), generator=draw),
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        torch.rand(total, generator=draw) if weighted else None,
    )


def batches(count: int) -> list[tuple[dict[str, Jagged], Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (
            {
                "history": draw_rows(7, FIELDS["history"], draw, weighted=True),
                "age": draw_rows(7, FIELDS["age"], draw, weighted=False),
            },
            torch.randn(7, WIDTH, generator=draw),
        )
        for _ in range(count)
    ]


def new_input(backend: str) -> SparseInput:
    torch.manual_seed(0)
    return SparseInput(FIELDS, WIDTH, backend=backend)  # type: ignore[arg-type]


def multi_hot(rows: Jagged, num_rows: int) -> Tensor:
    """float64 [B, rows]: the dense input that a sparse field stands for."""
    dense = torch.zeros(len(rows.offsets) - 1, num_rows, dtype=torch.float64)
    for user in range(len(dense)):
        for n in range(int(rows.offsets[user]), int(rows.offsets[user + 1])):
            dense[user, rows.values[n]] += 1.0 if rows.weights is None else rows.weights[n]
    return dense


def train(tables: SparseInput, rule: TableRule, steps: int) -> SparseInput:
    tables.fuse(rule)
    for step, (fields, wanted) in enumerate(batches(steps)):
        if step == steps // 2:
            tables.set_learning_rate(0.03)
        ((tables(fields) - wanted) ** 2).sum().backward()
        tables.finish_step()
    return tables


def reference(update: Callable[[dict[str, Tensor], dict[str, Tensor], float], None]) -> SparseInput:
    """The same training with dense multi-hot inputs in float64 and `update`."""
    tables = new_input("torch")
    weights = {name: t.detach().double().requires_grad_() for name, t in tables.tables.items()}
    for step, (fields, wanted) in enumerate(batches(10)):
        hidden = sum(multi_hot(fields[n], FIELDS[n]) @ weights[n] for n in FIELDS)
        loss = ((hidden - wanted) ** 2).sum()
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values()))))
        with torch.no_grad():
            update(weights, gradients, 0.1 if step < 5 else 0.03)
    for name, weight in weights.items():
        tables.tables[name].data = weight.detach().float()
    return tables


def test_the_sum_over_fields_equals_a_dense_product() -> None:
    tables = new_input("torch")
    fields, _ = batches(1)[0]
    truth = sum(multi_hot(fields[n], FIELDS[n]) @ tables.tables[n].double() for n in FIELDS)
    torch.testing.assert_close(tables(fields), truth.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["torch", "torchrec"])
def test_rowwise_adagrad_in_backward_equals_dense_updates(backend: str) -> None:
    if backend == "torchrec":
        pytest.importorskip("torchrec")
    sums = {name: torch.zeros(rows, dtype=torch.float64) for name, rows in FIELDS.items()}

    def update(tables: dict[str, Tensor], gradients: dict[str, Tensor], lr: float) -> None:
        for name, gradient in gradients.items():
            sums[name] += gradient.square().mean(1)
            tables[name] -= lr * gradient / (sums[name].sqrt()[:, None] + 1e-8)

    truth = reference(update)
    tables = train(new_input(backend), RowwiseAdagrad(lr=0.1), 10)
    assert tables.backend_in_use == backend
    for name in FIELDS:
        torch.testing.assert_close(tables.tables[name], truth.tables[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(
            tables.optimizer_state[name]["sum"], sums[name].float(), atol=1e-5, rtol=1e-6
        )


@pytest.mark.parametrize("rule", [Sgd, Adagrad, RowwiseAdagrad])
def test_torchrec_and_plain_torch_train_alike(rule: type[Adagrad]) -> None:
    pytest.importorskip("torchrec")
    plain, fused = (train(new_input(name), rule(0.1), 10) for name in ("torch", "torchrec"))
    assert fused.backend_in_use == "torchrec"
    for name in FIELDS:
        torch.testing.assert_close(plain.tables[name], fused.tables[name], atol=1e-6, rtol=1e-6)
        for key, value in plain.optimizer_state[name].items():
            of_fused = fused.optimizer_state[name][key].view_as(value)
            torch.testing.assert_close(value, of_fused, atol=1e-6, rtol=1e-6)


ODD: list[list[list[tuple[int, float]]]] = [  # field, user, (row, weight)
    [[(0, 1.0), (3, 2.0), (0, 0.5)], [], [(2, 0.0), (1, 0.0)], [(4, 3.0)]],
    [[(3, 1.0)], [(0, 1.0), (1, 1.0), (1, 1.0)], [(2, 4.0)], []],
    [[(1, 1.0)], [(0, 1.0)], [], [(1, 1.0), (1, 1.0), (0, 1.0)]],
]
NAMES = ("history", "wishlist", "age")  # the wishlist reads the table of the history


def odd_fields(*, weighted: bool) -> dict[str, Jagged]:
    """Repeats, empty users, a row in two fields of one table, weights that sum to 0."""
    fields = {}
    for name, users in zip(NAMES, ODD, strict=True):
        pairs = [pair for user in users for pair in user]
        offsets = torch.tensor([0, *(len(user) for user in users)]).cumsum(0)
        weights = torch.tensor([weight for _, weight in pairs]) if weighted else None
        fields[name] = Jagged(torch.tensor([row for row, _ in pairs]), offsets, weights)
    return fields


def written_out(tables: dict[str, Tensor], pooling: dict[str, str], *, weighted: bool) -> Tensor:
    """float64 [4, D], differentiable: the sum over fields of pooled rows, row by row."""
    users = []
    for user in range(4):
        total = torch.zeros(WIDTH, dtype=torch.float64)
        for name, of_users in zip(NAMES, ODD, strict=True):
            table = tables["history" if name == "wishlist" else name]
            pairs = [(row, weight if weighted else 1.0) for row, weight in of_users[user]]
            bag = sum((weight * table[row] for row, weight in pairs), torch.zeros(WIDTH))
            scale = sum(weight for _, weight in pairs) if pooling[name] == "mean" else 1.0
            total = total + bag / (scale or 1.0)
        users.append(total)
    return torch.stack(users)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("pooling", [("sum", "sum"), ("mean", "sum"), ("mean", "mean")])
@pytest.mark.parametrize("rule", [Sgd, Adagrad, RowwiseAdagrad])
@pytest.mark.parametrize("backend", ["torch", "torchrec"])
def test_pooled_and_shared_fields_are_what_is_written_out(
    backend: str, rule: type[Adagrad], pooling: tuple[str, str], weighted: bool
) -> None:
    if backend == "torchrec":
        pytest.importorskip("torchrec")
    how = dict(zip(NAMES, (*pooling, "mean"), strict=True))
    torch.manual_seed(0)
    tables = SparseInput(
        {"history": 5, "age": 2},
        WIDTH,
        shared={"wishlist": "history"},
        pooling=how,  # type: ignore[arg-type]
        backend=backend,  # type: ignore[arg-type]
    )
    truth = {n: t.detach().double().requires_grad_() for n, t in tables.tables.items()}
    squares = {name: torch.zeros_like(table) for name, table in truth.items()}
    fields = odd_fields(weighted=weighted)
    torch.testing.assert_close(
        tables(fields).double(), written_out(truth, how, weighted=weighted), atol=1e-6, rtol=0
    )
    tables.fuse(rule(0.02))
    for step in range(4):
        wanted = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(step))
        hidden = tables(fields)
        expected = written_out(truth, how, weighted=weighted)
        torch.testing.assert_close(hidden.double(), expected, atol=1e-6, rtol=0)
        ((hidden - wanted) ** 2).sum().backward()
        tables.finish_step()
        gradients = torch.autograd.grad(((expected - wanted) ** 2).sum(), [*truth.values()])
        for (name, table), gradient in zip(truth.items(), gradients, strict=True):
            square = gradient.square()
            squares[name] += square.mean(1, keepdim=True) if rule is RowwiseAdagrad else square
            scale = 1.0 if rule is Sgd else squares[name].sqrt() + 1e-8
            table.data -= 0.02 * gradient / scale
    for name, table in truth.items():
        torch.testing.assert_close(tables.tables[name].double(), table, atol=1e-6, rtol=0)
        for held in tables.optimizer_state[name].values():
            kept = squares[name][:, 0] if rule is RowwiseAdagrad else squares[name]
            torch.testing.assert_close(held.view_as(kept).double(), kept, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_borrowed_table_gets_a_sparse_gradient_of_the_rows_read(weighted: bool) -> None:
    torch.manual_seed(0)
    pooling = dict(zip(NAMES, ("mean", "sum", "sum"), strict=True))
    tables = SparseInput({"age": 2}, WIDTH, borrowed=["history", "wishlist"], pooling=pooling)  # type: ignore[arg-type]
    lent = torch.nn.Parameter(torch.randn(5, WIDTH))
    truth = {"age": tables.tables["age"].detach().double()}
    truth["history"] = lent.detach().double().requires_grad_()
    wanted = torch.randn(4, WIDTH)
    hidden = tables(odd_fields(weighted=weighted), {"history": lent, "wishlist": lent})
    ((hidden - wanted) ** 2).sum().backward()
    expected = written_out(truth, pooling, weighted=weighted)
    ((expected - wanted) ** 2).sum().backward()
    assert lent.grad.is_sparse
    torch.testing.assert_close(
        lent.grad.to_dense().double(), truth["history"].grad, atol=1e-5, rtol=0
    )
    assert "history" not in dict(tables.named_parameters())


def test_a_pooling_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="pooling must be 'sum' or 'mean', got 'max'"):
        SparseInput({"history": 3}, 4, pooling={"history": "max"})  # type: ignore[dict-item]


@pytest.mark.parametrize("limit", [{"weight_decay": 0.1}, {"clip_norm": 1.0}])
def test_what_torchrec_cannot_do_is_not_asked_of_it(limit: dict[str, float]) -> None:
    tables = new_input("torchrec")
    with pytest.raises(ConfigError, match="neither decay nor clip single rows"):
        tables.fuse(Sgd(0.1, **limit))


def test_lazy_adam_equals_sparse_adam() -> None:
    # they add eps to differently scaled roots, which matters where gradients are tiny
    tables = train(new_input("torch"), LazyAdam(lr=0.1, eps=1e-12), 10)
    start = new_input("torch")
    bags = {
        name: torch.nn.EmbeddingBag.from_pretrained(
            table.detach().clone(), freeze=False, mode="sum", sparse=True, include_last_offset=True
        )
        for name, table in start.tables.items()
    }
    optimizer = torch.optim.SparseAdam([bag.weight for bag in bags.values()], lr=0.1, eps=1e-12)
    for step, (fields, wanted) in enumerate(batches(10)):
        optimizer.param_groups[0]["lr"] = 0.1 if step < 5 else 0.03
        optimizer.zero_grad()
        hidden = sum(
            bags[n](fields[n].values, fields[n].offsets, fields[n].weights) for n in FIELDS
        )
        ((hidden - wanted) ** 2).sum().backward()
        optimizer.step()
    for name, bag in bags.items():
        torch.testing.assert_close(tables.tables[name].data, bag.weight.data, atol=1e-6, rtol=0)


def test_rows_that_no_user_holds_never_change() -> None:
    tables = new_input("torch")
    before = tables.tables["history"].detach().clone()
    touched = torch.cat([fields["history"].values for fields, _ in batches(2)]).unique()
    train(tables, RowwiseAdagrad(lr=0.1), 2)
    changed = (tables.tables["history"] != before).any(1).nonzero().squeeze(1)
    assert changed.tolist() == touched.tolist()
    assert tables.tables["history"].grad is None


def test_state_dicts_are_exchanged_between_backends() -> None:
    pytest.importorskip("torchrec")
    first = train(new_input("torchrec"), RowwiseAdagrad(lr=0.1), 4)
    second = new_input("torch")
    second.load_state_dict(first.state_dict())
    assert sorted(first.state_dict()) == ["tables.age", "tables.history"]
    fields, _ = batches(1)[0]
    torch.testing.assert_close(second(fields), first.eval()(fields), atol=0, rtol=0)
    third = new_input("torchrec")
    third.fuse(RowwiseAdagrad(lr=0.1))
    third.load_state_dict(first.state_dict())  # after fusing, TorchRec's memory must follow
    torch.testing.assert_close(third(fields), first(fields), atol=1e-6, rtol=0)


def test_no_user_and_no_value_are_fine() -> None:
    empty = Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    for backend in ("torch", "torchrec"):
        if backend == "torchrec":
            pytest.importorskip("torchrec")
        tables = new_input(backend)
        before = tables.tables["age"].detach().clone()
        tables.fuse(RowwiseAdagrad(lr=0.1))
        hidden = tables({"history": empty, "age": empty})
        assert hidden.tolist() == [[0.0] * WIDTH] * 3
        hidden.sum().backward()
        assert torch.equal(tables.tables["age"], before)


def test_auto_says_why_it_takes_plain_torch_and_torchrec_refuses() -> None:
    tables = new_input("auto")
    tables.fuse(LazyAdam(lr=0.1))
    assert tables.backend_in_use == "torch"
    with pytest.raises(ConfigError, match="has no fused update for LazyAdam"):
        new_input("torchrec").fuse(LazyAdam(lr=0.1))
    with pytest.raises(ValueError, match="'auto', 'torchrec' or 'torch', got 'fbgemm'"):
        new_input("fbgemm")


def test_without_torchrec_the_tables_still_train() -> None:
    script = """
import sys
sys.modules["torchrec"] = None
import torch
from deeprec.batch import Jagged
from deeprec.model.sparse_input import SparseInput
from deeprec.table import RowwiseAdagrad
tables = SparseInput({"history": 3}, 4)
tables.fuse(RowwiseAdagrad(0.1))
tables({"history": Jagged(torch.tensor([1]), torch.tensor([0, 1]))}).sum().backward()
assert tables.backend_in_use == "torch"
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
