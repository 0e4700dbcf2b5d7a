"""A training step on CUDA waits for nothing and changes weights as the same step on a CPU does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from deeprec.data.datamodule import pinned
from deeprec.loss.contrastive_divergence import ContrastiveDivergence
from deeprec.loss.cosine import Cosine
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.loss.softmax import Softmax
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.model.rbm import Rbm
from deeprec.model.two_tower import TwoTower
from deeprec.trainer.constraints import Constraints
from deeprec.trainer.module import Progress, Training
from deeprec.trainer.optimizer import Adam, Optimizer, Sgd
from steps import AGES, ITEMS, LOSSES, MODELS, OPTIMIZERS, POPULARITY, autoencoder, new_batch

pytestmark = pytest.mark.gpu
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STEPS = 3
DRAW_ON_DEVICE = ("variational", "recvae")  # each device has a generator of its own
PLAIN = Adam()

Case = tuple[Callable[[], nn.Module], Callable[[nn.Module], nn.Module], Optimizer]


def cosine(model: nn.Module) -> nn.Module:
    return CosineContrastive(ITEMS, margin=0.1, block_items=64)


def margins(_: nn.Module) -> nn.Module:
    return Softmax(block_items=64, zero_target=0.01, zero_scale=2.0)


HELD = Sgd(
    constraints=Constraints(
        l1_decay=0.1,
        table_l1_decay=0.1,
        unit_norm=1.0,
        item_norm=1.0,
        unit_slope_norm=1.0,
        score_slope_norm=1.0,
    )
)


def cases() -> Iterator[tuple[str, Case]]:
    for model in MODELS:
        for loss in LOSSES:
            yield f"{model}, {loss}", (MODELS[model], LOSSES[loss], OPTIMIZERS[0])
        for optimizer in OPTIMIZERS[1:]:
            name = f"{model}, {type(optimizer).__name__}"
            yield name, (MODELS[model], LOSSES["softmax"], optimizer)
    for model in ("plain", "tied", "layered"):
        yield f"{model}, constraints", (MODELS[model], margins, HELD)
    linear = lambda: LinearAutoencoder(ITEMS, popularity=POPULARITY, width=8)
    yield "linear, cosine", (linear, LOSSES["cosine"], PLAIN)
    towers = {
        "mean": lambda: TwoTower(ITEMS, fields={"age": AGES}, width=8),
        "attention": lambda: TwoTower(ITEMS, fields={"age": AGES}, width=8, pooling="attention"),
        "tied": lambda: TwoTower(ITEMS, width=8, tied=True),
        "unit vectors": lambda: autoencoder(repeats=True, reconstruction=0.0, unit_vectors=True),
    }
    for name, tower in towers.items():
        yield f"cosines, {name}", (tower, cosine, PLAIN)


CASES = dict(cases())


def training_on(device: torch.device, case: Case) -> Training:
    """As a run has it: made on the CPU, moved, and only then its optimizers are built."""
    build, loss, optimizer = case
    torch.manual_seed(0)
    model = build().to(device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # drawn on the device
    training = Training(
        model,  # type: ignore[arg-type]
        loss(model),
        optimizer,
        seed=0,
        total_steps=10,
        progress=Progress(),
    )
    training.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    return training.to(device)


def step(training: Training, number: int) -> None:
    """From the second on, one that waits for nothing: the first sets up what lasts."""
    arranged = training.arrange(new_batch(number), torch.Generator().manual_seed(number))
    if training.device.type == "cuda":
        arranged = move_data_to_device(pinned(arranged), training.device)
        torch.cuda.synchronize()
    with waiting_refused() if number else nullcontext():
        training.training_step(arranged, 0)


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
    def boltzmann() -> nn.Module:
        return Rbm(ITEMS, popularity=POPULARITY, num_users=500, hidden_units=8)

    def contrast(model: nn.Module) -> nn.Module:
        hidden_bias = model.hidden_bias
        assert isinstance(hidden_bias, Tensor)
        return ContrastiveDivergence(hidden_bias=hidden_bias, steps=steps, block_items=64)

    training = training_on(CUDA, (boltzmann, contrast, PLAIN))
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


def test_the_linear_autoencoder_takes_the_gram_road_on_cuda() -> None:
    case = (
        lambda: LinearAutoencoder(ITEMS, popularity=POPULARITY, width=8),
        lambda model: Cosine(
            ITEMS, row_length=getattr(model, "row_length_V", None), exclude_self=True
        ),
        PLAIN,
    )
    here, there = training_on(CPU, case), training_on(CUDA, case)
    for number in range(STEPS):
        step(here, number)
        step(there, number)
    assert_same_weights(here.model, there.model)
