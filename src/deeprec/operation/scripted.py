"""model.pt under another catalog: items that are never answered, items that are new.

It works on the TorchScript alone, whatever model it holds: the classes it was made of are not
needed. Tables of items are known by their length, and whoever changes them asks afterwards whether
the answers are what they must be (`catalog_change.py`).
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from deeprec.errors import ConfigError
from deeprec.forms import without_sources
from deeprec.serve import load_model

# The arguments are those of the model within, whatever they are. A retired item can only be found
# by a score of its own (its bias is minus infinity), and then it is denied and the model is asked
# again: denying all of them to everybody would cost a sort of users x retired items in every call.
FORWARD = """
def forward(self, {declared}) -> Tuple[Tensor, Tensor]:
    items, scores = self.model.forward({given})
    retired = self.retired[items]
    while bool(retired.any()):
        users, places = torch.where(retired)
        owners = torch.repeat_interleave(denied_offsets[1:] - denied_offsets[:-1])
        owners = torch.cat([owners, users])
        order = torch.argsort(owners, stable=True)
        denied_items = torch.cat([denied_items, items[users, places]])[order]
        lengths = torch.bincount(owners, minlength=denied_offsets.numel() - 1)
        denied_offsets = torch.cat([denied_offsets[:1], lengths.cumsum(0)])
        items, scores = self.model.forward({given})
        retired = self.retired[items]
    return items, scores
"""


# What Triton's module asks of the one within; see `InTensors`.
METHODS = (
    """
def num_users_of(self, offsets: Tensor) -> int:
    return self.model.num_users_of(offsets)
""",
    """
def check_ages(self, ages: Tensor, num_events: int) -> None:
    self.model.check_ages(ages, num_events)
""",
    """
def check_offsets(
    self, values_name: str, values: Tensor, offsets_name: str, offsets: Tensor, num_users: int
) -> None:
    self.model.check_offsets(values_name, values, offsets_name, offsets, num_users)
""",
)

NEIGHBOURS = ("starts_V1", "neighbours_X", "weights_X")  # of `NeighbourScores`


class WithoutRetired(nn.Module):
    """A served model that never answers some of its items and reads them as before.

    Args:
        model: a loaded model.pt.
        retired: bool [V + 1], the last of them False: padding is item -1.
    """

    retired: Tensor

    def __init__(self, model: torch.jit.ScriptModule, retired: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("retired", retired)


def rewrite(
    source: Path, destination: Path, *, retired: Sequence[int], like: Sequence[int]
) -> None:
    """Writes a verified model.pt anew.

    Args:
        source: the model.pt.
        destination: another path.
        retired: indices of all items that are never answered, those of before too.
        like: indices of the items whose mean is a new last item; empty: none is added.

    Raises:
        ConfigError: the model keeps something of items that has no mean.
    """
    model: Any = load_model(source, torch.device("cpu"))
    if hasattr(model, "retired"):
        model = model.model
    forget_ids(model)
    if like:
        add_item(model, model.num_items, like)
    if retired:
        model = without(model, retired)
    with_sources = destination.with_suffix(".sources")
    model.save(str(with_sources))
    without_sources(with_sources, destination)
    with_sources.unlink()


def forget_ids(model: Any) -> None:
    """What the model knows of raw ids is of the catalog as it was."""
    if hasattr(model, "raw_ids"):
        for name in ("ids_V", "sorted_V", "order_V"):
            setattr(model.raw_ids, name, torch.zeros(0, dtype=torch.int64))


def without(model: Any, retired: Sequence[int]) -> torch.jit.ScriptModule:
    """The model, never answering `retired`."""
    mask = torch.zeros(model.num_items + 1, dtype=torch.bool)
    mask[list(retired)] = True
    if hasattr(model, "item_bias"):
        # a copy: the encoder may read the bias of an item as its popularity
        bias = model.item_bias.detach().masked_fill(mask[:-1], float("-inf"))
        model.item_bias = nn.Parameter(bias, requires_grad=False)
    arguments = model.forward.schema.arguments[1:]
    declared = ", ".join(
        f"{one.name}: {one.type}" + (" = None" if one.has_default_value() else "")
        for one in arguments
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as in serve.load_model
        scripted: torch.jit.ScriptModule = torch.jit.script(WithoutRetired(model, mask).eval())
    given = ", ".join(one.name for one in arguments)
    scripted.define(FORWARD.format(declared=declared, given=given))
    for method in METHODS:
        scripted.define(method)
    return scripted


def add_item(model: Any, num_items: int, like: Sequence[int]) -> None:
    """Appends an item to every table of items: the mean of what they hold of `like`."""
    extended: dict[tuple[int, tuple[int, ...]], Tensor] = {}  # what was shared stays shared
    for module in model.modules():
        own = dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])
        if own.keys() >= {*NEIGHBOURS}:
            starts, neighbours, weights = map(own.pop, NEIGHBOURS)
            tables = with_mean_of_neighbours(starts, neighbours, weights, like)
            for name, table in zip(NEIGHBOURS, tables):
                setattr(module, name, table)
        for name, table in own.items():
            refuse_without_mean(name, table, num_items)
            if num_items in table.shape:
                key = table.data_ptr(), tuple(table.shape)
                if key not in extended:
                    extended[key] = with_mean(table.detach(), num_items, like)
                is_parameter = isinstance(table, nn.Parameter)
                value = nn.Parameter(extended[key], False) if is_parameter else extended[key]
                setattr(module, name, value)
        if hasattr(module, "num_items"):
            module.num_items = num_items + 1


def refuse_without_mean(name: str, table: Tensor, num_items: int) -> None:
    """Numbers that count or point, or that were narrowed, have no mean."""
    of_items = table.dim() > 0 and table.shape[0] in (num_items, num_items + 1)
    if of_items and table.dtype not in (torch.float32, torch.bfloat16):
        narrowed = "export a float32 bundle, or " if table.dtype == torch.int8 else ""
        raise ConfigError(
            f"this model keeps {name} of items as {table.dtype}, of which there is no mean, so "
            f"none can be added like others; {narrowed}train (solve) it again with the item in its "
            "catalog"
        )


def with_mean_of_neighbours(
    starts: Tensor, neighbours: Tensor, weights: Tensor, like: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """A sparse table between items, as of `NeighbourScores`, with one more item on both sides.

    It says of others the mean of what those of `like` say, and others say of it the mean of what
    they say of those; of itself, the mean of what those say of themselves.

    Example:
        >>> starts, neighbours = torch.tensor([0, 1, 3]), torch.tensor([1, 0, 1])
        >>> with_mean_of_neighbours(starts, neighbours, torch.tensor([4.0, 6.0, 8.0]), [0])[1:]
        (tensor([1, 0, 1, 2, 1, 2], dtype=torch.int32), tensor([4., 6., 8., 6., 4., 0.]))
    """
    num_items = len(starts) - 1
    places = neighbours.numpy(), starts.numpy()
    table = sparse.csr_array((weights.numpy(), *places), shape=(num_items, num_items))
    row = table[[*like]].mean(0)
    column = table[:, [*like]].mean(1)
    itself = table.diagonal()[[*like]].mean()
    told, telling = np.flatnonzero(row), np.flatnonzero(column)
    pairs = table.tocoo()
    more = sparse.csr_array(
        (
            np.concatenate([pairs.data, row[told], column[telling], [itself]]),
            (
                np.concatenate([pairs.row, np.full(len(told), num_items), telling, [num_items]]),
                np.concatenate([pairs.col, told, np.full(len(telling), num_items), [num_items]]),
            ),
        ),
        shape=(num_items + 1, num_items + 1),
    )
    return (
        torch.from_numpy(more.indptr.astype(np.int64)),
        torch.from_numpy(more.indices.astype(np.int32)),
        torch.from_numpy(more.data.astype(np.float32)),
    )


def with_mean(table: Tensor, num_items: int, like: Sequence[int]) -> Tensor:
    """The table with one more item along each dimension that has one of each.

    Example:
        >>> with_mean(torch.tensor([[1.0], [2.0], [4.0]]), 3, [0, 1]).tolist()
        [[1.0], [2.0], [4.0], [1.5]]
    """
    square = list(table.shape) == [num_items, num_items]
    for dim in range(table.dim()):
        if table.shape[dim] == num_items:
            chosen = table.index_select(dim, torch.tensor(like))
            table = torch.cat([table, chosen.mean(dim, keepdim=True)], dim)
    if square:
        table[-1, -1] = 0.0  # what an item says of itself is not known from others
    return table
