"""Numbers as ranges: an attribute of many numbers has too many values to be known one by one."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LEADING_ZERO = r"^0[0-9]"  # a code, not a number


def numbers_of(column: pa.Array) -> npt.NDArray[np.float64] | None:
    """The column as float64 with NaN for unknown; None if it does not hold numbers."""
    if pa.types.is_boolean(column.type):
        return None
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        given = column.drop_null()
        if pc.any(pc.match_substring_regex(given, LEADING_ZERO)).as_py():
            return None
    try:
        return np.asarray(pc.cast(column, pa.float64()).fill_null(np.nan))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def buckets_of(numbers: npt.NDArray[np.float64], num_buckets: int) -> pa.Array:
    """Each number's bucket, of about as many rows each, named by its smallest and largest number.

    Example:
        >>> buckets_of(np.array([1.0, 4.0, 2.0, np.nan, 3.0]), 2).to_pylist()
        ['1 to 2', '3 to 4', '1 to 2', None, '3 to 4']
    """
    values, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
    smaller = np.cumsum(counts) - counts  # so that a value of many users is a bucket of its own
    bucket = smaller * num_buckets // counts.sum()
    firsts = np.flatnonzero(np.diff(bucket, prepend=-1))
    lasts = np.append(firsts[1:], len(values)) - 1
    ranges = zip(values[firsts], values[lasts], strict=True)
    names = pa.array([f"{first:.12g} to {last:.12g}" for first, last in ranges])
    place = np.searchsorted(values[firsts], numbers, side="right") - 1
    return names.take(pa.array(place, mask=np.isnan(numbers)))
