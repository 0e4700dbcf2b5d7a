"""Hinge loss: every item is pushed past a margin on its side of zero, and no further."""

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.loss.asked import Target
from deeprec.loss.block_size import check_block_items
from deeprec.loss.catalog_blocks import Cost, catalog_loss, check_scales, separable
from deeprec.table import NO_UPDATES, Updates


class Hinge(nn.Module):
    """A target scores above `margin` and any other item below `-margin`, or it costs the gap.

    Args:
        margin: of the score, above 0.
        one_scale: weight of the targets.
        zero_scale: weight of all other items.
        block_items: items scored at once; None: as many as suit the device.

    Raises:
        ValueError: margin is not above 0, or block_items is below 1.
    """

    on_engine = True
    fills_targets = True

    def __init__(
        self,
        *,
        margin: float = 1.0,
        one_scale: float = 1.0,
        zero_scale: float = 1.0,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        check_scales(one_scale, zero_scale)
        if not margin > 0.0:
            raise ValueError(f"margin must be above 0, got {margin}")
        self.margin, self.one_scale, self.zero_scale = margin, one_scale, zero_scale
        self.block_items = block_items

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Sum over users and items of the gap to the margin, divided by B.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V). Weights multiply `one_scale`.
            updates: change rows of the catalog table and bias as soon as their gradient is known.

        Returns:
            float32 [].

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0, 2]), torch.tensor([0, 2]))
            >>> Hinge()(flat, torch.zeros(3, 4), torch.tensor([0.5, -3.0, 2.0]), target)
            tensor(0.5000)

        Reference:
            DSSTNE, `engine/kLoss.cu`, kCalculateHingeError, which differs in two ways: there a
            target is 1 and any other item 0, so that only targets have a margin.
        """
        return catalog_loss(
            separable(
                Cost(
                    lambda scores: self.one_scale * torch.relu(self.margin - scores),
                    lambda scores: -self.one_scale * (scores < self.margin).to(scores.dtype),
                ),
                Cost(
                    lambda scores: torch.relu(scores + self.margin).mul_(self.zero_scale),
                    lambda scores: (scores > -self.margin).to(scores.dtype).mul_(self.zero_scale),
                ),
            ),
            encoded,
            item_weight_VD,
            item_bias_V,
            target,
            num_users=encoded.hidden_BD.shape[0],
            block_items=self.block_items,
            updates=updates,
        )
