"""Item ids and item indices; the only place where one becomes the other."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class Catalog:
    """Every item that may be recommended, in index order.

    Args:
        item_ids: string [V], distinct. What the world calls each item, exactly.

    Example:
        >>> catalog = Catalog(["007", "7", "bread"])
        >>> catalog.indices_of(["7", "milk", "007"]).tolist()
        [1, -1, 0]
        >>> catalog.ids_of([2, 0]), catalog.ids_of([])
        (['bread', '007'], [])
    """

    def __init__(self, item_ids: pa.Array | pa.ChunkedArray | Sequence[str]) -> None:
        if isinstance(item_ids, pa.ChunkedArray):
            item_ids = item_ids.combine_chunks()
        self.item_ids: pa.Array = pa.array(item_ids, pa.large_string())

    def __len__(self) -> int:
        return len(self.item_ids)

    def indices_of(self, item_ids: pa.Array | Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 [N]: the index of each id, -1 for an id that is not in the catalog."""
        found = pc.index_in(pa.array(item_ids, pa.large_string()), value_set=self.item_ids)
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64)

    def ids_of(self, item_indices: npt.ArrayLike) -> list[str]:
        """The id of each index in [0, V)."""
        indices = pa.array(np.asarray(item_indices, np.int64))
        ids: list[str] = self.item_ids.take(indices).to_pylist()
        return ids
