"""The served module without branches on data, which `torch.export` can follow.

The same checks, the same encoder and the same ranking as `served.py`. Every size is that of an
input: pairs to leave out are not cut into blocks but written into a column that nobody reads.

Shapes (legend in deeprec/batch.py): P pairs of user and item; A allowed pairs.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic

from deeprec.batch import Encoded
from deeprec.model.base import Recommender
from deeprec.model.topk import block_scores, keys_of, lists, no_key, no_keys

Rule = tuple[Tensor, str]  # bool [], whether it holds, and what it is
UNKNOWN = -1.0  # age of an event
BLOCK_ITEMS = 65_536  # each block is a piece of the program; 64 MiB of scores for 256 users


class Exported(nn.Module):
    """Histories in, best items out; the program of a bundle's model.pt2.

    Args:
        model: the trained recommender.
        fields: user attribute name -> number of its values, in the order the model takes them.
        retired: indices of items that are never answered.
        block_items: items scored at once.
    """

    retired_V: Tensor

    def __init__(
        self,
        model: Recommender,
        *,
        fields: Mapping[str, int],
        retired: Sequence[int] = (),
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__()
        self.encoder = model.serving_encoder()
        self.item_weight, self.item_bias = model.item_weight, model.item_bias
        self.num_items, self.block_items = model.item_weight.shape[0], block_items
        self.fields, self.has_retired = dict(fields), bool(retired)
        retired_V = torch.zeros(self.num_items if retired else 0, dtype=torch.bool)
        retired_V[list(retired)] = True
        self.register_buffer("retired_V", retired_V)

    def forward(
        self,
        item_ids: Tensor,
        offsets: Tensor,
        ages: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
        k: int,
        exclude_seen: Tensor,
        denied_items: Tensor,
        denied_offsets: Tensor,
        only_allowed: Tensor,
        allowed_items: Tensor,
        allowed_offsets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The k best items of each user; see `Served.forward`, from which it differs so.

        Args:
            ages: one for each event; -1 where its time is unknown.
            exclude_seen: bool [].
            only_allowed: bool [], whether the allowed items are the only ones; else they are not
                read.
            allowed_offsets: int64 [B + 1].
        """
        rules = [
            *rows_are_sound("item_ids", item_ids, offsets, self.num_items),
            *rows_are_sound("denied_items", denied_items, denied_offsets, self.num_items),
            *rows_are_sound("allowed_items", allowed_items, allowed_offsets, self.num_items),
        ]
        for name, values, ends in zip(
            self.fields, attribute_values, attribute_offsets, strict=True
        ):
            rules += rows_are_sound(f"attribute {name}", values, ends, self.fields[name])
        sound = torch.isfinite(ages) & ((ages >= 0) | (ages == UNKNOWN))
        rules.append((sound.all(), "ages must be finite and at least 0 days, or -1: unknown"))
        offsets = self.held_to(rules, offsets)
        encoded = self.encoder(item_ids, offsets, ages, attribute_values, attribute_offsets)
        # a pair that does not count is one of an item that no block has
        nowhere = self.num_items
        seen_N = torch.where(exclude_seen, item_ids, nowhere)
        excluded = owners(offsets, item_ids), seen_N
        denied = owners(denied_offsets, denied_items), denied_items
        allowed = owners(allowed_offsets, allowed_items), allowed_items
        return self.rank(encoded, k, [excluded, denied], allowed, only_allowed)

    def held_to(self, rules: Sequence[Rule], passed: Tensor) -> Tensor:
        """Gives back `passed`, or fails at the first rule that is broken."""
        for holds, message in rules:
            torch._assert_async(holds, message)
        return passed

    def rank(
        self,
        encoded: Encoded,
        k: int,
        excluded: list[tuple[Tensor, Tensor]],
        allowed: tuple[Tensor, Tensor],
        only_allowed: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `top_k`; every score becomes a key."""
        best_BK = no_keys(encoded.hidden_BD.shape[0], k, encoded.hidden_BD)
        for start in range(0, self.num_items, self.block_items):
            stop = min(start + self.block_items, self.num_items)
            scores_BC1 = self.with_repeats(encoded, start, stop)
            numbers_BC = scores_BC1[:, : stop - start]
            torch._assert_async(torch.isnan(numbers_BC).any().logical_not(), "a score is NaN")
            out_BC1 = self.left_out(scores_BC1, excluded, allowed, only_allowed, start, stop)
            items_C = torch.arange(start, stop, device=scores_BC1.device)
            keys_BC = keys_of(numbers_BC, items_C)
            dropped_BC = out_BC1[:, : stop - start] | (numbers_BC == float("-inf"))
            keys_BC = keys_BC.masked_fill(dropped_BC, no_key())
            best_BK = torch.topk(torch.cat([best_BK, keys_BC], 1), k, dim=1)[0]
        return lists(best_BK)

    def with_repeats(self, encoded: Encoded, start: int, stop: int) -> Tensor:
        """Float32 [B, C + 1]: scores of a block, and a column for what belongs to no item of it."""
        weight_CD, bias_C = self.item_weight[start:stop], self.item_bias[start:stop]
        scores_BC = block_scores(encoded.hidden_BD, weight_CD, bias_C, start)
        users_M = owners(encoded.repeat_offsets_B1, encoded.repeat_items_M)
        at = users_M, column(encoded.repeat_items_M, start, stop)
        return torch.nn.functional.pad(scores_BC, (0, 1)).index_put(at, encoded.repeat_scores_M)

    def left_out(
        self,
        scores_BC1: Tensor,
        excluded: list[tuple[Tensor, Tensor]],
        allowed: tuple[Tensor, Tensor],
        only_allowed: Tensor,
        start: int,
        stop: int,
    ) -> Tensor:
        """Bool [B, C + 1]: what of a block may not be answered; its last column says nothing."""
        yes = torch.tensor(True)
        out_BC1 = torch.zeros_like(scores_BC1, dtype=torch.bool)
        out_BC1 = out_BC1.index_put((allowed[0], column(allowed[1], start, stop)), yes)
        out_BC1 = only_allowed & out_BC1.logical_not()
        for users_P, items_P in excluded:
            out_BC1 = out_BC1.index_put((users_P, column(items_P, start, stop)), yes)
        if self.has_retired:
            out_BC1 = out_BC1 | torch.nn.functional.pad(self.retired_V[start:stop], (0, 1))
        return out_BC1


def owners(offsets_B1: Tensor, values_P: Tensor) -> Tensor:
    """int64 [P]: the user of each value."""
    users = torch.arange(offsets_B1.shape[0] - 1, device=values_P.device)
    return users.repeat_interleave(offsets_B1.diff(), output_size=values_P.shape[0])


def column(items_P: Tensor, start: int, stop: int) -> Tensor:
    """Where items stand in a block; after its last column, where they do not."""
    inside_P = (items_P >= start) & (items_P < stop)
    return torch.where(inside_P, items_P - start, stop - start)


def rows_are_sound(name: str, values: Tensor, offsets: Tensor, size: int) -> list[Rule]:
    """`values` are indices in [0, size), and `offsets` says which are whose."""
    are_offsets = (offsets[0] == 0) & (offsets[-1] == values.shape[0])
    inside = (values >= 0) & (values < size)
    return [
        (
            are_offsets & (offsets.diff() >= 0).all(),
            f"the offsets of {name} must start at 0, never fall, and end at the number of values",
        ),
        (inside.all(), f"{name} must lie in [0, {size})"),
    ]


def to_program(module: Exported) -> ExportedProgram:
    """The program of a module, for any number of users, events and values, and any k.

    Raises:
        RuntimeError: `torch.export` cannot follow the model; the message says where.
    """
    with (
        torch.no_grad(),
        # without, a dimension that is 0 or 1 would be taken for one that always is
        symbolic.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]  # torch sets it
        quiet(),
    ):
        program = torch.export.export(
            module, example(module.fields), dynamic_shapes=_shapes(len(module.fields))
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the files of this machine
    return program


def example(fields: Mapping[str, int]) -> tuple[Any, ...]:
    """Arguments of three users, whose sizes differ, so that none is taken for another."""
    ends = torch.tensor([0, 1, 3, 5]), torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 3, 6])
    nothing = [torch.zeros(n, dtype=torch.int64) for n in (5, 2, 6)]
    values = [torch.zeros(7 + n, dtype=torch.int64) for n in range(len(fields))]
    value_ends = [torch.tensor([0, 3, 4, 7 + n]) for n in range(len(fields))]
    # two tensors, for one tensor given twice becomes one argument
    seen, only = torch.tensor(True), torch.tensor(True)
    history = nothing[0], ends[0], torch.zeros(5), values, value_ends, 4, seen
    return (*history, nothing[1], ends[1], only, nothing[2], ends[2])


def _shapes(num_fields: int) -> tuple[Any, ...]:
    """What of the arguments may have any size."""
    open_ended = {0: Dim.DYNAMIC}
    per_field: Sequence[Any] = [open_ended] * num_fields
    history = open_ended, open_ended, open_ended, per_field, per_field, Dim.DYNAMIC, None
    return (*history, open_ended, open_ended, None, open_ended, open_ended)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps torch from printing programs, and what it thinks of their symbols."""
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()):  # where it prints a program that it cannot follow
            yield
    finally:
        logging.disable(logging.NOTSET)
