"""Data sets of DSSTNE in NetCDF-4: what `generateNetCDF` writes and `train` reads.

The file says how many `datasets` it has; of data set N there are

    nameN attributesN kindN dataTypeN dimensionsN widthN [heightN lengthN]
    sparse: sparseStartN sparseEndN (of each unique example) sparseIndexN [sparseDataN]
    dense: dataN
    both: [dataWeightN] of each unique example, [indexN] from examples to unique examples
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deeprec.dsstne.netcdf import Attributes, column, put, reading, size, writing
from deeprec.errors import DataError

if TYPE_CHECKING:
    from netCDF4 import Dataset

ALIGNED = 128  # widths are rounded up to a multiple of this
WIDEST = 2**31  # columns are items, which are numbered in 32 bits
EXTENTS = ("width", "height", "length")


class Attribute(IntFlag):
    """What a data set is; the numbers are those of the file."""

    SPARSE = 1
    BOOLEAN = 2
    COMPRESSED = 4
    RECURRENT = 8
    MUTABLE = 16
    SPARSE_IGNORE_ZERO = 32
    INDEXED = 64
    WEIGHTED = 128


class DataType(IntEnum):
    """Of values; the numbers are those of the file."""

    UINT = 0
    INT = 1
    LLINT = 2
    ULLINT = 3
    FLOAT = 4
    DOUBLE = 5
    RGB8 = 6
    RGB16 = 7
    UCHAR = 8
    CHAR = 9


NUMPY_TYPES = {
    DataType.UINT: np.uint32, DataType.INT: np.int32, DataType.LLINT: np.int64,
    DataType.ULLINT: np.uint64, DataType.FLOAT: np.float32, DataType.DOUBLE: np.float64,
    DataType.RGB8: np.uint8, DataType.RGB16: np.uint16, DataType.UCHAR: np.uint8,
    DataType.CHAR: np.int8,
}  # fmt: skip


@dataclass
class DataSet:
    """One data set of a file.

    Of a sparse one, unique example i has the columns `indices[starts[i]:ends[i]]`, with `values` of
    the same places if it is not Boolean. Of a dense one `values` holds the rows one after the
    other, or of a Boolean one the column of the single 1 of each row.
    """

    name: str
    attributes: Attribute
    data_type: DataType
    extents: tuple[int, ...]  # width, and height and length where there are so many dimensions
    starts: npt.NDArray[np.int64] | None = None  # [U]
    ends: npt.NDArray[np.int64] | None = None  # [U], exclusive
    indices: npt.NDArray[np.uint32] | None = None  # [N]
    values: npt.NDArray[Any] | None = None  # [N]; [U * width] or [U] where dense
    weights: npt.NDArray[np.float32] | None = None  # [U]
    index: npt.NDArray[np.uint32] | None = None  # [examples], the unique example of each
    kind: int = 0

    @property
    def width(self) -> int:
        """Columns, over all dimensions."""
        return math.prod(self.extents)

    @property
    def is_sparse(self) -> bool:
        return Attribute.SPARSE in self.attributes

    @property
    def num_unique(self) -> int:
        if self.starts is not None:
            return len(self.starts)
        assert self.values is not None
        rows = 1 if Attribute.BOOLEAN in self.attributes else self.width
        return len(self.values) // rows

    @property
    def num_examples(self) -> int:
        return self.num_unique if self.index is None else len(self.index)

    @property
    def example_weights(self) -> npt.NDArray[np.float32] | None:
        """float32 [E], of every example; None: all weigh 1."""
        if self.weights is None or self.index is None:
            return self.weights
        return self.weights[self.index]

    def rows(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Offsets int64 [E + 1], columns int64 and values float32 of every example.

        A dense data set gives its values that are not 0.

        Raises:
            DataError: a column is not within the width.
        """
        offsets, columns, values = self._unique_rows()
        wrong = columns[(columns < 0) | (columns >= self.width)]
        if len(wrong):
            raise DataError(
                f"data set {self.name!r}: a column must be below its width {self.width}, got "
                f"{wrong.max()}"
            )
        if self.index is None:
            return offsets, columns, values
        lengths = np.diff(offsets)[self.index]
        places = _ranges(offsets[:-1][self.index], lengths)
        return np.concatenate([[0], np.cumsum(lengths)]), columns[places], values[places]

    def _unique_rows(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self.starts is not None and self.ends is not None and self.indices is not None:
            lengths = self.ends - self.starts
            places = _ranges(self.starts, lengths)
            columns = self.indices[places].astype(np.int64)
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            if self.values is None:
                return offsets, columns, np.ones(len(columns), np.float32)
            return offsets, columns, self.scaled(self.values[places])
        assert self.values is not None
        if Attribute.BOOLEAN in self.attributes:
            columns = self.values.astype(np.int64)
            return np.arange(len(columns) + 1), columns, np.ones(len(columns), np.float32)
        dense = self.scaled(self.values).reshape(self.num_unique, self.width)
        rows, columns = np.nonzero(dense)
        counts = np.bincount(rows, minlength=self.num_unique)
        return np.concatenate([[0], np.cumsum(counts)]), columns, dense[rows, columns]

    def scaled(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Values as the network sees them: bytes in parts of 256, signed ones in parts of 128."""
        found = values.astype(np.float32)
        if self.data_type in (DataType.UCHAR, DataType.RGB8):
            return found / np.float32(256)
        return found / np.float32(128) if self.data_type == DataType.CHAR else found


def aligned(num_features: int) -> int:
    """The width that `generateNetCDF` gives so many features.

    Example:
        >>> aligned(26_744), aligned(128), aligned(0)
        (26752, 128, 0)
    """
    return -(-num_features // ALIGNED) * ALIGNED


def read_data_sets(path: Path) -> list[DataSet]:
    """All data sets of a file, in its order.

    Starts and ends may be of 32 or 64 bits, the number of unique examples may be missing, and the
    attribute `dataType` may be spelt as DSSTNE's own writer spells it, which its reader refuses.

    Raises:
        ConfigError: netCDF4 is not installed.
        DataError: it is no such file, or it contradicts itself.
    """
    with reading(path) as (file, told):
        return [_read(file, told, path, number) for number in range(told.whole("datasets"))]


def read_names(path: Path) -> list[str]:
    """The names of the data sets of a file, in its order.

    Raises:
        ConfigError: netCDF4 is not installed.
        DataError: it is no such file.
    """
    with reading(path) as (_, told):
        return [told.text(f"name{number}") for number in range(told.whole("datasets"))]


def write_data_sets(path: Path, data_sets: Sequence[DataSet]) -> None:
    """Writes a file that DSSTNE reads."""
    with writing(path) as file:
        file.setncattr("datasets", np.uint32(len(data_sets)))
        for number, data_set in enumerate(data_sets):
            _write(file, data_set, number)


def sparse(
    name: str,
    width: int,
    rows: Sequence[Sequence[int]],
    values: Sequence[Sequence[float]] | None = None,
) -> DataSet:
    """A sparse data set of these rows: indicators, or analog where there are values."""
    lengths = np.array([len(row) for row in rows], np.int64)
    ends = np.cumsum(lengths)
    columns = np.fromiter((one for row in rows for one in row), np.uint32, int(lengths.sum()))
    attributes, data_type, flat = Attribute.SPARSE | Attribute.BOOLEAN, DataType.UINT, None
    if values is not None:
        attributes, data_type = Attribute.SPARSE, DataType.FLOAT
        flat = np.fromiter((one for row in values for one in row), np.float32, len(columns))
    return DataSet(name, attributes, data_type, (width,), ends - lengths, ends, columns, flat)


def _read(file: "Dataset", told: Attributes, path: Path, n: int) -> DataSet:
    attributes = Attribute(told.whole(f"attributes{n}"))
    spelt = f"dataType{n}" if f"dataType{n}" in told else f"datatype{n}"
    dimensions = told.whole(f"dimensions{n}")
    if dimensions not in (1, 2, 3):
        raise DataError(f"{path}: dimensions{n} must be 1, 2 or 3, got {dimensions}")
    data_set = DataSet(
        name=told.text(f"name{n}"),
        attributes=attributes,
        data_type=told.one_of(DataType, spelt),
        extents=tuple(_extent(told, f"{extent}{n}") for extent in EXTENTS[:dimensions]),
        kind=told.whole(f"kind{n}", 0),
    )
    if data_set.is_sparse:
        data_set.starts = column(file, path, f"sparseStart{n}").astype(np.int64)
        data_set.ends = column(file, path, f"sparseEnd{n}").astype(np.int64)
        data_set.indices = column(file, path, f"sparseIndex{n}").astype(np.uint32)
        if Attribute.BOOLEAN not in attributes:
            data_set.values = column(file, path, f"sparseData{n}")
    else:
        data_set.values = column(file, path, f"data{n}")
    if Attribute.WEIGHTED in attributes:
        data_set.weights = column(file, path, f"dataWeight{n}").astype(np.float32)
    if Attribute.INDEXED in attributes:
        data_set.index = column(file, path, f"index{n}").astype(np.uint32)
    _check_lengths(data_set, path)
    _check(data_set, path, size(file, path, f"examplesDim{n}"))
    return data_set


def _extent(told: Attributes, name: str) -> int:
    found = told.whole(name)
    if not 0 <= found < WIDEST:
        raise DataError(f"{told.path}: {name} must be 0 or more and below {WIDEST}, got {found}")
    return found


def _check_lengths(data_set: DataSet, path: Path) -> None:
    """What stands beside each other is of one length, and dense rows are whole."""
    where = f"{path}: data set {data_set.name!r}"
    if data_set.width >= WIDEST:
        raise DataError(f"{where}: its width must be below {WIDEST}, got {data_set.width}")
    starts, ends, values = data_set.starts, data_set.ends, data_set.values
    if starts is not None and ends is not None and data_set.indices is not None:
        _check_same(where, starts=len(starts), ends=len(ends))
        if values is not None:
            _check_same(where, indices=len(data_set.indices), values=len(values))
    elif values is not None and Attribute.BOOLEAN not in data_set.attributes:
        width = data_set.width
        if width == 0 or len(values) % width:
            raise DataError(f"{where}: {len(values)} numbers are no rows of its width {width}")
    if data_set.weights is not None:
        _check_same(where, examples=data_set.num_unique, weights=len(data_set.weights))


def _check_same(where: str, **lengths: int) -> None:
    (one, length), (other, found) = lengths.items()
    if length != found:
        raise DataError(f"{where}: {length} {one} must have as many {other}, got {found}")


def _check(data_set: DataSet, path: Path, examples: int) -> None:
    name = data_set.name
    if data_set.num_examples != examples:
        raise DataError(
            f"{path}: data set {name!r} says {examples} examples and holds {data_set.num_examples}"
        )
    if data_set.index is not None and len(data_set.index):
        highest = int(data_set.index.max())
        if highest >= data_set.num_unique:
            raise DataError(
                f"{path}: data set {name!r} has {data_set.num_unique} unique examples, and its "
                f"index names number {highest}"
            )
    if data_set.starts is None or data_set.ends is None or data_set.indices is None:
        return
    wrong = np.flatnonzero(
        (data_set.starts < 0)
        | (data_set.ends < data_set.starts)
        | (data_set.ends > len(data_set.indices))
    )
    if len(wrong):
        raise DataError(
            f"{path}: data set {name!r}: rows must lie within its {len(data_set.indices)} indices"
        )


def _write(file: "Dataset", data_set: DataSet, n: int) -> None:
    numbers = {
        "attributes": data_set.attributes,
        "kind": data_set.kind,
        "dataType": data_set.data_type,
        "dimensions": len(data_set.extents),
        **dict(zip(EXTENTS, data_set.extents)),
    }
    file.setncattr(f"name{n}", data_set.name)
    for name, value in numbers.items():
        file.setncattr(f"{name}{n}", np.uint32(int(value)))
    examples, unique = f"examplesDim{n}", f"uniqueExamplesDim{n}"
    file.createDimension(examples, data_set.num_examples)
    file.createDimension(unique, data_set.num_unique)
    _write_rows(file, data_set, n, unique)
    if data_set.weights is not None:
        put(file, f"dataWeight{n}", unique, data_set.weights.astype(np.float32))
    if data_set.index is not None:
        put(file, f"index{n}", examples, data_set.index.astype(np.uint32))


def _write_rows(file: "Dataset", data_set: DataSet, n: int, unique: str) -> None:
    values = data_set.values
    if values is not None:
        values = values.astype(NUMPY_TYPES[data_set.data_type])
    if data_set.starts is None or data_set.ends is None or data_set.indices is None:
        assert values is not None
        file.createDimension(f"dataDim{n}", len(values))
        put(file, f"data{n}", f"dataDim{n}", values)
        return
    num = len(data_set.indices)
    bounds = np.uint32 if num < 2**32 else np.uint64  # a reader takes either
    file.createDimension(f"sparseDataDim{n}", num)
    put(file, f"sparseStart{n}", unique, data_set.starts.astype(bounds))
    put(file, f"sparseEnd{n}", unique, data_set.ends.astype(bounds))
    put(file, f"sparseIndex{n}", f"sparseDataDim{n}", data_set.indices)
    if values is not None:
        put(file, f"sparseData{n}", f"sparseDataDim{n}", values)


def _ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """starts[0], starts[0] + 1, ..., for each range, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    found: npt.NDArray[np.int64] = np.repeat(starts - ends + lengths, lengths) + np.arange(total)
    return found
