"""Users of a prepared folder in the indices of a bundle, which may know other items and values."""

from collections.abc import Mapping

import pyarrow as pa
import torch
from torch import Tensor

from deeprec import serve
from deeprec.batch import Batch, Jagged, offsets_of_kept
from deeprec.catalog import Catalog
from deeprec.data.store import Prepared
from deeprec.data.vocabulary import Hashed, rows_of
from deeprec.errors import DataError, NonFiniteError
from deeprec.serve import Bundle, RequestError


class Translation:
    """From the indices of a prepared folder to those of a bundle, and back.

    Args:
        prepared: whose batches are translated.
        bundle: whose items and attribute values are meant.
    """

    def __init__(self, prepared: Prepared, bundle: Bundle) -> None:
        theirs = Catalog(bundle.item_ids)
        self._item_of = torch.from_numpy(theirs.indices_of(prepared.catalog.item_ids))
        self._ours_of = torch.from_numpy(prepared.catalog.indices_of(bundle.item_ids))
        self._users = prepared.users
        self._vocabularies = {
            name: Hashed(values.rows)
            if isinstance(values := bundle.vocabularies[name], serve.Hashed)
            else Catalog(list(values))
            for name in bundle.fields
            if name in prepared.vocabularies
        }

    def __call__(self, batch: Batch) -> tuple[Batch, int]:
        """The batch as the bundle knows it, and how many events it does not know."""
        items_N = self._item_of[batch.history.values]
        history, known = known_only(Jagged(items_N, batch.history.offsets))
        users = pa.array(batch.user_rows.numpy())
        attributes = {
            name: rows_of(self._users[name].take(users), vocabulary)
            for name, vocabulary in self._vocabularies.items()
        }
        ages = None if batch.ages is None else batch.ages[known]
        return Batch(batch.user_rows, history, ages, attributes), int((~known).sum())

    def items(self, rows: Jagged) -> Jagged:
        """Items as the bundle knows them, without those that it does not."""
        return known_only(Jagged(self._item_of[rows.values], rows.offsets))[0]

    def back(self, items_BK: Tensor) -> Tensor:
        """int64 [B, K]: the bundle's lists in our indices; -1 stays, and is what we do not have."""
        return torch.where(items_BK >= 0, self._ours_of[items_BK], -1)


def ask(
    bundle: Bundle,
    history: Jagged,
    ages: Tensor | None,
    attributes: Mapping[str, Jagged],
    *,
    k: int,
    exclude_seen: bool,
    allowed: Jagged | None = None,
) -> tuple[Tensor, Tensor]:
    """Lists of a bundle for users in its own indices, as `Bundle.rank` gives them.

    Args:
        allowed: the only items that may be in each user's list, or in one row in everybody's;
            None: all.

    Raises:
        DataError: the bundle refuses the request, and why.
        NonFiniteError: a score is NaN.
    """
    fields = {name: (rows.values, rows.offsets) for name, rows in attributes.items()}
    try:
        return bundle.rank(
            history.values,
            history.offsets,
            ages,
            fields,
            k=k,
            exclude_seen=exclude_seen,
            allowed=None if allowed is None else (allowed.values, allowed.offsets),
        )
    except RequestError as error:
        raise DataError(f"the bundle refuses these histories: {error}") from error
    except RuntimeError as error:
        if "NaN" not in str(error):
            raise
        raise NonFiniteError(
            f"{bundle.path}: {error}; see what `deeprec bundle verify` says, and export it again"
        ) from error


def known_only(rows: Jagged) -> tuple[Jagged, Tensor]:
    """The rows without their values of -1; and bool [N], which are left.

    Example:
        >>> known_only(Jagged(torch.tensor([4, -1, 5]), torch.tensor([0, 2, 3])))[0]
        Jagged(values=tensor([4, 5]), offsets=tensor([0, 1, 2]), weights=None)
    """
    known = rows.values >= 0
    return Jagged(rows.values[known], offsets_of_kept(known, rows.offsets)), known
