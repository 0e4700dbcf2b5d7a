"""A training step on CUDA waits for nothing and changes weights as the same step on a CPU does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from deeprec.batch import Arranged
from deeprec.data.datamodule import to_be_fetched
from deeprec.data.packed import Packed
from deeprec.model.autoencoder import Autoencoder
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Optimizer
from steps import (
    COSINES,
    HELD,
    LIMITLESS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    autoencoder,
    boltzmann,
    contrast,
    cosine_contrastive,
    linear,
    margins,
    new_batch,
    training_of,
)

pytestmark = pytest.mark.gpu
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STEPS = 3
DRAW_ON_DEVICE = ("variational", "recvae")  # each device has a generator of its own
PLAIN = LIMITLESS[0]

Case = tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module], Optimizer]


def cases() -> Iterator[tuple[str, Case]]:
    for model in MODELS:
        for loss in LOSSES:
            yield f"{model}, {loss}", (MODELS[model], LOSSES[loss], OPTIMIZERS[0])
        for optimizer in OPTIMIZERS[1:]:
            name = f"{model}, {type(optimizer).__name__}"
            yield name, (MODELS[model], LOSSES["softmax"], optimizer)
    for model in ("plain", "tied", "layered"):
        yield f"{model}, constraints", (MODELS[model], margins, HELD)
    yield "linear, cosine", (linear, LOSSES["cosine"], PLAIN)
    for name, tower in COSINES.items():
        yield f"cosines, {name}", (tower, cosine_contrastive, PLAIN)


CASES = dict(cases())


def training_on(device: torch.device, case: Case) -> Training:
    """As a run has it: made on the CPU, moved, and only then its optimizers are built."""
    build, loss, optimizer = case
    torch.manual_seed(0)
    model = build().to(device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # drawn on the device
    return training_of(model, loss(model), optimizer).to(device)


def step(training: Training, number: int) -> None:
    """From the second on, one that waits for nothing: the first sets up what lasts."""
    batch: Arranged | Packed = training.arrange(
        new_batch(number), torch.Generator().manual_seed(number)
    )
    if training.device.type == "cuda":
        batch = to_be_fetched(batch)
        torch.cuda.synchronize()
    with waiting_refused() if number else nullcontext():
        training.training_step(batch, 0)


@contextmanager
def waiting_refused() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CASES)
def test_a_step_on_cuda_waits_for_nothing_and_is_that_of_a_cpu(name: str) -> None:
    here, there = training_on(CPU, CASES[name]), training_on(CUDA, CASES[name])
    for number in range(STEPS):
        step(here, number)
        step(there, number)
    loss = there.mean_loss()
    if not name.startswith(DRAW_ON_DEVICE):
        assert loss == pytest.approx(here.mean_loss(), rel=1e-4)
        assert_same_weights(here.model, there.model)


# Nothing depends on these, or on a third of them, so that their gradients are rounding errors,
# which Adam makes as long as others: biases before a batch norm, and what it keeps of them, and
# what all keys of attention share.
FREE = ("layers.0.bias", "layers.0.norm.running_mean", "attention.asked.bias")


def assert_same_weights(here: nn.Module, there: nn.Module) -> None:
    of_cuda: dict[str, Tensor] = there.state_dict()
    for name, weight in here.state_dict().items():
        if name.endswith(FREE) and not isinstance(here, Autoencoder):
            continue
        torch.testing.assert_close(
            of_cuda[name].cpu(),
            weight,
            atol=2e-4,
            rtol=1e-3,
            msg=lambda text: f"{name}: {text}",  # noqa: B023
        )


@pytest.mark.parametrize("steps", [1, 2])
def test_a_boltzmann_machine_contrasts_on_cuda_without_waiting(steps: int) -> None:
    training = training_on(CUDA, (boltzmann, partial(contrast, steps=steps), PLAIN))
    before = training.model.item_weight.detach().clone()
    for number in range(STEPS):
        step(training, number)
    assert not torch.equal(before, training.model.item_weight)
    assert training.model.item_weight.isfinite().all()


@pytest.mark.parametrize("loss", ["softmax", "marginal", "sampled_softmax", "hinge", "squared"])
def test_narrow_products_on_cuda_stay_near_float32(loss: str) -> None:
    case = (lambda: autoencoder(repeats=True), LOSSES[loss], PLAIN)
    wide, narrow = training_on(CUDA, case), training_on(CUDA, case)
    for number in range(STEPS):
        step(wide, number)
        with torch.autocast("cuda", torch.bfloat16):
            step(narrow, number)
    assert narrow.mean_loss() == pytest.approx(wide.mean_loss(), rel=0.02)
    assert {one.dtype for one in narrow.model.parameters()} == {torch.float32}
