"""Cosine contrastive loss: a target is drawn near, any other item pushed away past a margin."""

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.loss.asked import Target, asked_of
from deeprec.loss.block_size import check_block_items
from deeprec.loss.catalog_blocks import Cost, catalog_loss, separable
from deeprec.loss.fit import Trained
from deeprec.loss.softmax import target_weights
from deeprec.table import NO_UPDATES, Updates


class CosineContrastive(nn.Module):
    """Of scores that are cosines: what a target lacks to 1, and what others have above a margin.

    The whole catalog is scored, exactly. It is for models whose scores are cosines
    (`model=two_tower`, or `model=autoencoder model.unit_vectors=true`).

    Args:
        num_items: V, known from the data.
        margin: an item that is no target costs nothing up to this cosine, in [-1, 1).
        negative_weight: of all items that are no target together, against 1 of the targets.
        block_items: items scored at once; None: as many as suit the device.

    Raises:
        ValueError: an argument lies outside its range.

    Reference:
        Mao et al., SimpleX: A Simple and Strong Baseline for Collaborative Filtering, CIKM 2021,
        equation 1, there over drawn negatives. Differs: over all items, and divided by V.
    """

    on_engine = True

    def __init__(
        self,
        num_items: int,
        *,
        margin: float = 0.4,
        negative_weight: float = 10.0,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        if not -1.0 <= margin < 1.0:
            raise ValueError(f"margin must be in [-1, 1), got {margin}")
        if not negative_weight > 0.0:
            raise ValueError(f"negative_weight must be above 0, got {negative_weight}")
        self.margin, self.scale = margin, negative_weight / num_items
        self.block_items = block_items

    def unfit(self, trained: Trained) -> list[str]:
        """What keeps it from training such a model; see `Trained`."""
        if trained.unit_rows:
            return []
        return [
            "loss: cosine_contrastive needs a model whose scores are cosines, and this one's "
            "are not; use model=two_tower, or model=autoencoder model.unit_vectors=true"
        ]

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Mean over users.

        Args:
            encoded: hidden float [B, D] of unit length, and the scores of own-history items.
            item_weight_VD: float [V, D], rows of unit length.
            item_bias_V: float [V], 0.
            target: distinct item indices of each user in [0, V), each weighing its weight over
                their sum; a user may have none.
            updates: change rows of the catalog table as soon as their gradient is known.

        Returns:
            float32 [] (float64 for float64 scores).

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> user = Encoded(torch.tensor([[1.0, 0.0]]), *none, torch.zeros(0))
            >>> items = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
            >>> loss = CosineContrastive(3, margin=0.5, negative_weight=3)
            >>> loss(user, items, torch.zeros(3), Jagged(torch.tensor([0]), torch.tensor([0, 1])))
            tensor(0.7000)
        """
        asked = asked_of(target, encoded, item_bias_V)
        weights_P = target_weights(asked.target, encoded.hidden_BD, normalise=True)
        return catalog_loss(
            separable(
                Cost(lambda scores: 1.0 - scores, lambda scores: -torch.ones_like(scores)),
                Cost(
                    lambda scores: torch.relu(scores - self.margin).mul_(self.scale),
                    lambda scores: (scores > self.margin).to(scores.dtype).mul_(self.scale),
                ),
            ),
            encoded,
            item_weight_VD,
            item_bias_V,
            asked.weighted(weights_P),
            num_users=encoded.hidden_BD.shape[0],
            block_items=self.block_items,
            updates=updates,
        )
