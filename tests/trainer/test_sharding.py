"""Tables over two processes end where those of one process end, whatever the plan."""

import os
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deeprec.batch import Jagged
from deeprec.errors import ConfigError
from deeprec.model.sparse_input import SparseInput
from deeprec.table import Adagrad, LazyAdam, RowwiseAdagrad, Sgd, TableRule
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.sharding import Plan, _refuse, choose_plans, shard

pytest.importorskip("torchrec", reason="tables over processes are TorchRec's")
PROCESSES, USERS, WIDTH, STEPS = 2, 6, 8, 3
ROWS = {"history": 37, "city": 9}  # odd: parts of different size
PLANS: list[Plan] = ["row_wise", "table_wise", "column_wise"]
RULES = {"sgd": Sgd, "adagrad": Adagrad, "rowwise": RowwiseAdagrad}
CASES = [
    case for case in product(PLANS, RULES) if case != ("column_wise", "rowwise")
]  # a row-wise sum of a part of a row is another number


def new_inputs() -> SparseInput:
    torch.manual_seed(0)
    return SparseInput(ROWS, WIDTH, shared={"basket": "history"}, pooling={"city": "mean"})


def batch(step: int) -> dict[str, Jagged]:
    """Of all processes: weighted, with repeats, with users who have nothing."""
    draw = torch.Generator().manual_seed(step)
    fields = {}
    for name, rows in (("history", 37), ("basket", 37), ("city", 9)):
        lengths = torch.randint(0, 5, (PROCESSES * USERS,), generator=draw)
        lengths[3] = 0
        values = torch.randint(rows, (int(lengths.sum()),), generator=draw)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        fields[name] = Jagged(values, offsets, torch.rand(len(values), generator=draw) + 0.5)
    return fields


def part(rows: Jagged, process: int) -> Jagged:
    first, last = process * USERS, (process + 1) * USERS
    here = slice(int(rows.offsets[first]), int(rows.offsets[last]))
    assert rows.weights is not None
    offsets = rows.offsets[first : last + 1] - rows.offsets[first]
    return Jagged(rows.values[here], offsets, rows.weights[here])


def loss_of(bags: Tensor, process: int | None) -> Tensor:
    """A mean over the users of all, with another slope for each."""
    everybody = torch.linspace(-1, 2, PROCESSES * USERS)[:, None]
    mine = everybody if process is None else everybody.chunk(PROCESSES)[process]
    return ((bags - mine) ** 2).sum() / len(everybody)


def walk(process: int, folder: Path) -> None:
    """What each of the processes does."""
    torch.set_num_threads(1)
    group = Group(PROCESSES, process)
    group.join(folder, torch.device("cpu"))
    for plan, name in CASES:
        inputs = new_inputs().train()
        sharded = shard(inputs, RULES[name](0.1), group, dict.fromkeys(ROWS, plan))
        sharded.join(torch.device("cpu"))
        assert not any(len(table) for table in inputs.tables.values())
        for step in range(STEPS):
            inputs.set_learning_rate(0.1 / (step + 1))
            mine = {field: part(rows, process) for field, rows in batch(step).items()}
            loss_of(inputs(mine), process).backward()
            inputs.finish_step()
        tables, states = sharded.tables(), sharded.optimizer_state()
        assert bool(tables) == group.leads
        other = shard(new_inputs(), RULES[name](0.1), group, dict.fromkeys(ROWS, plan))
        for table, whole in tables.items():
            other.inputs.tables[table].data = whole.clone()
        if group.leads:
            read = other.state_to_read()
            for table, state in states.items():
                for key, value in state.items():
                    read[table][key].copy_(value)
        other.join(torch.device("cpu"))
        found, again = flat(tables, states), flat(other.tables(), other.optimizer_state())
        assert all(torch.equal(again[key], value) for key, value in found.items())
        if group.leads:
            save_file(found, folder / f"{plan}-{name}.safetensors")
    group.totals(0)  # nobody leaves while another still asks


def flat(tables: dict[str, Tensor], states: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    remembered = {
        f"{name}/{key}": value.clone()
        for name, state in states.items()
        for key, value in state.items()
    }
    return {name: table.detach().clone() for name, table in tables.items()} | remembered


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes end with, a file for each case."""
    folder = tmp_path_factory.mktemp("sharded")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(process), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(PROCESSES)
    ]
    end = threading.Timer(300, lambda: [each.kill() for each in started])
    end.start()
    told = [each.communicate()[0] for each in started]
    end.cancel()
    assert [each.returncode for each in started] == [0] * PROCESSES, "\n".join(told)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "name"), CASES)
def test_two_processes_end_where_one_does(ends: Path, plan: Plan, name: str) -> None:
    inputs = new_inputs().train()
    inputs.fuse(RULES[name](0.1))
    for step in range(STEPS):
        inputs.set_learning_rate(0.1 / (step + 1))
        loss_of(inputs(batch(step)), None).backward()
        inputs.finish_step()
    truth = flat(dict(inputs.tables.items()), inputs.optimizer_state)
    found = load_file(ends / f"{plan}-{name}.safetensors")
    assert found.keys() == truth.keys()
    for key, value in truth.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=0, msg=key)
    assert (truth["history"] != new_inputs().tables["history"]).any()


def test_large_tables_are_divided_by_rows() -> None:
    assert choose_plans({"history": 10**6, "age": 7}) == {
        "history": "row_wise",
        "age": "table_wise",
    }


@pytest.mark.parametrize(
    ("rule", "width", "told"),
    [
        (RowwiseAdagrad(0.1), 8, "a row-wise Adagrad of its own"),
        (Adagrad(0.1), 12, "needs a width divisible by 8, got 12"),
    ],
)
def test_plans_that_would_train_otherwise_are_refused(
    rule: TableRule, width: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        _refuse({"history": "column_wise"}, rule, width, 2)


def test_rules_that_torchrec_lacks_are_refused() -> None:
    for rule in (LazyAdam(0.1), Sgd(0.1, weight_decay=0.1)):
        with pytest.raises(ConfigError, match=r"trainer\.shard_inputs: TorchRec.*rowwise_adagrad"):
            shard(new_inputs(), rule, Group(PROCESSES))


if __name__ == "__main__":
    walk(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # at once: threads of the process group may abort an ordinary end
