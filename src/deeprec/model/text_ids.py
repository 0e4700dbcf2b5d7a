"""Item ids that are text, to item indices and back: a bundle's ids.pt.

Scriptable, of operations of torch alone; for a caller that holds strings and reads no Parquet.
Shapes as in deeprec/batch.py.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from deeprec.batch import check_ends, offsets_of_kept


class TextIds(nn.Module):
    """Ids as text to item indices and back, by a dictionary.

    Args:
        item_ids: the id of each item in index order, distinct.

    Example:
        >>> ids = TextIds(["tea", "cup"])
        >>> items, offsets, known = ids(["cup", "gone", "tea"], torch.tensor([0, 2, 3]))
        >>> items.tolist(), offsets.tolist(), known.tolist()
        ([1, 0], [0, 1, 2], [True, False, True])
        >>> ids.of(torch.tensor([[1, -1]]))
        [['cup', '']]
    """

    item_ids: list[str]
    indices: dict[str, int]

    def __init__(self, item_ids: Iterable[str]) -> None:
        super().__init__()
        self.item_ids = list(item_ids)
        self.indices = {item_id: index for index, item_id in enumerate(self.item_ids)}

    def forward(self, item_ids: list[str], offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Jagged ids as jagged items, unknown ones left out.

        Args:
            item_ids: ids, user after user.
            offsets: int64 [B + 1], user b owns `item_ids[offsets[b]:offsets[b + 1]]`.

        Returns:
            int64 [M] item indices; int64 [B + 1] their offsets; bool [N], which ids are known: the
            ages of the others are to be left out too.

        Raises:
            ValueError: the offsets break their rule (`torch.jit.Error` once scripted).
        """
        if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.numel() == 0:
            raise ValueError("offsets must be int64 in one dimension, users + 1 entries")
        check_ends("item_ids", len(item_ids), "offsets", offsets)
        found = [self.indices.get(item_id, -1) for item_id in item_ids]
        items_N = torch.tensor(found, dtype=torch.int64)
        known_N = items_N >= 0
        return items_N[known_N], offsets_of_kept(known_N, offsets), known_N

    @torch.jit.export
    def of(self, items: Tensor) -> list[list[str]]:
        """The ids of int64 [B, K] items, the empty text for item -1.

        Raises:
            ValueError: an item is not of this catalog (`torch.jit.Error` once scripted).
        """
        if items.dtype != torch.int64 or items.dim() != 2:
            raise ValueError("items must be int64 in two dimensions, users and places")
        rows: list[list[str]] = []
        for row in range(items.shape[0]):
            names: list[str] = []
            for place in range(items.shape[1]):
                item = int(items[row, place])
                if item < -1 or item >= len(self.item_ids):
                    raise ValueError(f"items must lie in [-1, {len(self.item_ids)}), got {item}")
                names.append(self.item_ids[item] if item >= 0 else "")
            rows.append(names)
        return rows
