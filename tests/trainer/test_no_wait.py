"""A step asks its device for nothing: on CUDA each answer would be waited for.

This watches a step on the CPU for operations that need an answer: numbers read from tensors,
results whose size depends on what is in a tensor, copies to the host. tests/gpu/ asks CUDA itself.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deeprec.trainer.optimizer import Optimizer
from steps import (
    COSINES,
    HELD,
    LIMITLESS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    boltzmann,
    contrast,
    cosine_contrastive,
    linear,
    margins,
    new_batch,
    training_of,
)

ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique", "bincount")
# where a number may be read, and why that is no wait
ALLOWED = {
    ("catalog_blocks.py", "backward"): "a CPU alone is asked whether the gradient of a loss is 1",
    ("module.py", "check_finite"): "at each step on a CPU, at each fiftieth on CUDA",
    ("constraints.py", "_shorten_all"): "a CPU alone is asked whether a unit is too long",
    (
        "row_optimizer.py",
        "_rows_of",
    ): "where a table is tied, what a sampled loss and input read",
    ("adagrad.py", "_single_tensor_adagrad"): "torch counts steps in tensors that stay on the CPU",
    ("rmsprop.py", "_single_tensor_rmsprop"): "the same",
}


class NoWait(TorchDispatchMode):
    """Refuses what would wait for a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name.removeprefix("aten::"), kwargs or {}
        if _asks(name, args, kwargs) and not _allowed():
            raise AssertionError(f"{name} waits for its device")
        return func(*args, **kwargs)


def _asks(name: str, args: Any, kwargs: Any) -> bool:
    if name.startswith(ASKING):
        return True
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in tree_leaves(args[1]))
    return name == "_coalesce"


def _allowed() -> bool:
    frame: Any = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if (code.co_filename.rsplit("/", 1)[-1], code.co_name) in ALLOWED:
            return True
        frame = frame.f_back
    return False


@pytest.fixture
def no_copies(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbids, from then on, what brings tensors to the host."""

    def refuse(name: str) -> Any:
        def refused(*_: Any, **__: Any) -> None:
            raise AssertionError(f"Tensor.{name} waits for its device")

        return refused

    def forbid() -> None:
        for name in ("tolist", "numpy", "cpu", "__array__"):
            monkeypatch.setattr(Tensor, name, refuse(name))

    return forbid


def cases() -> Iterator[tuple[str, str, Optimizer]]:
    """Every model with every loss, and every optimizer with one of them."""
    yield from ((model, loss, OPTIMIZERS[0]) for model in MODELS for loss in LOSSES)
    yield from ((model, "softmax", optimizer) for model in MODELS for optimizer in OPTIMIZERS[1:])


@pytest.mark.parametrize(("model", "loss", "optimizer"), list(cases()))
def test_a_step_waits_for_nothing(
    model: str, loss: str, optimizer: Optimizer, no_copies: Callable[[], None]
) -> None:
    assert_no_wait(MODELS[model](), LOSSES[loss], optimizer, no_copies)


@pytest.mark.parametrize("model", ["plain", "tied", "layered"])
def test_a_step_held_to_constraints_waits_for_nothing(
    model: str, no_copies: Callable[[], None]
) -> None:
    assert_no_wait(MODELS[model](), margins, HELD, no_copies)


@pytest.mark.parametrize("optimizer", LIMITLESS, ids=lambda each: type(each).__name__)
def test_a_step_of_the_linear_autoencoder_waits_for_nothing(
    optimizer: Optimizer, no_copies: Callable[[], None]
) -> None:
    assert_no_wait(linear(), LOSSES["cosine"], optimizer, no_copies)


@pytest.mark.parametrize("model", COSINES)
def test_a_step_of_cosines_waits_for_nothing(model: str, no_copies: Callable[[], None]) -> None:
    assert_no_wait(COSINES[model](), cosine_contrastive, LIMITLESS[0], no_copies)


@pytest.mark.parametrize("loss", ["contrastive_divergence", "softmax"])
def test_a_step_of_a_boltzmann_machine_waits_for_nothing(
    loss: str, no_copies: Callable[[], None]
) -> None:
    found = contrast if loss == "contrastive_divergence" else LOSSES[loss]
    assert_no_wait(boltzmann(), found, LIMITLESS[0], no_copies)


def assert_no_wait(
    model: nn.Module,
    loss: Callable[[nn.Module], nn.Module],
    optimizer: Optimizer,
    no_copies: Callable[[], None],
) -> None:
    training = training_of(model, loss(model), optimizer)
    arranged = [training.arrange(new_batch(step), torch.Generator()) for step in range(2)]
    training.training_step(arranged[0], 0)
    before = model.item_weight.detach().clone()
    no_copies()
    with NoWait():
        training.training_step(arranged[1], 0)
    assert not torch.equal(before, model.item_weight)


def repeated_rows(x: Tensor) -> Tensor:
    rows = torch.tensor([[1, 1]])
    return torch.sparse_coo_tensor(rows, x[:2], (3,), check_invariants=False)


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.unique(),
        lambda x: torch.arange(3).repeat_interleave(torch.tensor([1, 2, 3])),
        lambda x: torch.sparse_coo_tensor(
            torch.tensor([[1, 1]]), x[:2], (3,), check_invariants=False
        ).coalesce(),
        lambda x: x.tolist(),
    ],
)
def test_what_waits_is_seen(
    waiting: Callable[[Tensor], Any], no_copies: Callable[[], None]
) -> None:
    no_copies()
    with pytest.raises(AssertionError, match="waits for its device"), NoWait():
        waiting(torch.ones(3))
