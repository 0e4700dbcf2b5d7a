"""The served module as ONNX: the same checks, encoder and ranking, in operations that ONNX has.

ONNX has no assertion. A broken rule leads to an index that is not there, which every runtime
refuses, and the index is the number of the rule: "idx=2 must be within ...". It has no order of
bits either, so scores are ranked as they are: its TopK puts the lower index first where they tie.

Shapes (legend in deeprec/batch.py): P places, one for each pair of a user and a value; S sorted
numbers; Q asked ones.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnxscript import opset20 as op
from torch import Tensor
from torch.export import ExportedProgram

from deeprec.batch import Encoded
from deeprec.model.base import Recommender
from deeprec.model.exported import BLOCK_ITEMS, Exported, Rule, example, quiet, to_program

LARGEST_SORTED = 2**24  # numbers in which one is looked for by halving: a call's events
OUTPUTS = ("items", "scores")
Value = Any  # of a graph that onnxscript builds; its types are not told


class InOnnx(Exported):
    """As `Exported`, with what ONNX lacks said otherwise.

    Args:
        model: the trained recommender.
        fields: user attribute name -> number of its values, in the order the model takes them.
        retired: indices of items that are never answered.
        block_items: items scored at once.
    """

    no_rule: Tensor

    def __init__(
        self,
        model: Recommender,
        *,
        fields: Mapping[str, int],
        retired: Sequence[int] = (),
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__(model, fields=fields, retired=retired, block_items=block_items)
        self.register_buffer("no_rule", torch.zeros(1, dtype=torch.int64))
        self.rules: list[str] = []  # by number, from 1; known once the module was called

    def held_to(self, rules: Sequence[Rule], passed: Tensor) -> Tensor:
        """`passed`, which cannot be computed where a rule is broken."""
        self.rules = [message for _, message in rules] + ["a score is NaN"]
        none = len(rules) + 1
        numbers = [torch.where(holds, none, number) for number, (holds, _) in enumerate(rules, 1)]
        first = torch.stack(numbers).amin(0)
        return passed + self.no_rule[torch.where(first == none, 0, first)]

    def rank(
        self,
        encoded: Encoded,
        k: int,
        excluded: list[tuple[Tensor, Tensor]],
        allowed: tuple[Tensor, Tensor],
        only_allowed: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `top_k`; of equal scores the one that stands first is the one of the lower item."""
        num_users = encoded.hidden_BD.shape[0]
        scores_BK = torch.full([num_users, k], float("-inf"))
        items_BK = torch.full([num_users, k], -1)
        are_numbers = torch.tensor(True)
        for start in range(0, self.num_items, self.block_items):
            stop = min(start + self.block_items, self.num_items)
            scores_BC1 = self.with_repeats(encoded, start, stop)
            are_numbers = are_numbers & torch.isnan(scores_BC1).logical_not().all()
            out_BC1 = self.left_out(scores_BC1, excluded, allowed, only_allowed, start, stop)
            scores_BC = scores_BC1.masked_fill(out_BC1, float("-inf"))[:, : stop - start]
            items_BC = torch.arange(start, stop).expand(num_users, stop - start)
            scores_BK, place_BK = torch.topk(torch.cat([scores_BK, scores_BC], 1), k, dim=1)
            items_BK = torch.cat([items_BK, items_BC], 1).gather(1, place_BK)
        items_BK = items_BK.masked_fill(scores_BK == float("-inf"), -1)
        return items_BK + self.no_rule[torch.where(are_numbers, 0, len(self.rules))], scores_BK


def names_of(fields: Sequence[str]) -> list[str]:
    """The inputs of a model in ONNX, in order."""
    values = [f"attribute_values_{n}" for n in range(len(fields))]
    ends = [f"attribute_offsets_{n}" for n in range(len(fields))]
    history = ["item_ids", "offsets", "ages", *values, *ends, "k", "exclude_seen"]
    denied = ["denied_items", "denied_offsets"]
    return [*history, *denied, "only_allowed", "allowed_items", "allowed_offsets"]


def to_onnx(
    model: Recommender, fields: Mapping[str, int], retired: Sequence[int] = ()
) -> tuple[onnx.ModelProto, list[str]]:
    """The model in ONNX, and the rules that it checks, by number from 1.

    Raises:
        RuntimeError: `torch.export` cannot follow the model, or ONNX lacks an operation of it.
    """
    module = InOnnx(model, fields=fields, retired=retired).eval()
    made = translated(to_program(module), names_of(list(fields)))
    with torch.no_grad():
        module(*example(fields))  # for its rules: torch.export leaves nothing behind
    return without_places(made), module.rules


def translated(program: ExportedProgram, inputs: Sequence[str]) -> onnx.ModelProto:
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch thinks of its own exporter
        made = torch.onnx.export(
            program,
            input_names=inputs,
            output_names=OUTPUTS,
            dynamo=True,
            optimize=False,  # a runtime does it again when it loads, for its own machine
            verbose=False,
            custom_translation_table=TRANSLATIONS,
        )
    assert made is not None
    return made.model_proto


def without_places(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model but for what names files of this machine, and for guesses at inner shapes."""
    _strip(model.graph)
    return model


def _strip(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    del graph.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)


def ints(*numbers: int) -> Value:
    return op.Constant(value_ints=numbers)


def zero() -> Value:
    return op.Constant(value_int=0)


def searchsorted(
    sorted_S: Value,
    asked_Q: Value,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value = None,
) -> Value:
    """int64 [Q]: how many of the sorted numbers come before each asked one, by halving."""
    if out_int32 or sorter is not None:
        raise NotImplementedError("searchsorted with out_int32 or sorter")
    size, padded_S1 = op.Shape(sorted_S), op.Pad(sorted_S, ints(0, 1))
    num_before_Q, step = op.Expand(ints(0), op.Shape(asked_Q)), LARGEST_SORTED
    comes_before = op.LessOrEqual if right or side == "right" else op.Less
    while step:
        more_Q = op.Add(num_before_Q, ints(step))
        at_Q = op.Gather(padded_S1, op.Sub(op.Min(more_Q, op.Add(size, ints(1))), ints(1)))
        is_before = op.And(op.LessOrEqual(more_Q, size), comes_before(at_Q, asked_Q))
        num_before_Q = op.Where(is_before, more_Q, num_before_Q)
        step //= 2
    return num_before_Q


def bucketize(
    asked_Q: Value, sorted_S: Value, *, out_int32: bool = False, right: bool = False
) -> Value:
    return searchsorted(sorted_S, asked_Q, out_int32=out_int32, right=right)


def sort(numbers: Value, *, stable: bool = True, dim: int = -1, descending: bool = False) -> Value:
    """Sorted numbers and where they stood; TopK keeps the order of equals."""
    size = op.Shape(numbers, start=dim, end=dim + 1 if dim != -1 else None)
    return op.TopK(numbers, size, axis=dim, largest=int(descending), sorted=1)


def owners_of(ends_B: Value, total: Value) -> Value:
    """int64 [P]: how many users end at or before each place."""
    zeros_P1, ones_B = (
        op.Expand(ints(0), op.Add(total, ints(1))),
        op.Expand(ints(1), op.Shape(ends_B)),
    )
    ended_P1 = op.ScatterND(zeros_P1, op.Unsqueeze(ends_B, ints(1)), ones_B, reduction="add")
    return op.Slice(op.CumSum(ended_P1, zero()), ints(0), total)


def repeat_interleave(lengths_B: Value, output_size: Value = None) -> Value:
    """int64 [P]: each place's user."""
    ends_B = op.CumSum(lengths_B, zero())
    return owners_of(ends_B, op.ReduceSum(lengths_B, ints(0)))


def embedding_bag(
    table_VD: Value,
    values_P: Value,
    offsets_B1: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    weights_P: Value = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Value, ...]:
    """float32 [B, D]: rows of the table summed, and three things that nobody reads."""
    if mode != 0 or not include_last_offset or padding_idx not in (None, -1):
        raise NotImplementedError("embedding_bag other than a sum with last offset")
    rows_PD = op.Gather(table_VD, values_P)
    if weights_P is not None:
        rows_PD = op.Mul(rows_PD, op.Unsqueeze(weights_P, ints(1)))
    owners_P = owners_of(op.Slice(offsets_B1, ints(1), ints(2**62)), op.Shape(values_P))
    num_users = op.Sub(op.Shape(offsets_B1), ints(1))
    shape = op.Concat(num_users, op.Shape(table_VD, start=1), axis=0)
    nought: Value = op.Constant(value_floats=[0.0])
    zeros_BD = op.Expand(nought, shape)
    sums_BD = op.ScatterND(zeros_BD, op.Unsqueeze(owners_P, ints(1)), rows_PD, reduction="add")
    return sums_BD, ints(0), ints(0), ints(0)


def products_of_pairs(
    rows_BD: Value,
    table_VD: Value,
    values_P: Value,
    offsets_B1: Value,
    owners_P: Value,
    mode: int,
    padding_idx: int | None = None,
) -> Value:
    """float32 [P]: see `pair_products`."""
    of_users_PD, of_items_PD = op.Gather(rows_BD, owners_P), op.Gather(table_VD, values_P)
    return op.ReduceSum(op.Mul(of_users_PD, of_items_PD), ints(1), keepdims=0)


def log1p(numbers: Value) -> Value:
    """log(1 + x), of whose x as small as what has faded 1 + x would keep nothing.

    Reference:
        Kahan: x log(u) / (u - 1), u = 1 + x as it is rounded; x where that is 1.
    """
    one: Value = op.Constant(value_float=1.0)
    one = op.CastLike(one, numbers)
    more = op.Add(numbers, one)
    kept = op.Sub(more, one)
    nothing_kept = op.Equal(more, one)
    share = op.Div(op.Log(more), op.Where(nothing_kept, one, kept))
    return op.Where(nothing_kept, numbers, op.Mul(numbers, share))


ATEN = torch.ops.aten
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    ATEN.searchsorted.Tensor: searchsorted,
    ATEN.bucketize.Tensor: bucketize,
    ATEN.repeat_interleave.Tensor: repeat_interleave,
    ATEN.sort.stable: sort,
    ATEN.embedding_bag.padding_idx: embedding_bag,
    ATEN._embedding_bag.default: embedding_bag,
    ATEN._embedding_bag_per_sample_weights_backward.default: products_of_pairs,
    ATEN.log1p.default: log1p,
}
