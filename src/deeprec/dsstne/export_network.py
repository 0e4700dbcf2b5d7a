"""A run of ours as a network file, with the index file of its columns."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

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
from deeprec.model.attribute_field import field_of
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.hidden import Hidden
from deeprec.model.layered import INPUT, OF_USER, Layered
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


def export_network(run_folder: Path, output: Path, index: Path, *, name: str = "gl") -> None:
    """Writes the network file of a run, and the index file that names its columns.

    Args:
        run_folder: a run of `model=layered`, or of an autoencoder without what DSSTNE lacks.
        output: the network file.
        index: the feature index, of history and output alike; beside it lies one for each user
            attribute, INDEX.NAME.
        name: of the data sets of history and output, before `_input` and `_output`; that of a user
            attribute is called as it is.

    Raises:
        ConfigError: the model has something that a network of DSSTNE has not; all of it is named.
            Or a user attribute is called as the data set of history or output.
    """
    run = open_run(run_folder)
    _refuse(run.model, run_folder)
    model = layered(run.model) if isinstance(run.model, Autoencoder) else run.model
    assert isinstance(model, Layered)
    _check_names(name, _read(model))
    assert run.config.loss is not None
    constraints = (run.config.optimizer or {}).get("constraints") or {}
    learned = learned_by(run.config.loss, constraints, run_folder)
    network = network_of(model, learned, name)
    prepared = Prepared(run.prepared, parts=())
    labels = prepared.catalog.item_ids.to_pylist()
    values = {name: _values(prepared, name) for name in _read(model)}
    write_network(output, network)
    _write_index(index, labels)
    for attribute, known in values.items():
        beside = index.with_name(f"{index.name}.{quote(attribute, safe='')}")
        _write_index(beside, known)
        console.print(f"{beside} names the columns of data set {attribute!r}", soft_wrap=True)
    console.print(
        f"{output}: {len(network.layers)} layers over {len(labels):,} items, width "
        f"{network.layers[0].units:,}; {index} names the columns",
        soft_wrap=True,
    )


def _check_names(name: str, attributes: Collection[str]) -> None:
    """The data set of an attribute is called as it is, and no other may be."""
    for data_set in (f"{name}_input", f"{name}_output"):
        if data_set in attributes:
            raise ConfigError(
                f"-d {name} calls a data set {data_set!r}, and so is a user attribute of the run; "
                f"give another -d, say -d {name}_items, or prepare the events with the attribute "
                "called otherwise"
            )


def _write_index(path: Path, labels: Sequence[str]) -> None:
    write_index(path, {label: number for number, label in enumerate(labels)})


def _values(prepared: Prepared, name: str) -> Sequence[str]:
    """The values of a user attribute, in the order of its columns."""
    values = prepared.vocabularies[name]
    if isinstance(values, Mapping):
        raise ConfigError(
            f"the values of {name!r} are hashed in {prepared.path}, and columns of DSSTNE have "
            f"names; prepare it without data.filters.hashed_attributes.{name}"
        )
    return values


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
    network.layers.append(_input("Input", f"{name}_input", width, _flags(model, HISTORY)))
    for attribute, size in _read(model).items():
        flags = _flags(model, field_of(attribute))
        network.layers.append(_input(_input_name(attribute), attribute, aligned(size), flags))
    parts = list(model.parts)
    network.layers += [_layer(part, _sources(model, i)) for i, part in enumerate(parts)]
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
    attributes = {attribute: np.arange(size) for attribute, size in _read(model).items()}
    take(network, Rows(columns, columns, attributes), model)
    return network


def _flags(model: Layered, field: str) -> LayerFlag:
    """DSSTNE denoises every input with Sparse, and no other."""
    noisy = not model.input_dropout or field in model.dropped
    return LayerFlag.SPARSE if noisy else NO_FLAGS


def _input(name: str, data_set: str, width: int, flags: LayerFlag) -> Layer:
    return Layer(name, LayerKind.INPUT, data_set=data_set, extents=(width,), flags=flags)


def _read(model: Layered) -> dict[str, int]:
    """The user attributes that some layer reads, and how many values each has."""
    inputs = [one for one in model.inputs if isinstance(one, SparseInput)]
    tables = {name for one in inputs for name in one.tables}
    return {name: size for name, size in model.fields.items() if field_of(name) in tables}


def _input_name(attribute: str) -> str:
    """A name that no hidden layer has: those of ours never begin so."""
    return f"{OF_USER}{attribute}"


def _sources(model: Layered, i: int) -> list[str]:
    """Names as DSSTNE has them, in the order of the columns that they fill."""
    wanted = model.parts[i].sources
    if wanted is None:
        wanted = (model.parts[i - 1].name,) if i else (INPUT,)
    every = ["Input", *map(_input_name, _read(model))]
    inputs = {INPUT: every, HISTORY: ["Input"]}
    return [one for name in wanted for one in inputs.get(name, [name])]


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
    for part in model.parts:
        if part.activation not in ACTIVATIONS:
            yield f"layer {part.name!r} is {part.activation}, which DSSTNE has not"
