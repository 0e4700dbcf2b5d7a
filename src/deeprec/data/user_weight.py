"""What the loss of each user counts in training, out of the attributes of users."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deeprec.data.contract import Check
from deeprec.errors import ConfigError, DataError, did_you_mean

KEY = "data.filters.user_weights"


def taken_weights(of_users: pa.Table, name: str) -> tuple[pa.Array, pa.Table, Check]:
    """The weights float32 [U], 1 where unknown, the attributes without them, and what was found.

    Raises:
        ConfigError: there is no such attribute.
        DataError: it holds something else than numbers from 0 on, or nobody has one above 0.

    Example:
        >>> users = pa.table({"paid": [2.0, None], "town": ["a", "b"]})
        >>> weights, rest, _ = taken_weights(users, "paid")
        >>> weights.to_pylist(), rest.column_names
        ([2.0, 1.0], ['town'])
    """
    if name not in of_users.column_names:
        raise ConfigError(
            f"{KEY}={name}: there is no such user attribute; "
            f"{did_you_mean(name, of_users.column_names)}"
        )
    column = of_users[name].combine_chunks()
    try:
        numbers = np.asarray(pc.cast(column, pa.float32()).fill_null(1.0))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{KEY}={name}: must hold numbers, got {column.type}") from error
    if len(wrong := numbers[~(np.isfinite(numbers) & (numbers >= 0.0))]):
        raise DataError(f"{KEY}={name}: must be finite and 0 or more, got {wrong[0]}")
    if not numbers.any():
        raise DataError(f"{KEY}={name}: must be above 0 for somebody, got 0 for all users")
    says = f"{name}: {numbers.min():g} to {numbers.max():g}, {numbers.mean():g} on average"
    if column.null_count:
        says += f"; {column.null_count:,} users without one count 1"
    check = Check("user weights", "ok", says)
    if column.null_count == len(column):
        advice = "does its key hold the same ids as the events?"
        check = Check(check.name, "warn", says, advice)
    return pa.array(numbers), of_users.drop_columns([name]), check
