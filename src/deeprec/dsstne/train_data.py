"""Data sets of DSSTNE as a prepared folder: columns are items, and examples are users."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from deeprec.console import console
from deeprec.data import store
from deeprec.data.store import Events
from deeprec.dsstne.data_set import DataSet, read_data_sets, read_names
from deeprec.dsstne.network import Layer, LayerKind, Network
from deeprec.errors import ConfigError, DataError, ResourceError
from deeprec.model.layered import OF_USER
from deeprec.model.sparse_input import HISTORY
from deeprec.trainer.memory import available_bytes

ITEM_BYTES = 100  # of an identifier, as text and in a list and a table
KINDS = ["input", "output"]


@dataclass(frozen=True)
class Examples:
    """What a network is shown and asked, as many examples in each data set, in one order."""

    history: DataSet
    output: DataSet
    attributes: Mapping[str, DataSet] = field(default_factory=dict)  # further inputs

    @property
    def num_items(self) -> int:
        """Columns of history and output alike, each of which is an item."""
        return max(self.history.width, self.output.width)

    def widths(self) -> dict[str, int]:
        """The values that each user attribute can have."""
        return {name: one.width for name, one in self.attributes.items()}


def examples_of(network: Network, inputs: Sequence[Path], outputs: Sequence[Path]) -> Examples:
    """The data sets that the layers of a network read, whose widths the layers then have.

    Args:
        network: with one output.
        inputs: data set files, which have those of all input layers.
        outputs: data set files, which have that of the output layer.

    Raises:
        ConfigError: a data set is in no file or in two, or is not as wide as its layer.
        DataError: one is no such file, or they do not hold as many examples.
        ResourceError: memory does not suffice for a catalog of their width.
    """

    def of(layer: Layer, paths: Sequence[Path]) -> DataSet:
        found = data_set_of(layer.data_set, *paths)
        check_width(layer, found)
        layer.extents = found.extents
        return found

    [output] = network.of_kind(LayerKind.OUTPUT)
    history, asked = of(network.history, inputs), of(output, outputs)
    attributes = {name: of(layer, inputs) for name, layer in network.further.items()}
    for one in (asked, *attributes.values()):
        check_same_examples(history, one)
    return Examples(history, asked, attributes)


def data_set_of(name: str, *paths: Path) -> DataSet:
    """The data set that a layer reads, by its name, which one of several files has.

    Raises:
        ConfigError: none of them has one of that name, or it is there twice.
        DataError: one is no such file.
        ResourceError: memory does not suffice for a catalog of its width.
    """
    known = [(one, path) for path in paths for one in read_names(path)]
    places = [path for one, path in known if one == name]
    if len(places) > 1:
        raise ConfigError(
            f"data set {name!r} is there {len(places)} times, in "
            f"{' and in '.join(map(str, places))}; give the one to be read"
        )
    if not places:
        raise ConfigError(
            f"{', '.join(map(str, paths))}: the network reads data set {name!r}, and what is there "
            f"is {', '.join(repr(one) for one, _ in known) or 'none'}; generate it with -d {name}"
        )
    [found] = [one for one in read_data_sets(places[0]) if one.name == name]
    _check_room(places[0], found)
    return found


def check_width(layer: Layer, data_set: DataSet) -> None:
    """Raises ConfigError unless a layer is as wide as its data set, or has yet to learn it."""
    if layer.units not in (0, data_set.width):
        raise ConfigError(
            f"layer {layer.name!r} has N={layer.units}, and data set {data_set.name!r} is "
            f"{data_set.width} wide; train with N: auto, or generate it with the feature index of "
            "the network"
        )


def check_same_examples(inputs: DataSet, outputs: DataSet) -> None:
    """Raises DataError unless both have as many examples."""
    if inputs.num_examples != outputs.num_examples:
        raise DataError(
            f"{inputs.name!r} has {inputs.num_examples:,} examples and {outputs.name!r} "
            f"{outputs.num_examples:,}; generate both with one sample index (-s)"
        )


def _check_room(path: Path, data_set: DataSet) -> None:
    needed = data_set.width * ITEM_BYTES
    free = available_bytes(torch.device("cpu"))
    if needed > free:
        raise ResourceError(
            f"{path}: data set {data_set.name!r} has width {data_set.width:,}; a catalog of so "
            f"many items takes {needed:,} bytes of memory, {free:,} are free. Generate it anew if "
            "it has fewer features"
        )


def prepare_data(
    path: Path,
    examples: Examples,
    *,
    weigh: bool,
    data_sets: Sequence[str] = (),
) -> str:
    """Writes the prepared folder of data sets, every example of which is trained on.

    Item i is column i: of the history in what is shown, of the output in what is asked. A further
    input is a user attribute of lists, value i of which is column i.

    Args:
        path: of the folder.
        examples: what is shown and asked.
        weigh: whether values of the output are kept, to weigh its targets.
        data_sets: SHA-256 of the files, by which the folder is known again.

    Returns:
        The choice of `target` that learns the output from the input.
    """
    inputs, outputs = examples.history, examples.output
    say_what_is_lost_of_inputs(examples)
    _say_what_is_lost(outputs, read=weigh, shown=False)
    shown, asked = (distinct(one) for one in (inputs, outputs))
    same = not weigh and all(np.array_equal(one, other) for one, other in zip(shown, asked))
    events = _events(shown) if same else _of_both(shown, asked, outputs if weigh else None)
    num_items = examples.num_items
    store.write(
        path,
        items=pa.table(
            {
                "item_id": _names(num_items),
                "popularity": np.bincount(asked[1], minlength=num_items),
            }
        ),
        users=_users(examples),
        vocabularies={name: _names(width) for name, width in examples.widths().items()},
        parts={"train": [events], **{part: [_nothing(events)] for part in store.PARTS[1:]}},
        contract={},
        manifest=(manifest := {**_manifest(same), "data_sets": [*data_sets]}),
    )
    return choice_of(manifest)


def choice_of(manifest: Mapping[str, Any]) -> str:
    """The choice of `target` that learns the output of such a folder from its input."""
    return "by_kind" if manifest["kinds"] else "reconstruct"


def _names(width: int) -> list[str]:
    return [str(column) for column in range(width)]


def distinct(data_set: DataSet) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offsets and columns, each once in a row, ascending."""
    offsets, columns, _ = data_set.rows()
    rows = np.repeat(np.arange(data_set.num_examples), np.diff(offsets))
    keys = np.unique(rows * data_set.width + columns)
    counts = np.bincount(keys // data_set.width, minlength=data_set.num_examples)
    return np.concatenate([[0], np.cumsum(counts)]), keys % data_set.width


def rows_of_examples(data_set: DataSet) -> tuple[Tensor, Tensor]:
    """The columns of every example as models take the values of an attribute."""
    offsets, columns = distinct(data_set)
    return torch.from_numpy(columns), torch.from_numpy(offsets)


def _events(rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> Events:
    return Events(rows[0], rows[1].astype(np.int32))


def _of_both(
    shown: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    asked: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    weighed: DataSet | None,
) -> Events:
    """The events of both, told apart by their kind, with the values of what is asked if wanted."""
    one, other = (
        Events(offsets, columns.astype(np.int32), kinds=np.full(len(columns), kind, np.int8))
        for kind, (offsets, columns) in enumerate((shown, asked))
    )
    if weighed is None:
        return store.join(one, other)
    ones = np.ones(len(one.items), np.float32)
    return store.join(replace(one, values=ones), replace(other, values=last_values(weighed)))


def last_values(data_set: DataSet) -> npt.NDArray[np.float32]:
    """Of each column of `distinct`, the value that stands last in its row."""
    offsets, columns, values = data_set.rows()
    keys = np.repeat(np.arange(data_set.num_examples), np.diff(offsets)) * data_set.width + columns
    _, last = np.unique(keys[::-1], return_index=True)
    return values[::-1][last]


def _nothing(like: Events) -> Events:
    empty = {name: column[:0] for name, column in like.columns.items()}
    return Events(np.zeros(like.num_users + 1, np.int64), **empty)


def _users(examples: Examples) -> pa.Table:
    count, weights = examples.output.num_examples, examples.output.example_weights
    nobody = np.zeros(count, np.int64)
    return pa.table(
        {
            **({} if weights is None else {store.WEIGHT: weights}),
            **{f"{store.INPUT_WEIGHT}{name}": one for name, one in input_weights(examples).items()},
            "user_id": _names(count),
            "role": ["all"] * count,
            **{name: _lists(one) for name, one in examples.attributes.items()},
            "validation_unknown": nobody,
            "holdout_unknown": nobody,
        }
    )


def input_weights(examples: Examples) -> dict[str, npt.NDArray[np.float32]]:
    """By input, what each example of it counts, where that is said."""
    further = {f"{OF_USER}{name}": one for name, one in examples.attributes.items()}
    inputs = {HISTORY: examples.history, **further}
    return {
        name: weights
        for name, one in inputs.items()
        if (weights := one.example_weights) is not None
    }


def _lists(data_set: DataSet) -> pa.Array:
    """The columns of each example, as the values of an attribute."""
    offsets, columns = distinct(data_set)
    texts = pa.array(_names(data_set.width), pa.large_string()).take(pa.array(columns))
    return pa.LargeListArray.from_arrays(pa.array(offsets), texts)


def _manifest(same: bool) -> dict[str, object]:
    return {
        "repeats": False,
        "instants": {"train": None, "validation": None, "holdout": None},
        "split": {"name": "none"},
        "kinds": [] if same else KINDS,
        "columns": True,  # and no items: what their ids are, a feature index says
        "counts": {"holdout_users": 0},
    }


def _are_alike(offsets: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> bool:
    """Whether several examples all have the same columns."""
    lengths = np.diff(offsets)
    if len(lengths) < 2 or lengths[0] == 0 or np.any(lengths != lengths[0]):
        return False
    rows = columns.reshape(len(lengths), -1)
    return bool((rows == rows[0]).all())


def say_what_is_lost_of_inputs(examples: Examples) -> None:
    """Prints what of the inputs counts for nothing."""
    for one in (examples.history, *examples.attributes.values()):
        _say_what_is_lost(one, read=False, shown=True)


def _say_what_is_lost(data_set: DataSet, *, read: bool, shown: bool) -> None:
    lost = []
    _, columns, values = data_set.rows()
    offsets, once = distinct(data_set)
    if not read and not np.all(values == 1.0):
        lost.append("values other than 1 count as 1")
        if shown and _are_alike(offsets, once):
            lost.append("so all examples have the same, and nothing is learned of it")
    if len(columns) > len(once):
        lost.append("a column that stands twice in an example counts once")
    for one in lost:
        console.print(f"[yellow]note[/yellow] data set {data_set.name!r}: {one}", soft_wrap=True)
