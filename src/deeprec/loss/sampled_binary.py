"""Binary cross entropy of the catalog, estimated from some of its items; gBCE calibration."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Encoded
from deeprec.loss.asked import Target, asked_of
from deeprec.loss.candidate_catalog import candidate_catalog
from deeprec.loss.catalog_blocks import Cost, catalog_loss, separable
from deeprec.loss.fit import Trained, unfit_pool
from deeprec.loss.negatives import Negatives
from deeprec.loss.own_targets import of_draws, own_scores
from deeprec.table import NO_UPDATES, Updates


class SampledBinary(nn.Module):
    """Every item is a yes or no of its own; the noes are estimated from some items.

    Without `calibration` the cost of a drawn item is multiplied by how many items it stands for,
    so that the loss is that of the whole catalog without bias. With it, drawn items count as they
    are and the probability of a target is raised to a power instead (gBCE), which undoes the
    overconfidence of too few negatives and costs less variance.

    An item of probability p is a target with chance p, and costs as one its power beta; it is no
    target with chance 1 - p, and costs as such alpha on average, its chance to be among the draws.
    So its score settles at the log odds of `beta p` against `alpha (1 - p)`, which are those of p
    if beta is alpha: of each item, because popular ones are drawn more often.

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
        calibration: None, or gBCE's t in [0, 1]: 0 leaves probabilities as they come out, 1
            calibrates them fully. Not with a pool: how likely it keeps an item is not known.
        one_scale: weight of the targets.
        block_items: items scored at once, of a pool too; None: as many as suit the device. Where
            targets are not shared, all draws are, whatever it says.

    Raises:
        ValueError: an argument lies outside its range.

    Reference:
        Petrov and Macdonald, gSASRec: Reducing Overconfidence in Sequential Recommendation Trained
        with Negative Sampling, RecSys 2023, equations 8-10. Differs: negatives are shared by the
        batch and drawn with replacement, each counting once; the sampling rate is an item's own,
        where theirs, of uniform draws, is one (`popularity_power=0`); and where targets are shared,
        one of the batch counts its rate for the users whose target it is not, as a draw would on
        average.
    """

    rate_V: Tensor | None

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
        calibration: float | None = None,
        one_scale: float = 1.0,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        if calibration is not None and not 0.0 <= calibration <= 1.0:
            raise ValueError(f"calibration must be in [0, 1] or null, got {calibration}")
        if calibration is not None and pool is not None:
            raise ValueError(
                f"calibration must be null with a pool of hard negatives, got {calibration}; set it"
                " to null, or pool"
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
        self.calibration, self.one_scale, self.block_items = calibration, one_scale, block_items
        rate_V = None if calibration is None else self.negatives.rate(torch.arange(num_items))
        self.register_buffer("rate_V", rate_V, persistent=False)
        # calibrated, an item that stands again in a padded batch would count again
        self.fills_targets = shared_targets and pool is None and calibration is None

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
        told = f"binary cross entropy scores {whose} targets and {drawn:,} drawn items"
        told += of_draws(self.negatives, self.block_items)
        if self.calibration is None:
            return f"{told}; its sum over all {num_items:,} is estimated without bias"
        return (
            f"{told}; with calibration={self.calibration:g} it is no estimate of its sum over all, "
            "for items count by how often they are drawn (gBCE)"
        )

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Sum over users and items of `-log p` of targets and `-log(1 - p)` of others, over B.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V). Weights multiply `one_scale`.
            updates: change the scored rows of the catalog table and bias in place. Without them
                autograd makes a gradient of every row, zero for those not scored.

        Returns:
            float32 []. Unit: nats per user.

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0, 2]), torch.tensor([0, 2]))
            >>> loss = SampledBinary(3, negatives=3)  # all of them: exact
            >>> loss(flat, torch.zeros(3, 4), torch.zeros(3), target)  # 3 log 2
            tensor(2.0794)
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
        asked, share_R, power = catalog.asked, catalog.share_R, self.one_scale
        if self.rate_V is not None:
            places_P = asked.target.values
            rate_P = self.rate_V[catalog.items_R[places_P]].to(share_R.dtype)
            share_R = torch.ones_like(share_R).index_put((places_P,), rate_P)
            asked = asked.weighted(asked.target.all_weights().to(rate_P) * self._power(rate_P))
        return catalog_loss(
            separable(
                Cost(
                    lambda scores: power * F.softplus(-scores),
                    lambda scores: -power * torch.sigmoid(-scores),
                ),
                Cost(F.softplus, torch.sigmoid),
                share_R,
            ),
            catalog.encoded,
            catalog.item_weight_RD,
            catalog.item_bias_R,
            asked,
            num_users=encoded.hidden_BD.shape[0],
            block_items=self.block_items,
            updates=catalog.updates,
        )

    def _of_own_targets(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates,
    ) -> Tensor:
        """The draws that are a target of a user cost that user nothing."""
        asked = asked_of(target, encoded, item_bias_V)
        scored = own_scores(self.negatives, asked, encoded, item_weight_VD, item_bias_V, updates)
        costs_S = F.softplus(scored.drawn_BS).sum(0)
        if self.calibration is None:
            costs_S = costs_S * scored.shares_S
        costs_P = self.one_scale * F.softplus(-scored.target_P)
        if self.rate_V is not None:
            costs_P = costs_P * self._power(self.rate_V[asked.target.values].to(costs_P.dtype))
        if asked.target.weights is not None:
            costs_P = costs_P * asked.target.weights
        return (costs_S.sum() + costs_P.sum()) / encoded.hidden_BD.shape[0]

    def _power(self, rate_P: Tensor) -> Tensor:
        """Float [P]: gBCE's power of the probability of each target, by its sampling rate."""
        assert self.calibration is not None
        # theirs is rate * (t * (1 - 1 / rate) + 1 / rate), which is the same
        return 1.0 - self.calibration * (1.0 - rate_P)
