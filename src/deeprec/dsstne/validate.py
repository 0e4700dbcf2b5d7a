"""Numerical gradients of a network definition against those that training would use."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeprec import config
from deeprec.batch import Arranged, Batch, Jagged, Penalty
from deeprec.console import console
from deeprec.dsstne.data_set import DataSet
from deeprec.dsstne.definition import read_definition
from deeprec.dsstne.mapped import Mapped
from deeprec.dsstne.mapping import mapped
from deeprec.dsstne.network import LayerKind
from deeprec.dsstne.remark import refuse
from deeprec.dsstne.target_values import read_values
from deeprec.dsstne.train_data import (
    Examples,
    distinct,
    examples_of,
    input_weights,
    last_values,
)
from deeprec.errors import ConfigError, NonFiniteError
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.part import instantiate
from deeprec.table import NO_UPDATES
from deeprec.verb import TrainConfig

STEP = 1e-5  # of a weight, both ways, in float64
TOLERANCE = 1e-4  # of the difference, over the larger of 1 and the gradient
DRAWN = 20  # weights of each tensor that are looked at


@dataclass(frozen=True)
class Difference:
    """The largest difference of one tensor."""

    name: str
    largest: float

    @property
    def is_right(self) -> bool:
        return self.largest <= TOLERANCE


def validate(
    *,
    definition: Path,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    examples: int = 16,
    seed: int = 1,
) -> list[Difference]:
    """Prints, for each tensor, how far its gradient is from central differences of the loss.

    Nothing is dropped, so that the loss is a function of the weights alone.

    Args:
        definition: JSON.
        inputs: data set files, which have the data sets of the input layers.
        outputs: likewise of the output layer.
        examples: so many, the first ones.
        seed: of the weights, and of which of them are looked at.

    Raises:
        ConfigError: something of the network is refused, or there would be no example.
        NonFiniteError: a gradient is not what the differences say.
    """
    if examples < 1:
        raise ConfigError(f"-b must be 1 or more, got {examples}")
    network, remarks = read_definition(definition)
    to = Mapped() if any(one.outcome == "refused" for one in remarks) else mapped(network)
    refuse(definition, [*remarks, *to.remarks])
    data = examples_of(network, inputs, outputs)
    [output] = network.of_kind(LayerKind.OUTPUT)
    weigh = read_values(to, network, output, data.output)
    torch.manual_seed(seed)
    model = _model(to, data).double()
    told = config.compose(
        "train", [f"loss={to.choices['loss']}", "prepared=known", "output_dir=known"]
    )
    assert isinstance(told, TrainConfig)
    assert told.loss is not None
    loss = instantiate({**told.loss, **to.loss})
    arranged = _arranged(model, data, examples, weigh=weigh)
    found = differences(model, loss, arranged, seed)
    for one in found:
        console.print(f"{one.name:<40} {one.largest:.2e} {'ok' if one.is_right else 'wrong'}")
    wrong = [one.name for one in found if not one.is_right]
    if wrong:
        raise NonFiniteError(
            f"{definition}: the gradient of {', '.join(wrong)} is not what differences of the loss "
            "say; a margin of the loss, or the corner of a rectifier, may lie within the step"
        )
    return found


def differences(model: Layered, loss: nn.Module, arranged: Arranged, seed: int) -> list[Difference]:
    """The largest difference of each tensor of a model in float64, over some weights of it."""
    total = _loss(model, loss, arranged)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    draw = np.random.default_rng(seed)
    found = []
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        flat = parameter.data.view(-1)
        known = torch.zeros_like(flat) if gradient is None else gradient.to_dense().reshape(-1)
        # as many where the gradient is not 0 as of all, because most rows of a table are not read
        nonzero = torch.nonzero(known).squeeze(1).numpy()
        places = [
            *draw.permutation(nonzero)[:DRAWN],
            *draw.integers(0, len(flat), DRAWN),
        ]
        worst = 0.0
        for place in places:
            numeric = _central(model, loss, arranged, flat, int(place))
            exact = float(known[int(place)])
            worst = max(worst, abs(numeric - exact) / max(1.0, abs(exact)))
        found.append(Difference(name, worst))
    return found


@torch.no_grad()
def _central(
    model: Layered, loss: nn.Module, arranged: Arranged, flat: Tensor, place: int
) -> float:
    was = flat[place].item()
    sides = []
    for side in (STEP, -STEP):
        flat[place] = was + side
        sides.append(float(_loss(model, loss, arranged)))
    flat[place] = was
    return (sides[0] - sides[1]) / (2 * STEP)


def _loss(model: Layered, loss: nn.Module, arranged: Arranged) -> Tensor:
    parts = [
        one.weight * (one.value if isinstance(one, Penalty) else loss(*one[1:], NO_UPDATES))
        for one in model.tasks(arranged)
    ]
    return torch.stack(parts).sum()


def _model(to: Mapped, data: Examples) -> Layered:
    """The model, with nothing dropped."""
    layers = [Hidden(**{**_plain(part), "dropout": 0.0}) for part in to.model["layers"]]
    settings = {**to.model, "layers": layers, "input_dropout": 0.0}
    given = {"output_bias": 0.0, **settings, "fields": data.widths()}
    return Layered(data.num_items, **given)


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "_target_"}


def _arranged(model: Layered, data: Examples, examples: int, *, weigh: bool) -> Arranged:
    """The first examples, their weights in float64."""
    target, history = _first(data.output, examples), _first(data.history, examples)
    attributes = {name: _first(one, examples) for name, one in data.attributes.items()}
    count = len(target.offsets) - 1
    if weigh:
        values = last_values(data.output)[: len(target.values)]
        target.weights = torch.from_numpy(values).double()
    weights = {name: torch.from_numpy(one[:count]) for name, one in input_weights(data).items()}
    batch = Batch(torch.arange(count), history, None, attributes, target, input_weights=weights)
    arranged = model.arrange(batch, torch.Generator())
    if (of_users := data.output.example_weights) is not None:
        arranged.asked[0].user_weights = torch.from_numpy(of_users[:count]).double()
    arranged.fields = {
        name: replace(one, weights=None if one.weights is None else one.weights.double())
        for name, one in arranged.fields.items()
    }
    return arranged


def _first(data_set: DataSet, examples: int) -> Jagged:
    """The columns of the first examples."""
    offsets, columns = distinct(data_set)
    offsets = offsets[: examples + 1]
    return Jagged(torch.from_numpy(columns[: offsets[-1]]), torch.from_numpy(offsets))
