"""Squared error over the whole catalog, exact at the price of a Gram matrix."""

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.loss.asked import Target, asked_of, users_of
from deeprec.loss.cell_scores import Replaced, cell_scores, summed
from deeprec.loss.fit import Trained, unfit_draws
from deeprec.loss.gram import BLOCK_ITEMS, squares
from deeprec.loss.kept_gram import new_gram
from deeprec.table import NO_UPDATES, Updates


class Squared(nn.Module):
    """A target should score 1 and any other item 0; what it misses by is squared.

    Args:
        num_items: V, known from the data.
        popularity: int64 [V], training users that had each item, known from the data.
        zero_scale: weight of an item that is no target, against 1 of a target (the alpha0 of iALS).
        popularity_power: items that are no target weigh in proportion to
            `(popularity + 1) ** popularity_power`, on average `zero_scale`; 0: all alike.
        normalise_users: divide a user's loss by the number of its targets.
        gram_items: for catalogs of millions: keep the Gram matrix from step to step, and estimate
            its gradient from the batch's items and so many drawn ones; None: exact, from all.
        block_items: items whose part of the Gram matrix is made at once.

    Raises:
        ValueError: zero_scale, gram_items or block_items is not positive.

    Reference:
        Rendle et al., iALS++: Speeding up Matrix Factorization with Subspace Optimization, 2021,
        equation 1, there for tables fitted by alternating least squares; here for whatever makes
        the hidden vectors, by gradient.
    """

    log_odds = False  # scores are the targets themselves
    scale_V: Tensor | None

    def __init__(
        self,
        num_items: int,
        *,
        popularity: Tensor | None = None,
        zero_scale: float = 0.5,
        popularity_power: float = 0.0,
        normalise_users: bool = False,
        gram_items: int | None = None,
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__()
        if not zero_scale > 0.0:
            raise ValueError(f"zero_scale must be above 0, got {zero_scale}")
        self.zero_scale, self.normalise_users = zero_scale, normalise_users
        self.gram_items = gram_items
        self.gram = new_gram(num_items, popularity, gram_items, block_items)
        self.block_items, self.dense_gradient = block_items, self.gram.dense_gradient
        scale_V = None
        if popularity_power != 0.0 and popularity is not None:
            scale_V = (popularity.float() + 1.0) ** popularity_power
            scale_V = scale_V / scale_V.mean()
        self.register_buffer("scale_V", scale_V, persistent=False)

    def unfit(self, trained: Trained) -> list[str]:
        """What keeps it from training such a model; see `Trained`."""
        return unfit_draws(self.gram_items, trained)

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Mean over users of the weighted squared error over the catalog.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V). Weights multiply the error of a
                target.
            updates: not used: the gradient of a row is known only at the end.

        Returns:
            float32 [] (float64 for float64 scores).

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0]), torch.tensor([0, 1]))
            >>> loss = Squared(3, zero_scale=0.5)  # (1 - 0.5) ** 2 + 0.5 * (2 ** 2 + 0 ** 2)
            >>> loss(flat, torch.zeros(3, 4), torch.tensor([0.5, 2.0, 0.0]), target)
            tensor(2.2500)
        """
        asked = asked_of(target, encoded, item_bias_V)
        rows, scored = asked.target, (encoded.hidden_BD, item_weight_VD, item_bias_V)
        users_P, num_users = users_of(rows), encoded.hidden_BD.shape[0]
        products_P = cell_scores(*scored, rows)
        replaced = Replaced(encoded, asked, len(item_bias_V))
        scores_P = replaced.in_place_of(products_P)
        errors_P = (scores_P - 1.0).square()
        if rows.weights is not None:
            errors_P = errors_P * rows.weights
        zero_P = self._weighted(products_P.square(), rows.values)
        changing_P = torch.cat([rows.values, replaced.items_M])
        gram_EE = self.gram(item_weight_VD, item_bias_V, self._scale(item_weight_VD), changing_P)
        loss_B = self.zero_scale * squares(encoded.hidden_BD, gram_EE)
        loss_B = loss_B + summed(errors_P - zero_P, users_P, num_users)
        if len(replaced):
            loss_B = loss_B + self._of_replaced(replaced, scored, num_users)
        if self.normalise_users:
            loss_B = loss_B / rows.offsets.diff().clamp(min=1)
        return loss_B.mean()

    def _of_replaced(
        self, replaced: Replaced, scored: tuple[Tensor, Tensor, Tensor], num_users: int
    ) -> Tensor:
        """Float [B]: what own items that are no target cost by their scores, not their products."""
        products_M = cell_scores(*scored, replaced.rows)
        more_M = replaced.scores_M.to(products_M.dtype).square() - products_M.square()
        more_M = self._weighted(more_M, replaced.items_M) * ~replaced.is_target_M
        return summed(more_M, replaced.users_M, num_users)

    def _weighted(self, costs_P: Tensor, items_P: Tensor) -> Tensor:
        scale_V = self._scale(costs_P)
        return self.zero_scale * (costs_P if scale_V is None else costs_P * scale_V[items_P])

    def _scale(self, like: Tensor) -> Tensor | None:
        return None if self.scale_V is None else self.scale_V.to(like)
