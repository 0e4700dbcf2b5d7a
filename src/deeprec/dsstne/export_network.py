"""A run of ours as a network file, with the index file of its columns."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.dsstne.data_set import aligned
from deeprec.dsstne.from_autoencoder import layered, obstacles
from deeprec.dsstne.learned import Learned, learned_by
from deeprec.dsstne.mapping import POOLINGS
from deeprec.dsstne.network import (
    NO_FLAGS,
    Activation,
    Layer,
    LayerFlag,
    LayerKind,
    LayerType,
    Network,
)
from deeprec.dsstne.network_file import write_network
from deeprec.dsstne.text import write_index
from deeprec.dsstne.weights import Rows, take
from deeprec.errors import ConfigError
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.hidden import Hidden
from deeprec.model.layered import INPUT, Layered
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


def export_network(run_folder: Path, output: Path, index: Path, *, name: str = "gl") -> None:
    """Writes the network file of a run, and the index file that names its columns.

    Args:
        run_folder: a run of `model=layered`, or of an autoencoder without what DSSTNE lacks.
        output: the network file.
        index: the feature index, of input and output alike.
        name: of the data sets, before `_input` and `_output`.

    Raises:
        ConfigError: the model has something that a network of DSSTNE has not; all of it is named.
    """
    run = open_run(run_folder)
    _refuse(run.model, run_folder)
    model = layered(run.model) if isinstance(run.model, Autoencoder) else run.model
    assert isinstance(model, Layered)
    assert run.config.loss is not None
    constraints = (run.config.optimizer or {}).get("constraints") or {}
    learned = learned_by(run.config.loss, constraints, run_folder)
    network = network_of(model, learned, name)
    labels = Prepared(run.prepared, parts=()).catalog.item_ids.to_pylist()
    write_network(output, network)
    write_index(index, {label: number for number, label in enumerate(labels)})
    console.print(
        f"{output}: {len(network.layers)} layers over {len(labels):,} items, width "
        f"{network.layers[0].units:,}; {index} names the columns",
        soft_wrap=True,
    )


def network_of(model: Layered, learned: Learned, name: str) -> Network:
    """The network that a model is, its columns in the order of the catalog.

    Args:
        model: with its weights.
        learned: the error and the output layer.
        name: of the data sets.
    """
    num_items = len(model.item_bias)
    width = aligned(num_items)
    network = Network(name, [], denoising_p=model.input_dropout, **learned.settings)
    network.layers.append(
        Layer(
            "Input",
            LayerKind.INPUT,
            data_set=f"{name}_input",
            extents=(width,),
            flags=LayerFlag.SPARSE,
        )
    )
    parts = list(model.parts)
    network.layers += [_layer(part, _sources(parts, i)) for i, part in enumerate(parts)]
    network.layers.append(
        replace(
            learned.output,
            data_set=f"{name}_output",
            extents=(width,),
            sources=[parts[i].name for i in model.output],
        )
    )
    network.sparseness = next(
        ((p.sparseness, p.sparseness_weight) for p in parts if p.sparseness_weight), (0.0, 0.0)
    )
    columns = np.arange(num_items)
    take(network, Rows(columns, columns), model)
    return network


def _sources(layers: list[Hidden], i: int) -> list[str]:
    """Names as DSSTNE has them, in the order of the columns that they fill."""
    wanted = layers[i].sources
    if wanted is None:
        wanted = (layers[i - 1].name,) if i else (INPUT,)
    return ["Input" if name == INPUT else name for name in wanted]


def _layer(part: Hidden, sources: list[str]) -> Layer:
    if part.pooling != "none":
        return Layer(
            part.name,
            LayerKind.HIDDEN,
            type=LayerType.POOLING,
            pooling=next(kind for kind, name in POOLINGS.items() if name == part.pooling),
            extents=(part.units,),
            sources=sources,
            activation=Activation.LINEAR,
        )
    alpha = 1.6732632 if part.activation == "selu" else 1.0
    return Layer(
        part.name,
        LayerKind.HIDDEN,
        extents=(part.units,),
        sources=sources,
        skips=list(part.skips),
        activation=ACTIVATIONS[part.activation],
        flags=(LayerFlag.BATCH_NORMALIZATION if part.batch_norm else NO_FLAGS)
        | (LayerFlag.SPARSE if part.sparseness_weight else NO_FLAGS),
        dropout=part.dropout,
        weight_norm=part.unit_norm or 0.0,
        delta_norm=part.slope_norm or 0.0,
        sparseness_p=part.sparseness if part.sparseness_weight else 0.0,
        sparseness_beta=part.sparseness_weight,
        slope=part.slope if part.activation == "leaky_relu" else 1.0,
        alpha=alpha if part.alpha is None else part.alpha,
        scale=part.scale,
    )


def _refuse(model: object, source: object) -> None:
    found = list(_obstacles(model))
    if found:
        lines = "\n".join(f"  - {line}" for line in found)
        raise ConfigError(f"{source} is no network of DSSTNE:\n{lines}")


def _obstacles(model: object) -> Iterator[str]:
    if isinstance(model, Autoencoder):
        found = list(obstacles(model))
        yield from found
        if found:
            return
        model = layered(model)
    if not isinstance(model, Layered):
        yield f"{type(model).__name__} is no network of layers; train model=layered"
        return
    if model.history_weighting != "binary" or model.normalize:
        yield "histories are weighted; model.history_weighting=binary, model.normalize=false"
    if model.fields:
        yield "it reads user attributes, which have columns of their own in DSSTNE"
    for part in model.parts:
        if part.activation not in ACTIVATIONS:
            yield f"layer {part.name!r} is {part.activation}, which DSSTNE has not"
