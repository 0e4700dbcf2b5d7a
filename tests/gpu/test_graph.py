"""Steps that a CUDA device is asked for as one graph are those it is asked for kernel by kernel."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import small_shop
from deeprec.data.datamodule import to_be_fetched
from deeprec.data.padding import Padding, padding_of
from deeprec.loss.softmax import Softmax
from deeprec.train import train
from deeprec.trainer.built import state_tensors
from deeprec.trainer.graph import WARM, Graph, obstacle_to_graph
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Adam, Optimizer, RmsProp, RowwiseAdagrad
from deeprec.trainer.run import open_run
from steps import LOSSES, MODELS, OPTIMIZERS, training_of, uneven_batch

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
FILLED = ("softmax", "marginal", "hinge", "regression", "asymmetric")
SAMPLED = ("sampled_softmax", "sampled_binary")
STEPS = WARM + 9
CASES: list[tuple[str, str, Optimizer]] = [
    *(("plain", loss, Adam(warmup_steps=4, decay=0.5)) for loss in (*FILLED, *SAMPLED)),
    ("plain", "softmax", RowwiseAdagrad()),
    ("plain", "sampled_softmax", RowwiseAdagrad()),
    ("repeats", "softmax", Adam()),
    ("repeats", "softmax", RowwiseAdagrad()),
    ("plain", "softmax", RmsProp()),
    ("plain", "softmax", OPTIMIZERS[0]),  # with limits
    ("layered", "marginal", RowwiseAdagrad()),
    ("variational", "softmax", Adam()),
    ("variational", "marginal", RowwiseAdagrad()),
]


def training_on_cuda(case: tuple[str, str, Optimizer]) -> Training:
    model, loss, optimizer = case
    torch.manual_seed(0)
    build: Callable[[], nn.Module] = MODELS[model]
    module = build()
    if model == "variational":
        module.anneal_steps = module.alike_from = 3  # type: ignore[assignment]
    module = module.to(CUDA)
    about = Softmax() if loss == "softmax" else LOSSES[loss](module)
    about.block_items = None  # type: ignore[assignment]
    if loss == "sampled_softmax":
        about.softmax.block_items = None  # type: ignore[union-attr]
    training: Training = training_of(module, about, optimizer).to(CUDA)
    assert obstacle_to_graph(training) is None
    return training


def after_steps(training: Training, *, as_graph: bool) -> dict[str, Tensor]:
    batches = [
        training.arrange(uneven_batch(step), torch.Generator().manual_seed(step))
        for step in range(STEPS)
    ]
    padding = padding_of(batches, exactly=True)
    assert isinstance(padding, Padding)
    training.padding = padding
    if as_graph:
        training.graph = Graph(training, CUDA)
    for batch in batches:
        training.training_step(to_be_fetched(training.padding(batch)), 0)
    assert training.progress.step == STEPS
    found = {**training.model.state_dict(), **state_tensors(training.built)}
    return found | {"loss": training.loss_sum}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]}")
def test_a_graph_ends_where_its_kernels_one_by_one_do(case: tuple[str, str, Optimizer]) -> None:
    """With the same draws of dropout, learning rates that change, and batches of other sizes."""
    expected = after_steps(training_on_cuda(case), as_graph=False)
    training = training_on_cuda(case)
    found = after_steps(training, as_graph=True)
    assert isinstance(training.graph, Graph)
    assert training.graph.is_recorded
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if case[0] == "layered" and name.endswith(("layers.0.bias", "running_mean")):
            continue  # a batch norm takes it away again
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


class Waiting(nn.Module):
    """A loss that is looked at in the step."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *asked: object) -> Tensor:
        value: Tensor = self.loss(*asked)
        value.item()
        return value


def test_steps_that_cannot_be_recorded_go_on_kernel_by_kernel(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the same draws, and with a step of others recorded afterwards."""
    expected = after_steps(training_on_cuda(CASES[0]), as_graph=False)
    training = training_on_cuda(CASES[0])
    training.loss = Waiting(training.loss)  # type: ignore[arg-type]
    found = after_steps(training, as_graph=True)
    assert training.graph is None
    assert "steps go on kernel by kernel: no graph (" in capsys.readouterr().out
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
    again = training_on_cuda(CASES[0])
    after_steps(again, as_graph=True)
    assert isinstance(again.graph, Graph)
    assert again.graph.is_recorded


WORDS = "trainer.batch_users=12 optimizer.lr=0.02 trainer.max_epochs=6"


@pytest.mark.parametrize(
    ("precision", "repeats", "words"),
    [
        ("float32", False, ""),
        ("bfloat16", False, ""),
        ("float32", True, ""),
        ("float32", True, "target=after_cut target.window_days=20"),
        ("float32", False, "loss=sampled_softmax loss.negatives=8 optimizer=rowwise_adagrad"),
        ("float32", False, "loss=marginal model=layered"),
        ("float32", False, "model=variational model.anneal_steps=10"),
    ],
)
def test_a_run_in_graphs_is_the_run_without(
    precision: str, repeats: bool, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = small_shop.make(tmp_path / "prepared", repeats=repeats)
    model = "" if "layered" in words else "model.hidden_dims=[8]"
    ends = []
    for graph in ("true", "false"):
        more = f"trainer.cuda_graph={graph}", f"trainer.precision={precision}"
        said = [*f"{words} {model} {WORDS}".split(), *more]
        said += ["trainer.device=cuda", "logger.wandb=off"]
        run = train(small_shop.composed(prepared, tmp_path / graph, *said))
        ends.append((open_run(run, "last").model.state_dict(), read_metrics(run / "metrics.csv")))  # type: ignore[attr-defined]
    assert "steps: a CUDA graph" in capsys.readouterr().out
    (mine, told), (theirs, expected) = ends
    tolerance = 1e-4 if precision == "float32" else 3e-2
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=tolerance, rtol=1e-2, msg=name)
    assert [float(row["loss"]) for row in told] == pytest.approx(
        [float(row["loss"]) for row in expected], rel=1e-3
    )
