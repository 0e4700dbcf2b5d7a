"""The values of a user attribute as rows of a table: the known ones, or all there can ever be.

vocabularies.json holds a list of values in index order, or {"hashed": rows} for an open vocabulary:
there each value has the row that its hash says, one never seen in training included, and values may
share a row.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from deeprec.batch import Jagged
from deeprec.catalog import Catalog
from deeprec.serve import hash_row

Stored = Sequence[str] | Mapping[str, int]  # as vocabularies.json has it


class Hashed:
    """Every string there can be, in so many rows.

    Example:
        >>> towns = Hashed(1000)
        >>> towns.indices_of(["Pécs", None, "a town nobody ever saw"]).tolist()
        [655, -1, 353]
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def indices_of(self, values: pa.Array | Sequence[str | None]) -> npt.NDArray[np.int64]:
        """int64 [N]: the row of each value, -1 for null."""
        encoded = pa.array(values, pa.large_string()).dictionary_encode()
        rows = [hash_row(value, self.rows) for value in encoded.dictionary.to_pylist()]
        place = np.asarray(pc.fill_null(encoded.indices, len(rows)))
        indices: npt.NDArray[np.int64] = np.array([*rows, -1], np.int64)[place]
        return indices


Vocabulary = Catalog | Hashed


def vocabulary_of(stored: Stored) -> Vocabulary:
    """What vocabularies.json says of one attribute."""
    return Hashed(stored["hashed"]) if isinstance(stored, Mapping) else Catalog(stored)


def rows_of(values: pa.Array | pa.ChunkedArray, vocabulary: Vocabulary) -> Jagged:
    """Each user's value as the index that it has; who has none, or one not known, owns none.

    Of a column of lists a user owns the indices of its values, each once, ascending.

    Example:
        >>> rows_of(pa.array([["b", "a", "b"], None, ["c", "a"]]), Catalog(["a", "b"]))
        Jagged(values=tensor([0, 1, 0]), offsets=tensor([0, 2, 2, 3]), weights=None)
    """
    lengths, flat = flattened(values)
    indices = vocabulary.indices_of(flat)
    users, known = np.repeat(np.arange(len(lengths)), lengths), indices >= 0
    size = max(len(vocabulary), 1)
    pairs = np.unique(users[known] * size + indices[known])
    counts = np.bincount(pairs // size, minlength=len(lengths))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Jagged(torch.from_numpy(pairs % size), torch.from_numpy(offsets))


def flattened(
    values: pa.Array | pa.ChunkedArray,
) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """How many values each user has, and all of them; a null is one value where it is no list."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not holds_lists(values.type):
        return np.ones(len(values), np.int64), values
    lengths = pc.fill_null(pc.list_value_length(values), 0)
    return np.asarray(lengths).astype(np.int64), values.flatten()


def holds_lists(kind: pa.DataType) -> bool:
    """Whether a column of this type may have several values a user."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
