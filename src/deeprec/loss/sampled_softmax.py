"""Multinomial cross entropy whose normaliser is estimated from some items of the catalog."""

from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.loss.adjustment import Adjustment
from deeprec.loss.asked import Target, asked_of
from deeprec.loss.candidate_catalog import candidate_catalog
from deeprec.loss.fit import Trained, unfit_pool
from deeprec.loss.negatives import Negatives
from deeprec.loss.own_targets import of_draws, own_scores
from deeprec.loss.softmax import Softmax, target_weights, users_with_targets
from deeprec.table import NO_UPDATES, Updates


class SampledSoftmax(nn.Module):
    """Cross entropy between a user's targets and the softmax over the catalog, estimated.

    The batch's targets are scored exactly, for everybody or for their own users; other items are
    drawn, and the logarithm of how many items a drawn one stands for is added to its score. A step
    costs what it scores, whatever the size of the catalog.

    Args:
        num_items: V, known from the data.
        popularity: int64 [V], training users that had each item, known from the data.
        negatives: items drawn for a batch, shared by its users; V or more: the exact loss.
        popularity_power: a draw takes an item with probability in proportion to
            `(popularity + 1) ** popularity_power`.
        uniform_share: of the draws that take any item alike, above 0.
        pool: hard negatives: draw so many, V at most, and keep the `negatives` that the batch
            scores highest; None: keep what is drawn.
        shared_targets: score the targets of the batch for all of its users. False: for their own
            users only, which costs far less where a batch has more distinct targets than draws.
        normalise_targets: as of `Softmax`.
        temperature: as of `Softmax`.
        popularity_adjustment: as of `Softmax`.
        block_items: items scored at once, of a pool too; None: as many as suit the device. Where
            targets are not shared, all draws are, whatever it says.

    Raises:
        ValueError: an argument lies outside its range.

    Reference:
        Jean et al., On Using Very Large Target Vocabulary for Neural Machine Translation, ACL 2015.
        Differs: the items of the batch's targets are not corrected by an estimate of how often they
        occur in batches, because they are scored exactly and only the rest is drawn.
    """

    def __init__(
        self,
        num_items: int,
        *,
        popularity: Tensor | None = None,
        negatives: int = 4096,
        popularity_power: float = 0.5,
        uniform_share: float = 0.2,
        pool: int | None = None,
        shared_targets: bool = True,
        normalise_targets: bool = False,
        temperature: float = 1.0,
        popularity_adjustment: float = 0.0,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        self.softmax = Softmax(normalise_targets=normalise_targets, block_items=block_items)
        self.adjustment = Adjustment(
            temperature=temperature,
            popularity_adjustment=popularity_adjustment,
            popularity=popularity,
        )
        self.negatives = Negatives(
            num_items,
            negatives,
            popularity=popularity,
            power=popularity_power,
            uniform_share=uniform_share,
            pool=pool,
            shared_targets=shared_targets,
        )
        self.block_items = block_items
        self.passes_over_users = True
        self.fills_targets = shared_targets and pool is None and not normalise_targets

    def unfit(self, trained: Trained) -> list[str]:
        """What keeps it from training such a model; see `Trained`."""
        return unfit_pool(self.negatives.pool, trained)

    @property
    def note(self) -> str:
        """What a person should know before training with it."""
        drawn, num_items = self.negatives.count, self.negatives.num_items
        if drawn >= num_items:
            return f"all {num_items:,} items are scored: the loss is exact"
        if self.negatives.pool is not None:
            return (
                f"the {drawn:,} hardest of {self.negatives.pool:,} drawn items stand against the "
                "targets: biased by design, items that are easy for a batch never count"
            )
        whose = "the batch's" if self.negatives.shared_targets else "a user's own"
        how = of_draws(self.negatives, self.block_items)
        return (
            f"the softmax over {num_items:,} items is estimated from {whose} targets and "
            f"{drawn:,} drawn items{how}: its normaliser is unbiased, its logarithm too low on "
            "average, by about half the relative variance of the estimate, which falls as "
            "1 / negatives"
        )

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Mean over users with targets of `-sum over targets of log softmax(scores)`, estimated.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V); a user without any costs nothing
                and is not in the mean.
            updates: change the scored rows of the catalog table and bias in place. Without them
                autograd makes a gradient of every row, zero for those not scored.

        Returns:
            float32 []. Unit: nats per user.

        Example:
            >>> import torch
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0, 2]), torch.tensor([0, 2]))
            >>> loss = SampledSoftmax(3, negatives=3)  # all of them: exact
            >>> loss(flat, torch.zeros(3, 4), torch.zeros(3), target)  # 2 log 3
            tensor(2.1972)
        """
        if not self.negatives.shared_targets:
            return self._of_own_targets(encoded, item_weight_VD, item_bias_V, target, updates)
        catalog = candidate_catalog(
            self.negatives,
            encoded,
            item_weight_VD,
            item_bias_V,
            target,
            updates,
            block_items=self.block_items,
        )
        encoded, item_bias_R, updates = self.adjustment.of_catalog(
            catalog.encoded,
            catalog.item_bias_R,
            catalog.asked.repeats.values,
            catalog.updates,
            self.adjustment.offset_of(catalog.items_R, catalog.share_R),
        )
        loss: Tensor = self.softmax(
            encoded, catalog.item_weight_RD, item_bias_R, catalog.asked, updates
        )
        return loss

    def _of_own_targets(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates,
    ) -> Tensor:
        """A user's normaliser: its own targets, and the draws that are none of them."""
        asked = asked_of(target, encoded, item_bias_V)
        scored = own_scores(self.negatives, asked, encoded, item_weight_VD, item_bias_V, updates)
        adjustment, users_P = self.adjustment, scored.users_P
        raised_BS = adjustment.cooled(scored.drawn_BS)
        raised_BS = raised_BS + adjustment.offset_of(scored.items_S, scored.shares_S)
        target_P = adjustment.cooled(scored.target_P)
        if adjustment.offset_V is not None:
            target_P = target_P + adjustment.offset_V[asked.target.values].to(target_P)
        highest_B = raised_BS.detach().amax(1)
        highest_B = highest_B.scatter_reduce(0, users_P, target_P.detach(), "amax")
        own_P = (target_P - highest_B[users_P]).exp()
        sum_B = (raised_BS - highest_B[:, None]).exp().sum(1).index_add(0, users_P, own_P)
        normaliser_B = highest_B + sum_B.log()
        normalise = self.softmax.normalise_targets
        weights_P = target_weights(asked.target, target_P, normalise)
        costs_P = weights_P * (normaliser_B[users_P] - target_P)
        return costs_P.sum() / users_with_targets(asked.target)
