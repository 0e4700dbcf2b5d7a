"""Conventions of DSSTNE behind `compatibility=dsstne`, against numpy written from its formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit
from torch import Tensor

import small_shop
from deeprec.activated import READ_BY
from deeprec.batch import Batch, Jagged, Task
from deeprec.errors import ConfigError
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.model.sparse_input import HISTORY
from deeprec.train import train
from deeprec.trainer.built import begin_again, begin_state
from deeprec.trainer.optimizer import Adam
from deeprec.trainer.run import RunFolder

P, DENOISING, ALPHA, SCALE, SLOPE = 0.4, 0.3, 1.5, 1.2, 0.2
USERS, ITEMS = 40, 30
FORWARD = {
    "sigmoid": expit,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, SLOPE * z),
    "identity": lambda z: z,
    "elu": lambda z: np.where(z > 0, z, ALPHA * np.expm1(z)),
    "selu": lambda z: SCALE * np.where(z > 0, z, ALPHA * np.expm1(z)),
}
KEEP = 1 - P


def alpha_dropout(name: str) -> tuple[float, float, float]:
    """What a dropped unit becomes, before A and B; A; and B."""
    end = -ALPHA * (SCALE if name == "selu" else 1.0)
    gain = 1 / np.sqrt(KEEP + end * end * P * KEEP)
    return end, gain, -gain * P * end


def dropped(name: str, a: np.ndarray, kept: np.ndarray) -> np.ndarray:
    if name == "sigmoid":
        return np.where(kept, a, 0.5)
    if name in ("elu", "selu"):
        end, gain, shift = alpha_dropout(name)
        return np.where(kept, gain * a + shift, gain * end + shift)
    return np.where(kept, a / KEEP, 0.0)


def slope(name: str, a: np.ndarray) -> np.ndarray:
    """By what came out of dropout."""
    s = 1 / KEEP
    return {
        "sigmoid": a * (1 - a),
        "tanh": s * (1 - (a / s) ** 2),
        "relu": np.where(a <= 0, 0.0, 1.0),
        "leaky_relu": np.where(a <= 0, SLOPE, 1.0),
        "identity": np.ones_like(a),
        "elu": np.where(a <= 0, a + ALPHA, 1.0),
        "selu": np.where(a > 0, SCALE, a + SCALE * ALPHA),
    }[name]


def kept_by(name: str, found: np.ndarray) -> np.ndarray:
    """Which units dropout left, told by what came out."""
    gone = {"sigmoid": 0.5}.get(name, 0.0)
    if name in ("elu", "selu"):
        end, gain, shift = alpha_dropout(name)
        gone = gain * end + shift
    return ~np.isclose(found, gone, rtol=0, atol=1e-9)


def told(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


@pytest.mark.parametrize("name", FORWARD)
def test_dropout_and_denoising_are_those_of_the_formulas(name: str) -> None:
    torch.manual_seed(3)
    parameters = {"alpha": ALPHA, "scale": SCALE, "slope": SLOPE}
    read = {key: value for key, value in parameters.items() if name in READ_BY[key]}
    parts = [
        Hidden(name=layer, units=5, activation=name, dropout=P,
               init="gaussian", init_bias=0.3, sources=sources, **read)  # type: ignore[arg-type]
        for layer, sources in (("one", ["input"]), ("two", ["one", "input"]))
    ]  # fmt: skip
    model = Layered(ITEMS, layers=parts, input_dropout=DENOISING, compatibility="dsstne").double()
    outputs: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, __, a: outputs.append(a))
    items = torch.cat([torch.randperm(ITEMS)[:6] for _ in range(USERS)])
    history = Jagged(items, torch.arange(USERS + 1) * 6)
    batch = Batch(torch.arange(USERS), history, None, {}, history)
    arranged = model.arrange(batch, torch.Generator().manual_seed(0))
    shown = arranged.fields[HISTORY]
    shown.weights = shown.weights.double()
    [task] = model.tasks(arranged)
    assert isinstance(task, Task)
    handed = torch.randn(USERS, 5, dtype=torch.float64)
    (task.encoded.hidden_BD * handed).sum().backward()

    q, x = 1 / (1 - DENOISING), np.zeros((USERS, ITEMS))
    users = np.repeat(np.arange(USERS), np.diff(told(shown.offsets)))
    x[users, told(shown.values)] = told(shown.weights)
    np.testing.assert_allclose(told(shown.weights), q, rtol=1e-6)
    assert 0.6 < len(users) / (6 * USERS) < 0.8  # some items are dropped, and no more
    first, second = (told(inputs.tables[HISTORY]) for inputs in model.inputs)  # type: ignore[union-attr,index]
    one, two = model.layers
    between = told(two.from_layers.weight).T  # type: ignore[union-attr]
    z1 = x @ first + q * told(one.bias)  # type: ignore[arg-type]
    a1 = dropped(name, FORWARD[name](z1), kept_by(name, told(outputs[0])))
    z2 = q * (told(two.bias) + a1 @ between) + x @ second  # type: ignore[arg-type]
    a2 = dropped(name, FORWARD[name](z2), kept_by(name, told(outputs[1])))
    np.testing.assert_allclose(told(outputs[0]), a1, atol=1e-9)
    np.testing.assert_allclose(told(outputs[1]), a2, atol=1e-9)
    delta2 = told(handed) * slope(name, a2)
    delta1 = (delta2 @ between.T) * slope(name, a1)
    expected = {
        "inputs.0.tables.history": x.T @ delta1,
        "inputs.1.tables.history": x.T @ delta2,
        "layers.0.bias": delta1.sum(0),
        "layers.1.bias": delta2.sum(0),
        "layers.1.from_layers.weight": delta2.T @ a1,
    }
    for parameter, gradient in expected.items():
        found = told(model.get_parameter(parameter).grad.to_dense())  # type: ignore[union-attr]
        np.testing.assert_allclose(found, gradient, atol=1e-9, err_msg=parameter)


def test_nothing_is_dropped_once_it_is_trained() -> None:
    torch.manual_seed(0)
    part = Hidden(name="one", units=5, dropout=P, init="gaussian")
    model = Layered(ITEMS, layers=[part], input_dropout=DENOISING, compatibility="dsstne").eval()
    plain = Layered(ITEMS, layers=[part]).eval()
    plain.load_state_dict(model.state_dict())
    shown = torch.tensor([3, 4, 9]), torch.tensor([0, 2, 3]), torch.zeros(0), {}
    assert torch.equal(model.encode(*shown)[0], plain.encode(*shown)[0])


def test_the_scheme_selu_starts_as_narrow_as_in_dsstne() -> None:
    torch.manual_seed(0)
    parts = [Hidden(name=name, units=200, init="selu") for name in ("one", "two")]
    model = Layered(1000, layers=parts, output_init="selu", compatibility="dsstne")
    deviations = [
        (model.inputs[0].tables[HISTORY], 1000),  # type: ignore[union-attr,index]
        (model.layers[1].from_layers.weight, 200),  # type: ignore[union-attr]
        (model.item_weight, 200),
    ]
    for weight, num_in in deviations:
        assert weight.std().item() == pytest.approx(1 / num_in, rel=0.03)


def test_adam_begins_at_its_second_step() -> None:
    torch.manual_seed(0)
    model = Layered(ITEMS, layers=[Hidden(name="one", units=3)])
    built = Adam(lr=0.1, betas=(0.5, 0.75)).build(model)
    begin_state(built)
    for _ in range(2):  # whatever was remembered is forgotten
        before = model.item_weight.detach().clone(), model.layers[0].bias.detach().clone()
        begin_again(built, step=1)
        for weight in (model.item_weight, model.layers[0].bias):
            weight.grad = torch.full_like(weight, 2.0)
        for one in built:
            one.step()
        m, v = 0.5 * 2.0 / (1 - 0.5**2), 0.25 * 4.0 / (1 - 0.75**2)
        step = 0.1 * m / (v**0.5 + 1e-8)
        for old, new in zip(before, (model.item_weight, model.layers[0].bias)):
            torch.testing.assert_close(old - new, torch.full_like(old, step))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.make(tmp_path_factory.mktemp("shop") / "prepared", repeats=False)


def steps_counted(run: Path) -> set[float]:
    [newest] = sorted((RunFolder(run).checkpoints).glob("step-*"))[-1:]
    state = load_file(newest / "optimizer.safetensors")
    return {float(value) for name, value in state.items() if name.endswith("/step")}


def test_a_run_forgets_at_every_epoch(prepared: Path, tmp_path: Path) -> None:
    words = ["model=layered", "trainer.max_epochs=3", "trainer.batch_users=15"]
    for name, counted in (("none", 12.0), ("dsstne", 5.0)):  # 4 steps an epoch, from 1 on
        told = [*words, f"compatibility={name}"]
        run = train(small_shop.settings(prepared, tmp_path / name, *told))
        assert steps_counted(run) == {counted}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("autoencoder", "is of networks of layers, got Autoencoder"),
        ("ease", "this model is solved"),
    ],
)
def test_other_models_have_no_such_form(
    model: str, said: str, prepared: Path, tmp_path: Path
) -> None:
    words = [f"model={model}", "compatibility=dsstne"]
    with pytest.raises(ConfigError, match=said):
        train(small_shop.composed(prepared, tmp_path / "run", *words))
