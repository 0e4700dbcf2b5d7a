"""What is known of the items of a catalog that exposure is told by."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from deeprec.data.store import Prepared, attribute_names
from deeprec.errors import ConfigError, did_you_mean
from deeprec.evaluation.slices import IntArray
from deeprec.metric.ranking import FloatArray
from deeprec.metric.tally import ItemFacts

MOST_VALUES = 1000  # of an attribute that diversity is told by unasked: nearly all pairs differ
USERS_AT_ONCE = 65_536


def item_facts(
    prepared: Prepared, diversity: Sequence[str] | None, embedding_VD: Tensor | None
) -> ItemFacts:
    """Popularity, prices, attributes and embeddings of the catalog.

    Args:
        diversity: item attributes that diversity is told by; None: those of 2 to 1,000 values, one
            for each item.
        embedding_VD: rows that stand for the items; None: there are none.

    Raises:
        ConfigError: there is no such attribute, or it has several values.
    """
    known = attribute_names(prepared.items, "item")
    for name in diversity or ():
        if name not in known:
            raise ConfigError(
                f"diversity: {name}: there is no such item attribute; {did_you_mean(name, known)}"
            )
        if pa.types.is_nested(kind := prepared.items[name].type):
            raise ConfigError(
                f"diversity: {name}: must have one value for each item, got {kind}; leave it out"
            )
    names = [name for name in known if _few(prepared, name)] if diversity is None else diversity
    return ItemFacts(
        prepared.popularity,
        len(prepared.training_users()),
        {name: _codes(prepared, name) for name in names},
        _prices(prepared),
        None if embedding_VD is None else embedding_VD.numpy(),
    )


def _few(prepared: Prepared, name: str) -> bool:
    if pa.types.is_nested(prepared.items[name].type):
        return False
    variety: int = pc.count_distinct(prepared.items[name]).as_py()
    return 2 <= variety <= MOST_VALUES


def _codes(prepared: Prepared, name: str) -> IntArray:
    values = prepared.items[name].combine_chunks().cast(pa.string())
    indices = pc.fill_null(values.dictionary_encode().indices, -1)
    codes_V: IntArray = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes_V


def _prices(prepared: Prepared) -> FloatArray | None:
    """float64 [V]: the mean price paid in training, 0 for an item nobody bought; None: unknown."""
    part = prepared.parts["train"]
    if "prices" not in part.columns:
        return None
    paid_V, counts_V = np.zeros(prepared.num_items), np.zeros(prepared.num_items)
    for start in range(0, prepared.num_users, USERS_AT_ONCE):
        events = part.take(np.arange(start, min(start + USERS_AT_ONCE, prepared.num_users)))
        assert events.prices is not None
        paid_V += np.bincount(events.items, events.prices, prepared.num_items)
        counts_V += np.bincount(events.items, minlength=prepared.num_items)
    mean_V: FloatArray = paid_V / counts_V.clip(1)
    return mean_V
