"""The angle between a user's targets and its scores over the whole catalog, without scoring it."""

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.loss.asked import Target, asked_of, users_of
from deeprec.loss.cell_scores import Replaced, cell_scores, summed
from deeprec.loss.fit import Trained, unfit_draws
from deeprec.loss.gram import BLOCK_ITEMS, squares
from deeprec.loss.kept_gram import new_gram
from deeprec.loss.softmax import users_with_targets
from deeprec.table import NO_UPDATES, Updates

SMALLEST = 1e-36  # squared length of a target below which it has no direction; float32 ends there
ROUNDING = 1e-12  # the same of scores, over that of their target, or 1 if that is more


class Cosine(nn.Module):
    """Twice one minus the cosine between the targets and the scores, as vectors over the catalog.

    Args:
        num_items: V, known from the data.
        popularity: int64 [V], training users that had each item, known from the data.
        row_length: float [V], lengths that the model keeps its rows at, known from the model; with
            `exclude_self`, users are compared as if these were 1.
        linear: whether a history is the sum of its rows of the catalog table, known from the model.
        exclude_self: what an item of the target contributed to its own score is taken out of it;
            None: where the model is linear. For a model whose hidden vector is the sum of the
            target's rows of the catalog table, each times the target's weight over its length,
            and of what `Asked.own_BD` leaves out, without bias (`model=linear_autoencoder`); for
            others it would be wrong.
        gram_items: for catalogs of millions: keep the Gram matrix from step to step, and estimate
            its gradient from the batch's items and so many drawn ones; None: exact, from all.
        block_items: items whose part of the Gram matrix is made at once.

    Raises:
        ValueError: gram_items or block_items is below 1.

    Reference:
        Vancura, Alves, Kasalicky and Kordik, Scalable Linear Shallow Autoencoder for Collaborative
        Filtering, RecSys 2022, equation 7, there on scores of the whole catalog.
    """

    log_odds = False  # scores are the targets themselves
    weighs_users = passes_over_users = True
    weighs_targets = False  # their weights are what scores should be, not what missing them costs
    scale_V: Tensor | None

    def __init__(
        self,
        num_items: int,
        *,
        popularity: Tensor | None = None,
        row_length: Tensor | None = None,
        linear: bool = False,
        exclude_self: bool | None = None,
        gram_items: int | None = None,
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__()
        self.exclude_self = linear if exclude_self is None else exclude_self
        self.block_items, self.gram_items = block_items, gram_items
        self.gram = new_gram(num_items, popularity, gram_items, block_items)
        self.dense_gradient = self.gram.dense_gradient
        scale_V = None
        if self.exclude_self and row_length is not None:
            scale_V = row_length.square().reciprocal()
        self.register_buffer("scale_V", scale_V, persistent=False)

    def unfit(self, trained: Trained) -> list[str]:
        """What keeps it from training such a model; see `Trained`."""
        found = unfit_draws(self.gram_items, trained)
        if self.exclude_self and not trained.linear:
            found.append(
                "loss.exclude_self: must be false or null for a model that is not linear, got "
                "true; or use model=linear_autoencoder"
            )
        return found

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Mean over users with targets of `2 - 2 cos(scores, targets)`.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V); its weights are the vector that
                scores are compared with, 1 where there are none.
            updates: not used: the gradient of a row is known only at the end.

        Returns:
            float32 [] (float64 for float64 scores), in [0, 4].

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> user = Encoded(torch.tensor([[1.0, 0.0]]), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0]), torch.tensor([0, 1]))
            >>> weight = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
            >>> Cosine(2)(user, weight, torch.zeros(2), target)  # 2 - 2 * 3 / 5
            tensor(0.8000)
        """
        asked = asked_of(target, encoded, item_bias_V)
        rows = asked.target
        users_P, num_users = users_of(rows), encoded.hidden_BD.shape[0]
        weights_P = rows.weights
        if weights_P is None:
            weights_P = item_bias_V.new_ones(len(users_P))
        length_B = summed(weights_P.square(), users_P, num_users)
        if self.exclude_self:
            own_BD = encoded.hidden_BD if asked.own_BD is None else asked.own_BD
            of_target_B = (encoded.hidden_BD * own_BD).sum(1)  # a user's scores on its targets
            gram_DD = self.gram(item_weight_VD, None, self.scale_V, rows.values)
            squares_B = squares(encoded.hidden_BD, gram_DD) - 2.0 * of_target_B + length_B
            inner_B = of_target_B - length_B
        else:
            scored = encoded.hidden_BD, item_weight_VD, item_bias_V
            replaced = Replaced(encoded, asked, len(item_bias_V))
            changing_P = torch.cat([rows.values, replaced.items_M])
            gram_EE = self.gram(item_weight_VD, item_bias_V, None, changing_P)
            squares_B = squares(encoded.hidden_BD, gram_EE)
            scores_P = replaced.in_place_of(cell_scores(*scored, rows))
            inner_B = summed(weights_P * scores_P, users_P, num_users)
            if len(replaced):
                products_M = cell_scores(*scored, replaced.rows)
                more_M = replaced.scores_M.to(products_M.dtype).square() - products_M.square()
                squares_B = squares_B + summed(more_M, replaced.users_M, num_users)
        # a history that has faded is short, and so is what a linear model says of it
        smallest_B = (ROUNDING * length_B).clamp_(SMALLEST, ROUNDING)
        lengths_B = squares_B.clamp(smallest_B).sqrt() * length_B.clamp(SMALLEST).sqrt()
        has_target = rows.offsets.diff() > 0
        loss_B = (2.0 - 2.0 * inner_B / lengths_B) * has_target
        if asked.user_weights is not None:
            loss_B = loss_B * asked.user_weights
        return loss_B.sum() / users_with_targets(rows)
