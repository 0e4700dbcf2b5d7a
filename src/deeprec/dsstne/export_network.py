"""A run of ours as a network file, with the index file of its columns."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.dsstne.data_set import aligned
from deeprec.dsstne.network import (
    Activation,
    BatchNorm,
    Error,
    Floats,
    Layer,
    LayerFlag,
    LayerKind,
    Network,
    Weight,
)
from deeprec.dsstne.network_file import write_network
from deeprec.dsstne.text import write_index
from deeprec.errors import ConfigError
from deeprec.model.hidden import Hidden, HiddenLayer
from deeprec.model.layered import INPUT, Layered
from deeprec.model.sparse_input import HISTORY, SparseInput
from deeprec.trainer.run import open_run

ACTIVATIONS = {
    "sigmoid": Activation.SIGMOID,
    "tanh": Activation.TANH,
    "identity": Activation.LINEAR,
    "relu": Activation.RECTIFIED_LINEAR,
    "leaky_relu": Activation.LEAKY_RELU,
    "elu": Activation.ELU,
    "selu": Activation.SELU,
}
ERRORS = {"Marginal": Error.SCALED_MARGINAL, "Softmax": Error.CROSS_ENTROPY}


def export_network(run_folder: Path, output: Path, index: Path, *, name: str = "gl") -> None:
    """Writes the network file of a run, and the index file that names its columns.

    Args:
        run_folder: a run of `model=layered`.
        output: the network file.
        index: the feature index, of input and output alike.
        name: of the data sets, before `_input` and `_output`.

    Raises:
        ConfigError: the model has something that a network of DSSTNE has not; all of it is named.
    """
    run = open_run(run_folder)
    model = run.model
    assert isinstance(model, nn.Module)
    _refuse(model, run_folder)
    assert run.config.loss is not None
    loss = run.config.loss["_target_"].rpartition(".")[2]
    network = network_of(model, loss, name)
    labels = Prepared(run.prepared, parts=()).catalog.item_ids.to_pylist()
    write_network(output, network)
    write_index(index, {label: number for number, label in enumerate(labels)})
    console.print(
        f"{output}: {len(network.layers)} layers over {len(labels):,} items, width "
        f"{network.layers[0].units:,}; {index} names the columns",
        soft_wrap=True,
    )


def network_of(model: nn.Module, loss: str, name: str) -> Network:
    """The network that a model is; scores of padding columns are below any other."""
    layers, held, tables = _parts_of(model)
    item_weight, item_bias = _array(model.item_weight), _array(model.item_bias)
    width = aligned(len(item_bias))
    padding = width - len(item_bias)
    network = Network(name, [])
    network.error = ERRORS.get(loss, Error.SCALED_MARGINAL)
    network.one_target, network.zero_target = 1.0, 0.0
    network.layers.append(
        Layer(
            "Input",
            LayerKind.INPUT,
            data_set=f"{name}_input",
            extents=(width,),
            flags=LayerFlag.SPARSE,
        )
    )
    reader = iter(tables)
    for i, (layer, one) in enumerate(zip(layers, held)):
        sources = _sources(layers, i)
        network.layers.append(_layer(layer, one, sources))
        blocks = iter(_blocks(one, [layers[j].units for j in _places(layers, sources)]))
        for j, source in enumerate(sources):
            values = (
                np.pad(next(reader), ((0, padding), (0, 0))) if source == "Input" else next(blocks)
            )
            bias = _array(one.bias) if j == 0 else np.zeros(layer.units, np.float32)
            network.weights.append(Weight(source, layer.name, bias, values))
    outputs = [layers[i].name for i in getattr(model, "output", [len(layers) - 1])]
    network.layers.append(
        Layer(
            "Output",
            LayerKind.OUTPUT,
            data_set=f"{name}_output",
            extents=(width,),
            sources=outputs,
            flags=LayerFlag.SPARSE,
            activation=Activation.SOFT_MAX if loss == "Softmax" else Activation.SIGMOID,
        )
    )
    table = np.pad(item_weight, ((0, padding), (0, 0))).T
    lowest = float(item_bias.min()) - 100.0
    bias = np.pad(item_bias, (0, padding), constant_values=lowest)
    edges = np.cumsum([network.layer(source).units for source in outputs])
    for j, (source, values) in enumerate(zip(outputs, np.split(table, edges[:-1]))):
        zeros = np.zeros(width, np.float32)
        network.weights.append(Weight(source, "Output", bias if j == 0 else zeros, values))
    return network


def _parts_of(model: nn.Module) -> tuple[list[Hidden], list[HiddenLayer], list[Floats]]:
    """Layers, what they hold, and the input tables in the order of the layers that read them."""
    assert isinstance(model, Layered)
    tables = [
        _array(model.item_weight if model.tied else inputs.tables[HISTORY])
        for inputs in model.inputs
        if isinstance(inputs, SparseInput)
    ]
    held = [layer for layer in model.layers if isinstance(layer, HiddenLayer)]
    return list(model.parts), held, tables


def _sources(layers: list[Hidden], i: int) -> list[str]:
    """Names as DSSTNE has them, in the order of the columns that they fill."""
    wanted = layers[i].sources
    if wanted is None:
        wanted = (layers[i - 1].name,) if i else (INPUT,)
    return ["Input" if name == INPUT else name for name in wanted]


def _places(layers: list[Hidden], sources: list[str]) -> list[int]:
    names = [layer.name for layer in layers]
    return [names.index(source) for source in sources if source != "Input"]


def _blocks(held: HiddenLayer, widths: list[int]) -> list[Floats]:
    """The matrix of each hidden source, [its units, units]."""
    if not widths:
        return []
    assert isinstance(held.from_layers, nn.Linear)
    return list(np.split(_array(held.from_layers.weight).T, np.cumsum(widths)[:-1]))


def _layer(part: Hidden, held: HiddenLayer, sources: list[str]) -> Layer:
    layer = Layer(
        part.name,
        LayerKind.HIDDEN,
        extents=(part.units,),
        sources=sources,
        skips=list(part.skips),
        activation=ACTIVATIONS[part.activation],
        dropout=part.dropout,
        slope=part.slope if part.activation == "leaky_relu" else 1.0,
        alpha=1.6732632 if part.activation == "selu" and part.alpha is None else part.alpha or 1.0,
        scale=part.scale,
    )
    if isinstance(held.norm, nn.BatchNorm1d):
        norm = held.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        layer.flags |= LayerFlag.BATCH_NORMALIZATION
        layer.batch_norm = BatchNorm(
            *(_array(one) for one in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
        )
    return layer


def _refuse(model: nn.Module, source: object) -> None:
    found = []
    if not isinstance(model, Layered):
        kind = type(model).__name__
        found.append(f"a {kind} is no network of layers; train model=layered")
    else:
        if model.history_weighting != "binary" or model.normalize:
            found.append("histories are weighted; model.history_weighting=binary, normalize=false")
        if model.fields:
            found.append("it reads user attributes, which have columns of their own in DSSTNE")
        found += [
            f"layer {part.name!r} is {part.activation}, which DSSTNE has not"
            for part in model.parts
            if part.activation not in ACTIVATIONS
        ]
    if found:
        lines = "\n".join(f"  - {line}" for line in found)
        raise ConfigError(f"{source} is no network of DSSTNE:\n{lines}")


def _array(values: torch.Tensor | nn.Module) -> Floats:
    assert isinstance(values, torch.Tensor)
    found: Floats = values.detach().cpu().numpy()
    return found
