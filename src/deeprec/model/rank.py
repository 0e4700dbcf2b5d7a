"""A trained model's lists for a batch: the one way from validation, evaluation and export."""

import torch
from torch import Tensor

from deeprec.batch import Batch, Encoded
from deeprec.errors import NonFiniteError
from deeprec.model.base import Recommender
from deeprec.model.topk import top_k


def rank(
    model: Recommender, batch: Batch, k: int, exclude_seen: bool, *, block_items: int = 0
) -> tuple[Tensor, Tensor]:
    """The k best items of each user, without gradients; the model is in eval mode already.

    Args:
        model: the trained recommender, on the device of the batch.
        batch: B users.
        k: items per user.
        exclude_seen: whether items of the user's own history are left out.
        block_items: catalog items scored at once; 0: as many as suit the device.

    Returns:
        items int64 [B, K], best first, ties by lower index, -1 where there are no more candidates;
        scores float32 [B, K], -inf beside -1.

    Raises:
        NonFiniteError: a score is NaN.
    """
    return rank_without(model, batch, k, *seen_if(exclude_seen, batch), block_items=block_items)


def rank_without(
    model: Recommender,
    batch: Batch,
    k: int,
    excluded_N: Tensor,
    offsets_B1: Tensor,
    *,
    block_items: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `rank`, leaving out these items of each user, int64 [N] under offsets [B + 1]."""
    with torch.no_grad():
        encoded = encode(model, batch)
        try:
            return top_k(
                encoded, model.item_weight, model.item_bias, k, excluded_N, offsets_B1, block_items
            )
        except RuntimeError as error:  # what TorchScript can raise, as top_k must
            if "NaN" not in str(error):
                raise
            raise NonFiniteError(
                "the model scores an item NaN, which cannot be ranked; train it again with a lower "
                "learning rate, or judge an earlier checkpoint"
            ) from error


def encode(model: Recommender, batch: Batch) -> Encoded:
    """What the model says of each user of a batch."""
    history = batch.history
    attributes = {name: (rows.values, rows.offsets) for name, rows in batch.attributes.items()}
    return model.encode(history.values, history.offsets, batch.known_ages, attributes)


def seen_if(exclude_seen: bool, batch: Batch) -> tuple[Tensor, Tensor]:
    """What to leave out of each user's list, and its offsets: the history, or nothing."""
    if exclude_seen:
        return batch.history.values, batch.history.offsets
    return batch.history.values[:0], torch.zeros_like(batch.history.offsets)
