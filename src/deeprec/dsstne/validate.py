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
from deeprec.dsstne.network_check import check_one_input
from deeprec.dsstne.remark import refuse
from deeprec.dsstne.target_values import read_values
from deeprec.dsstne.train_data import data_set_of, distinct, last_values
from deeprec.errors import NonFiniteError
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.part import instantiate
from deeprec.table import NO_UPDATES

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
        inputs: data set files, one of which has the data set of the input layer.
        outputs: likewise of the output layer.
        examples: so many, the first ones.
        seed: of the weights, and of which of them are looked at.

    Raises:
        ConfigError: something of the network is refused.
        NonFiniteError: a gradient is not what the differences say.
    """
    network, remarks = read_definition(definition)
    to = Mapped() if any(one.outcome == "refused" for one in remarks) else mapped(network)
    refuse(definition, [*remarks, *to.remarks])
    check_one_input(network, definition)
    layers = [network.of_kind(kind)[0] for kind in (LayerKind.INPUT, LayerKind.OUTPUT)]
    data = [data_set_of(layer.data_set, *paths) for paths, layer in zip((inputs, outputs), layers)]
    weigh = read_values(to, network, layers[1], data[1])
    torch.manual_seed(seed)
    model = _model(to, max(one.width for one in data)).double()
    told = config.compose(
        "train", [f"loss={to.choices['loss']}", "prepared=known", "output_dir=known"]
    )
    assert isinstance(told, config.TrainConfig)
    assert told.loss is not None
    loss = instantiate({**told.loss, **to.loss})
    arranged = _arranged(model, data[0], data[1], examples, weigh=weigh)
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


def _model(to: Mapped, num_items: int) -> Layered:
    """The model, with nothing dropped."""
    layers = [Hidden(**{**_plain(part), "dropout": 0.0}) for part in to.model["layers"]]
    settings = {**to.model, "layers": layers, "input_dropout": 0.0}
    return Layered(num_items, **{"output_bias": 0.0, **settings})


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "_target_"}


def _arranged(
    model: Layered, inputs: DataSet, outputs: DataSet, examples: int, *, weigh: bool
) -> Arranged:
    """The first examples, their weights in float64."""
    rows = []
    for data_set in (inputs, outputs):
        offsets, columns = distinct(data_set)
        offsets = offsets[: examples + 1]
        columns = columns[: offsets[-1]]
        rows.append(Jagged(torch.from_numpy(columns), torch.from_numpy(offsets)))
    count = len(rows[0].offsets) - 1
    if weigh:
        values = last_values(outputs)[: len(rows[1].values)]
        rows[1].weights = torch.from_numpy(values).double()
    batch = Batch(torch.arange(count), rows[0], None, {}, rows[1])
    arranged = model.arrange(batch, torch.Generator())
    if (weights := outputs.example_weights) is not None:
        arranged.asked[0].user_weights = torch.from_numpy(weights[:count]).double()
    arranged.fields = {
        name: replace(one, weights=None if one.weights is None else one.weights.double())
        for name, one in arranged.fields.items()
    }
    return arranged
