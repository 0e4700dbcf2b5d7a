"""The items of a catalog in blocks, each with what is asked about it.

Shapes (legend in deeprec/batch.py): P targets of the whole batch, M own-history items with a score.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeprec.batch import Asked, Encoded, Jagged, transposed
from deeprec.loss.block_size import fitting_block_items
from deeprec.table import OwnItems

Places = tuple[Tensor, Tensor]  # users and columns of some cells of a block, int64 each


class Cells(NamedTuple):
    """(user, item) pairs in the order of items, so that a block of items owns one slice."""

    items_P: Tensor  # int64 [P], ascending
    users_P: Tensor  # int64 [P]
    order_P: Tensor  # int64 [P], where each pair stood before
    bounds: list[int]  # block i owns [bounds[i], bounds[i + 1])

    def of_block(self, block: int, start: int) -> tuple[slice, Places]:
        """The slice of this block, and its places in the block's [B, C] scores."""
        here = slice(self.bounds[block], self.bounds[block + 1])
        items = self.items_P[here]
        return here, (self.users_P[here], items - start if start and len(items) else items)


def cells(rows: Jagged, items: slice, block_items: int) -> Cells:
    """The pairs of these items by block, items counted from the first of these.

    The bounds are found on the host, without waiting.
    """
    by_item = transposed(rows)
    edges = [*range(items.start, items.stop, block_items), items.stop]
    places = np.searchsorted(by_item.on_host, edges)
    here = slice(int(places[0]), int(places[-1]))
    bounds = (places - places[0]).tolist()
    items_P = by_item.values[here]
    if items.start:
        items_P = items_P - items.start
    return Cells(items_P, by_item.users[here], by_item.order[here], bounds)


class Block(NamedTuple):
    """Some items of the catalog, and what the batch says of them."""

    items: slice  # rows of the tables that are scored with
    targets: slice  # of Blocks.target and Blocks.weights_P
    places: Places  # of the targets
    repeats: slice  # of Blocks.repeat and Blocks.repeat_scores_M
    repeat_places: Places


class Blocks:
    """The catalog for one batch, a block at a time; whoever goes over it twice may score twice."""

    def __init__(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        asked: Asked,
        block_items: int | None,
        product_dtype: torch.dtype,
        own: OwnItems | None = None,
    ) -> None:
        self.product_dtype, self.own = product_dtype, own
        self.hidden_BD, self.narrow_BD = encoded.hidden_BD, encoded.hidden_BD.to(product_dtype)
        self.item_weight_VD, self.item_bias_V = item_weight_VD, item_bias_V
        num_users, device = len(self.hidden_BD), self.hidden_BD.device.type
        self.num_items = item_weight_VD.shape[0]
        items = slice(0, self.num_items) if own is None else own.items
        self.block_items = block_items or fitting_block_items(num_users, device)
        self.num_repeats = len(encoded.repeat_scores_M)
        self.repeat = cells(asked.repeats, items, self.block_items)
        self.repeat_scores_M = encoded.repeat_scores_M
        if self.num_repeats:
            self.repeat_scores_M = self.repeat_scores_M[self.repeat.order_P]
        self.target = cells(asked.target, items, self.block_items)
        weights_P = asked.target.weights
        if weights_P is None:
            weights_P = self.hidden_BD.new_ones(asked.target.values.shape)
        self.weights_P = weights_P.to(self.hidden_BD.dtype)[self.target.order_P]
        self._counted_P = _counted(asked.target)
        self._counted_M = _counted(asked.repeats)
        weights_B = asked.user_weights
        self.user_weights_B = None if weights_B is None else weights_B.to(self.hidden_BD.dtype)
        self._narrowed: tuple[slice, Tensor] | None = None

    def __len__(self) -> int:
        return -(-self.num_items // self.block_items)

    def __iter__(self) -> Iterator[Block]:
        for index, start in enumerate(range(0, self.num_items, self.block_items)):
            items = slice(start, min(start + self.block_items, self.num_items))
            targets, places = self.target.of_block(index, start)
            repeats, repeat_places = self.repeat.of_block(index, start)
            yield Block(items, targets, places, repeats, repeat_places)

    def scores(self, block: Block) -> Tensor:
        """Float [B, C] in the dtype of hidden, repeats in their places; yours to change."""
        bias_C = self.item_bias_V[block.items]
        if self.product_dtype == self.hidden_BD.dtype:
            scores_BC = torch.addmm(bias_C, self.hidden_BD, self.weight(block.items).T)
        else:
            scores_BC = (self.narrow_BD @ self.weight(block.items).T).to(self.hidden_BD.dtype)
            scores_BC += bias_C
        if block.repeats.stop > block.repeats.start:
            scores_BC[block.repeat_places] = self.repeat_scores_M[block.repeats].to(scores_BC.dtype)
        return scores_BC

    def counted(self, values_P: Tensor) -> Tensor:
        """Float [P]: these of the targets, 0 of what only fills up a padded batch."""
        return values_P if self._counted_P is None else values_P * self._counted_P

    def counted_repeats(self, values_M: Tensor) -> Tensor:
        """Float [M]: the same of the scores of own items."""
        return values_M if self._counted_M is None else values_M * self._counted_M

    def of_all(self, values_B: Tensor, together: Callable[[Tensor], Tensor]) -> Tensor:
        """Float [B]: what every process found of its items, together, where they share them.

        Args:
            together: of [processes, B].
        """
        return values_B if self.own is None else together(self.own.gather(values_B))

    def summed(self, values_BC: Tensor) -> Tensor:
        """Float []: the sum of these, each user's times its weight."""
        if self.user_weights_B is None:
            return values_BC.sum()
        return values_BC.sum(1) @ self.user_weights_B

    def weight(self, items: slice) -> Tensor:
        """[C, D] rows of the catalog table in the product dtype; the last ones are remembered."""
        if self.product_dtype == self.item_weight_VD.dtype:
            return self.item_weight_VD[items]
        if self._narrowed is None or self._narrowed[0] != items:
            self._narrowed = items, self.item_weight_VD[items].to(self.product_dtype)
        return self._narrowed[1]


def _counted(rows: Jagged) -> Tensor | None:
    return None if rows.by_item is None else rows.by_item.counted


def product_dtype(item_weight_VD: Tensor) -> torch.dtype:
    """That of autocast where it is on, else that of the table; float64 is never narrowed."""
    device = item_weight_VD.device.type
    if item_weight_VD.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return item_weight_VD.dtype
