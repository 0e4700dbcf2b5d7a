"""Item ids that are whole numbers, looked up inside the model: a caller needs no catalog.

Scriptable and of plain aten operations. Shapes as in deeprec/batch.py.
"""

import torch
from torch import Tensor, nn

from deeprec.batch import offsets_of_kept


class RawIds(nn.Module):
    """Raw ids to item indices and back, by halving.

    Args:
        ids_V: int64 [V], the id of each item in index order, distinct; [0] where ids are text.

    Example:
        >>> ids = RawIds(torch.tensor([40, -7, 12]))
        >>> items, offsets, known = ids(torch.tensor([12, 99, 40]), torch.tensor([0, 2, 3]))
        >>> items.tolist(), offsets.tolist(), known.tolist()
        ([2, 0], [0, 1, 2], [True, False, True])
        >>> ids.of(torch.tensor([1, -1])).tolist()
        [-7, -1]
    """

    ids_V: Tensor
    sorted_V: Tensor
    order_V: Tensor

    def __init__(self, ids_V: Tensor) -> None:
        super().__init__()
        sorted_V, order_V = torch.sort(ids_V)
        self.register_buffer("ids_V", ids_V)
        self.register_buffer("sorted_V", sorted_V)
        self.register_buffer("order_V", order_V)

    def forward(self, ids_N: Tensor, offsets_B1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Jagged ids as jagged items, unknown ones left out, and bool [N], which are known."""
        place_N = torch.searchsorted(self.sorted_V, ids_N).clamp(max=self.sorted_V.shape[0] - 1)
        known_N = self.sorted_V[place_N] == ids_N
        return self.order_V[place_N[known_N]], offsets_of_kept(known_N, offsets_B1), known_N

    def of(self, items_BK: Tensor) -> Tensor:
        """The ids of items, -1 for item -1."""
        return self.ids_V[items_BK.clamp(min=0)].masked_fill(items_BK < 0, -1)
