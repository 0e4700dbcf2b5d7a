"""The parameters of a model by how they are trained.

input tables     only the rows that a batch touched, in backward (model/sparse_input.py)
catalog table    item_weight: rows change where a loss finds their gradient, block by block
a tied table, which the input reads too, changes at the step instead
per-item numbers item_bias and its like, one float an item: likewise
layers           everything else
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from deeprec.model.sparse_input import SparseInput

# by name: a layer may have as many units, and so biases, as there are items
PER_ITEM = ("item_bias", "reconstruction_bias")


@dataclass
class Kinds:
    """The parameters of a model by how they are trained."""

    inputs: list[SparseInput] = field(default_factory=list)
    catalog: list[nn.Parameter] = field(default_factory=list)
    tied: bool = False  # the input reads the catalog table too
    row_length_V: Tensor | None = None  # which the rows of the catalog table keep; None: any
    per_item: list[nn.Parameter] = field(default_factory=list)
    scored: list[nn.Parameter] = field(default_factory=list)  # those that a loss is given
    layers: list[nn.Parameter] = field(default_factory=list)


def input_reads_catalog(model: object, *, tied: bool) -> bool:
    """Whether what a model says of a history comes of its catalog table.

    Args:
        model: or its class, where there is none yet.
        tied: whether its input tables are the catalog table, as `kinds_of` finds or a config says.
    """
    return tied or bool(getattr(model, "linear", False))


def kinds_of(model: nn.Module) -> Kinds:
    """Sorts every trainable parameter of the model into its kind."""
    inputs = [module for module in model.modules() if isinstance(module, SparseInput)]
    kinds = Kinds([one for one in inputs if one.tables], tied=any(one.borrowed for one in inputs))
    tables = {id(table) for inputs in kinds.inputs for table in inputs.tables.values()}
    catalog = model.item_weight
    assert isinstance(catalog, nn.Parameter)
    kinds.catalog.append(catalog)
    kinds.scored.append(catalog)
    kinds.row_length_V = getattr(model, "row_length_V", None)
    for name, parameter in model.named_parameters():
        if name in PER_ITEM:  # others are numbers that the model itself reads
            kinds.scored.append(parameter)
        if id(parameter) in tables or parameter is catalog or not parameter.requires_grad:
            continue
        per_item = name.rpartition(".")[2] in PER_ITEM
        (kinds.per_item if per_item else kinds.layers).append(parameter)
    return kinds
