"""Weights of a network file into a model of ours, and back.

A column of a data set is a row of our tables: which, the index files and the catalog say.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.markup import escape
from torch import Tensor, nn

from deeprec.console import console
from deeprec.dsstne.data_set import ALIGNED, aligned
from deeprec.dsstne.mapping import mapped
from deeprec.dsstne.network import BatchNorm, Floats, Layer, LayerKind, Network, Weight
from deeprec.dsstne.remark import Remark, refuse
from deeprec.dsstne.text import names_columns, read_index
from deeprec.errors import DataError
from deeprec.model.attribute_field import field_of
from deeprec.model.hidden import HiddenLayer
from deeprec.model.layered import Layered
from deeprec.model.pooled import PooledLayer
from deeprec.model.sparse_input import HISTORY, SparseInput
from deeprec.part import instantiate

Columns = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Which column of the network every item of a catalog has.

    Args:
        inputs: int64 [V], column of the input data set; -1: the network never saw the item.
        outputs: int64 [V], column of the output data set; -1: it is never recommended.
        attributes: by user attribute that is a further input, int64, column of its data set of each
            value; -1: the network never saw it.
    """

    inputs: Columns
    outputs: Columns
    attributes: Mapping[str, Columns] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)


def index_of(layer: Layer, path: Path) -> dict[str, int]:
    """The feature index of an input or output; one that looks like another's is told.

    Raises:
        DataError: it names nothing, or a column that the layer does not have.
    """
    index = read_index(path)
    if not index:
        raise DataError(f"{path}: names no column; give the index that a data set was made with")
    last = max(index.values())
    if last >= layer.units:
        raise DataError(
            f"{path} names column {last}, and the network has {layer.units} columns of "
            f"{layer.data_set or layer.name!r}; give the index that its data set was generated with"
        )
    if doubt := _doubt(index, last, layer.units):
        console.print(f"[yellow]note[/yellow] {escape(f'{path} {doubt}')}", soft_wrap=True)
    return index


def _doubt(index: Mapping[str, int], last: int, width: int) -> str:
    """Why an index may not be the one that a data set so wide was generated with; or nothing."""
    if len(index) == width and names_columns(index):
        return (
            f"gives each of the {width:,} columns its own number for a label, as export-network "
            "does for a run that train left; where features have names, give the index that the "
            "data set was generated with"
        )
    if aligned(last + 1) < width:
        return (
            f"names columns up to {last:,} of {width:,}, and a data set so wide is generated with "
            f"more than {width - ALIGNED:,} features; is it the index of another one?"
        )
    return ""


def rows_by_label(
    labels: Sequence[str],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    attributes: Mapping[str, Columns] | None = None,
) -> Rows:
    """The columns of these items by two index files.

    Raises:
        DataError: the index files know none of them.
    """
    found = [
        columns_of(labels, index, f"none of {len(labels):,} items is in the {name} index")
        for name, index in (("input", inputs), ("output", outputs))
    ]
    return Rows(found[0], found[1], attributes or {})


def columns_of(labels: Sequence[str], index: Mapping[str, int], otherwise: str) -> Columns:
    """int64, the column of each label, -1 where the index has none.

    Raises:
        DataError: it has none of them; `otherwise` says so.
    """
    columns = np.array([index.get(label, -1) for label in labels], np.int64)
    if len(columns) and int(columns.max()) < 0:
        raise DataError(f"{otherwise}; are these the index files of the network?")
    return columns


def all_columns(network: Network) -> Rows:
    """An item for each column, of a network whose columns nobody has named."""
    [output] = network.of_kind(LayerKind.OUTPUT)
    widths = network.history.units, output.units
    columns = np.arange(max(widths))
    inputs, outputs = (np.where(columns < width, columns, -1) for width in widths)
    further = {name: np.arange(layer.units) for name, layer in network.further.items()}
    return Rows(inputs, outputs, further)


def model_part(network: Network, source: object) -> tuple[dict[str, Any], list[Remark]]:
    """The part of a config that makes the model of a network, and what became of its settings.

    Raises:
        ConfigError: the network is not one of ours; everything that is in the way is named.
    """
    to = mapped(network)
    refuse(source, to.remarks)
    part = {"_target_": "deeprec.model.layered.Layered", "_partial_": True, **to.model}
    part.setdefault("output_bias", 0.0)  # every bias is in the file
    return part, to.remarks


def new_model(network: Network, rows: Rows, source: object) -> Layered:
    """The network as a model over a catalog, in evaluation mode.

    Raises:
        ConfigError: as `model_part`.
    """
    part, _ = model_part(network, source)
    fields = {name: len(columns) for name, columns in rows.attributes.items()}
    model = instantiate(part, num_items=len(rows), fields=fields)
    assert isinstance(model, Layered)
    put(network, rows, model)
    return model.eval()


@torch.no_grad()
def put(network: Network, rows: Rows, model: nn.Module) -> None:
    """Copies the weights of a network into the model that its settings made."""
    assert isinstance(model, Layered)
    [output] = network.of_kind(LayerKind.OUTPUT)
    hidden, known = network.of_kind(LayerKind.HIDDEN), _inputs(network, rows)
    readers = [layer for layer in hidden if known.keys() & {*layer.sources}]
    for layer, inputs in zip(readers, model.inputs, strict=True):
        assert isinstance(inputs, SparseInput)
        for name in known.keys() & {*layer.sources}:
            if known[name].field not in inputs.borrowed:
                matrix = network.matrix(network.weight(name, layer.name))
                table = inputs.tables[known[name].field]
                table.copy_(_gathered(matrix, known[name].columns, 0.0))
    for layer, held in zip(hidden, model.layers, strict=True):
        if isinstance(held, PooledLayer):
            continue
        assert isinstance(held, HiddenLayer)
        _put_layer(network, layer, held, known)
    matrices = [network.matrix(network.weight(name, output.name)) for name in output.sources]
    bias = _bias(network, output)
    model.item_weight.copy_(_gathered(np.concatenate(matrices).T, rows.outputs, 0.0))
    model.item_bias.copy_(_gathered(bias, rows.outputs, float(bias.min())))


def take(network: Network, rows: Rows, model: nn.Module) -> None:
    """Gives a network the weights of the model that its settings made: `put`, the other way.

    Columns of the output that no item has get a score below any other.
    """
    assert isinstance(model, Layered)
    [output] = network.of_kind(LayerKind.OUTPUT)
    known = _inputs(network, rows)
    shared = {weight.target: weight for weight in network.weights if weight.shared_with}
    network.weights = []
    tables = iter(model.inputs)
    for layer, held in zip(network.of_kind(LayerKind.HIDDEN), model.layers, strict=True):
        if isinstance(held, PooledLayer):
            continue
        assert isinstance(held, HiddenLayer)
        names = [name for name in layer.sources if name not in known]
        blocks = iter(_blocks(held, [network.layer(name).units for name in names]))
        inputs = next(tables) if held.reads >= 0 else None
        for name in layer.sources:
            if inputs is None or name not in known:
                values = next(blocks)
            else:
                table = _table(model, inputs, known[name].field)
                width = network.layer(name).units
                values = _scattered(table, known[name].columns, width, 0.0)
            bias = array(held.bias) if name == layer.sources[0] else np.zeros_like(held.bias.data)
            weight = Weight(name, layer.name, np.asarray(bias), values, norm=layer.weight_norm)
            network.weights.append(weight)
        _take_norm(layer, held)
    item_bias = array(model.item_bias)
    lowest = float(item_bias.min()) - 100.0
    bias = _scattered(item_bias, rows.outputs, output.units, lowest)
    matrix = _scattered(array(model.item_weight), rows.outputs, output.units, 0.0).T
    edges = np.cumsum([network.layer(name).units for name in output.sources])
    for name, values in zip(output.sources, np.split(matrix, edges[:-1])):
        weight = Weight(name, output.name, bias, values, norm=output.weight_norm)
        if output.name in shared:
            old = shared[output.name]
            weight.values, weight.shared_with = None, old.shared_with
            weight.transposed = old.transposed
        network.weights.append(weight)
        bias = np.zeros_like(bias)


def _blocks(held: HiddenLayer, widths: list[int]) -> list[Floats]:
    """The matrix from each hidden source, [its units, units]."""
    if not widths:
        return []
    assert isinstance(held.from_layers, nn.Linear)
    return list(np.split(array(held.from_layers.weight).T, np.cumsum(widths)[:-1]))


@dataclass(frozen=True)
class _Input:
    """An input layer as ours: the sparse field that it is, and the column of each of its rows."""

    field: str
    columns: Columns


def _inputs(network: Network, rows: Rows) -> dict[str, _Input]:
    """The input layers, by name."""
    further = {
        layer.name: _Input(field_of(name), rows.attributes[name])
        for name, layer in network.further.items()
    }
    return {network.history.name: _Input(HISTORY, rows.inputs), **further}


def _table(model: Layered, inputs: nn.Module, name: str) -> Floats:
    assert isinstance(inputs, SparseInput)
    return array(model.item_weight if name in inputs.borrowed else inputs.tables[name])


def _take_norm(layer: Layer, held: HiddenLayer) -> None:
    if isinstance(held.norm, nn.BatchNorm1d):
        norm = held.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        layer.batch_norm = BatchNorm(
            *(array(one) for one in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
        )


def array(values: Tensor) -> Floats:
    """A copy on the host."""
    return np.array(values.detach().cpu().numpy(), np.float32)


def _scattered(table: Floats, columns: Columns, width: int, absent: float) -> Floats:
    """Rows at their columns; `absent` where no row belongs."""
    found = np.full((width, *table.shape[1:]), absent, np.float32)
    found[columns[columns >= 0]] = table[columns >= 0]
    return found


def _put_layer(network: Network, layer: Layer, held: HiddenLayer, inputs: Container[str]) -> None:
    held.bias.copy_(torch.from_numpy(_bias(network, layer)))
    names = [name for name in dict.fromkeys(layer.sources) if name not in inputs]
    if names:
        matrices = [network.matrix(network.weight(name, layer.name)) for name in names]
        assert isinstance(held.from_layers, nn.Linear)
        held.from_layers.weight.copy_(torch.from_numpy(np.concatenate(matrices).T.copy()))
    if layer.batch_norm is not None:
        assert isinstance(held.norm, nn.BatchNorm1d)
        known = layer.batch_norm
        assert held.norm.running_mean is not None
        assert held.norm.running_var is not None
        held.norm.weight.copy_(torch.from_numpy(known.scale))
        held.norm.bias.copy_(torch.from_numpy(known.bias))
        held.norm.running_mean.copy_(torch.from_numpy(known.running_mean))
        held.norm.running_var.copy_(torch.from_numpy(known.running_variance))


def _bias(network: Network, layer: Layer) -> Floats:
    """One vector for a layer: DSSTNE has one beside each of its matrices, and adds them."""
    biases = [network.weight(name, layer.name).bias for name in layer.sources]
    return np.asarray(np.sum(biases, axis=0, dtype=np.float64), np.float32)


def _gathered(table: Floats, columns: Columns, absent: float) -> Tensor:
    """The rows of these columns; of -1, rows of `absent`."""
    found = np.ascontiguousarray(table[columns.clip(0)])
    found[columns < 0] = absent
    return torch.from_numpy(found)
