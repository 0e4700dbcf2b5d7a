"""What a softmax adds to scores while it trains: temperature, and how popular an item is.

Shapes (legend in deeprec/batch.py): any number of items; M own-history items with a score.
"""

import math

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.table import Rows, Updates


class Adjustment(nn.Module):
    """`score / temperature + popularity_adjustment * log(share)` in place of a score.

    The share of an item is its part of all training interactions. It is added in training alone:
    what explains a target as popular need not be learned, and lists favour popular items less.

    Args:
        temperature: finite and above 0; below 1 the softmax looks at the highest scores most.
        popularity_adjustment: 0: none; 1: the lists are those of a world where every item is had
            equally often.
        popularity: int64 [V], training users that had each item; an item that nobody had counts as
            one that one user had. None: not known yet, nothing is added.

    Raises:
        ValueError: temperature is not above 0, or not finite.

    Reference:
        Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021, equation 10. Yi et al.,
        Sampling-Bias-Corrected Neural Modeling, RecSys 2019, subtract the logarithm where targets
        of other users are the negatives (logQ), because these come as often as they are popular;
        what is drawn here is corrected by how often it is drawn, whatever this adds.
    """

    offset_V: Tensor | None

    def __init__(
        self, *, temperature: float, popularity_adjustment: float, popularity: Tensor | None
    ) -> None:
        super().__init__()
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature must be finite and above 0, got {temperature}")
        self.temperature = temperature
        offset_V = None
        if popularity_adjustment != 0.0 and popularity is not None:
            counts_V = popularity.double().clamp(min=1.0)
            share_V = counts_V / counts_V.sum()
            # a softmax does not see the mean; without it, scores of own items begin as they are
            log_V = share_V.log() - (share_V * share_V.log()).sum()
            offset_V = (popularity_adjustment * log_V).float()
        self.register_buffer("offset_V", offset_V, persistent=False)

    @property
    def changes_nothing(self) -> bool:
        return self.temperature == 1.0 and self.offset_V is None

    def begun(self, item_bias_V: Tensor) -> Tensor:
        """The bias whose adjusted scores are those of this one, so that training begins there."""
        offset_V = torch.zeros(()) if self.offset_V is None else self.offset_V
        return (item_bias_V - offset_V.to(item_bias_V)) * self.temperature

    def cooled(self, scores: Tensor) -> Tensor:
        """Over the temperature; without one this costs no pass."""
        return scores if self.temperature == 1.0 else scores / self.temperature

    def offset_of(self, items_R: Tensor, share_R: Tensor) -> Tensor:
        """Float [R]: what is added to scores of candidates.

        Args:
            items_R: int64 [R], in the whole catalog.
            share_R: float [R], for how many items of the catalog each stands; 0: it is no item.
        """
        offset_R = share_R.log()
        return offset_R if self.offset_V is None else offset_R + self.offset_V[items_R].to(offset_R)

    def of_catalog(
        self,
        encoded: Encoded,
        item_bias_V: Tensor,
        repeat_items_M: Tensor,
        updates: Updates,
        offset_V: Tensor | None = None,
    ) -> tuple[Encoded, Tensor, Updates]:
        """What a loss is called with, such that it scores as adjusted, and what it learns counts.

        Args:
            encoded: its repeat scores are those of `repeat_items_M`.
            item_bias_V: float [V], of the whole catalog, own items of it or candidates.
            repeat_items_M: int64 [M], in the indices of these items.
            updates: of these items.
            offset_V: float [V], what is added to their scores; None: that of the whole catalog.
        """
        offset_V = self.offset_V if offset_V is None else offset_V
        hidden_BD = self.cooled(encoded.hidden_BD.to(item_bias_V.dtype))
        bias_V = self.cooled(item_bias_V)
        repeat_scores_M = self.cooled(encoded.repeat_scores_M)
        if offset_V is not None:
            offset_V = offset_V.to(bias_V)
            bias_V = bias_V + (offset_V if updates.own is None else offset_V[updates.own.items])
            repeat_scores_M = repeat_scores_M + offset_V[repeat_items_M]
        encoded = encoded._replace(hidden_BD=hidden_BD, repeat_scores_M=repeat_scores_M)
        return encoded, bias_V, self._scaled(updates)

    def _scaled(self, updates: Updates) -> Updates:
        """The row of an item reads hidden as it is scaled; its bias must be told."""
        of_bias, temperature = updates.item_bias, self.temperature
        if of_bias is None or temperature == 1.0:
            return updates

        def update(rows: Rows, gradient: Tensor) -> None:
            of_bias(rows, gradient / temperature)

        return updates._replace(item_bias=update)
