"""Item ids and item indices; the only place where one becomes the other."""

from collections.abc import Sequence
from functools import cached_property

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
        """int64 [N]: the index of each id, -1 for an id that is not in the catalog.

        Few ids are looked for by halving, in catalogs that are in order: to hash a catalog of
        millions takes seconds.
        """
        wanted = pa.array(item_ids, pa.large_string())
        if len(wanted) * len(self).bit_length() < len(self) and self._is_sorted:
            return self._by_halving(wanted)
        found = pc.index_in(wanted, value_set=self.item_ids)
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64)

    @cached_property
    def _is_sorted(self) -> bool:
        """Whether the ids ascend in the order of their UTF-8 bytes, as in a prepared folder."""
        rising = pc.less(self.item_ids.slice(0, len(self) - 1), self.item_ids.slice(1))
        return bool(pc.all(rising).as_py())

    def _by_halving(self, wanted: pa.Array) -> npt.NDArray[np.int64]:
        """As `indices_of`, all ids at once: O(N log V)."""
        place = np.zeros(len(wanted), np.int64)  # how many ids of the catalog come before, so far
        step = 1 << len(self).bit_length()
        while step := step >> 1:
            further = place + step
            last = self._take(further.clip(max=len(self)) - 1)
            below = (further <= len(self)) & _true(pc.less(last, wanted))
            place = np.where(below, further, place)
        here = place.clip(max=len(self) - 1)
        return np.where(_true(pc.equal(self._take(here), wanted)), here, -1)

    def _take(self, indices: npt.NDArray[np.int64]) -> pa.Array:
        return self.item_ids.take(pa.array(indices))

    def ids_of(self, item_indices: npt.ArrayLike) -> list[str]:
        """The id of each index in [0, V)."""
        indices = pa.array(np.asarray(item_indices, np.int64))
        ids: list[str] = self.item_ids.take(indices).to_pylist()
        return ids

    def as_numbers(self) -> npt.NDArray[np.int64] | None:
        """int64 [V]: the ids, where every one is a whole number as it is written; else None.

        Example:
            >>> Catalog(["40", "-7"]).as_numbers().tolist(), Catalog(["40", "007"]).as_numbers()
            ([40, -7], None)
        """
        try:
            numbers = self.item_ids.cast(pa.int64())
        except pa.ArrowInvalid:
            return None
        written = pc.equal(numbers.cast(pa.large_string()), self.item_ids)
        return np.asarray(numbers) if pc.all(written).as_py() else None


def _true(found: pa.BooleanArray) -> npt.NDArray[np.bool_]:
    """False where there was no id to compare with."""
    true: npt.NDArray[np.bool_] = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return true
