"""Errors of activated scores over the whole catalog: a target should be 1, any other item 0."""

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.activated import Activated, Output, refuse_unread
from deeprec.batch import Encoded, Jagged
from deeprec.errors import DataError
from deeprec.loss.asked import Target
from deeprec.loss.block_gradient import Gradient, Lengths
from deeprec.loss.block_size import check_block_items
from deeprec.loss.blocks import Blocks
from deeprec.loss.catalog_blocks import Cost, Walk, catalog_loss, check_scales, separable
from deeprec.loss.fit import Trained
from deeprec.table import NO_UPDATES, Updates

Error = Literal["absolute", "squared", "squared_hinge", "hinge", "cross_entropy"]
ENDING_AT_0: tuple[Output, ...] = ("sigmoid", "relu", "softplus")  # for scores ever lower


class Regression(nn.Module):
    """Every item's score, activated, against 1 if it is a target and 0 if not; or against a value.

    With a what became of the score and t what it should be, an item costs

        absolute       |a - t|
        squared        (a - t)^2 / 2
        squared_hinge  (a - |t|)^2 / 2 where t is above 0 and a below it, or t is not and a above
        hinge          max(0, 1 - t a); of any other item nothing
        cross_entropy  -t log(a) - (1 - t) log(1 - a)

    Args:
        error: which of these.
        output: what becomes of a score first; of cross_entropy it must be sigmoid.
        slope: of a leaky_relu output below 0; 1 is the identity, and DSSTNE's default.
        alpha: of an elu or selu output: minus this is where it ends.
        scale: of a selu output.
        values: a target should be its weight, as `target.weigh=true` gives it, in place of 1; with
            cross_entropy these must lie in [0, 1] (`check_values`).
        one_scale: weight of the targets.
        zero_scale: weight of all other items; 0: only targets are learned from.
        block_items: items scored at once; None: as many as suit the device.

    Raises:
        ValueError: there is no such error or output, or block_items is below 1.

    Reference:
        DSSTNE, `engine/kLoss.cu`, its L1, L2, L2Hinge, Hinge and CrossEntropy errors. Differs: the
        slope is that of the value, where DSSTNE has another one for Hinge, SELU and ELU; the scales
        are in the value too, where its DeltaBoost is in the slope alone.
    """

    log_odds = False  # scores are, activated, the targets themselves
    on_engine = True
    fills_targets = True

    def __init__(
        self,
        *,
        error: Error = "squared",
        output: Output = "sigmoid",
        slope: float = 0.01,
        alpha: float = 1.0,
        scale: float = 1.0507,
        values: bool = False,
        one_scale: float = 1.0,
        zero_scale: float = 1.0,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        check_scales(one_scale, zero_scale)
        if error not in get_args(Error):
            raise ValueError(f"error must be one of {', '.join(get_args(Error))}; got {error!r}")
        self.activated = Activated(output, slope=slope, alpha=alpha, scale=scale)
        refuse_unread(output, slope=slope, alpha=alpha, scale=scale)
        if error == "cross_entropy" and output != "sigmoid":
            raise ValueError(f"output must be sigmoid with error=cross_entropy, got {output!r}")
        self.error, self.values, self.block_items = error, values, block_items
        self.weighs_targets = not values
        # whether an item of the lowest score costs nothing, if it is no target
        self.leaves_out = error not in ("absolute", "squared") or output in ENDING_AT_0
        self.one_scale, self.zero_scale = one_scale, zero_scale

    def unfit(self, trained: Trained) -> list[str]:
        """What keeps it from training such a model; see `Trained`."""
        if not self.values or trained.valued:
            return []
        return ["loss.values: must be false where targets have no values, got true; or set "
                "target.weigh=true (target=reconstruct, target=by_kind)"]  # fmt: skip

    def check_values(self, target: Jagged) -> None:
        """Of targets that are given as values.

        Args:
            target: with weights, on the host.

        Raises:
            DataError: they are no probabilities, and the loss is unbounded below for any other.
        """
        if target.weights is None or not (self.values and self.error == "cross_entropy"):
            return
        wrong = target.weights[~((target.weights >= 0.0) & (target.weights <= 1.0))]
        if len(wrong):
            raise DataError(
                "loss.error=cross_entropy with loss.values=true: a target, which is the sum of the "
                f"values of a user's events of an item, must lie in [0, 1], got {wrong[0]:g}; "
                "scale the values (data.value), use loss.error=squared, or loss.values=false"
            )

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Sum over users and items of what each costs, divided by B.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V). Weights multiply `one_scale`, or
                are what targets should be, where `values` says so.
            updates: change rows of the catalog table and bias as soon as their gradient is known.

        Returns:
            float32 [].

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target, bias = Jagged(torch.tensor([0]), torch.tensor([0, 1])), torch.zeros(3)
            >>> Regression()(flat, torch.zeros(3, 4), bias, target)  # 3 * 0.5 ** 2 / 2
            tensor(0.3750)
        """
        return catalog_loss(
            self._walk(),
            encoded,
            item_weight_VD,
            item_bias_V,
            target,
            num_users=encoded.hidden_BD.shape[0],
            block_items=self.block_items,
            updates=updates,
        )

    def _walk(self) -> Walk:
        other = self._cost(0.0, self.zero_scale)
        if not self.values:
            return separable(self._cost(1.0, self.one_scale), other)

        def walk(blocks: Blocks, gradient: Gradient | Lengths | None) -> Tensor:
            wanted_P, blocks.weights_P = blocks.weights_P, torch.ones_like(blocks.weights_P)
            return separable(partial(self._of_values, wanted_P), other)(blocks, gradient)

        return walk

    def _of_values(self, wanted_P: Tensor, places: slice) -> Cost:
        return self._cost(wanted_P[places], self.one_scale)

    def _cost(self, wanted: float | Tensor, scale: float) -> Cost:
        def both(scores: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = self._both(scores, wanted)
            return value.mul_(scale), slope.mul_(scale)

        return Cost(lambda scores: both(scores)[0], lambda scores: both(scores)[1], both)

    def _both(self, scores: Tensor, wanted: float | Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope, new tensors."""
        if self.error == "cross_entropy":
            return F.softplus(scores) - wanted * scores, torch.sigmoid(scores) - wanted
        activated = self.activated(scores)
        derivative = self.activated.derivative(activated)
        if self.error == "hinge":
            gap = torch.relu(1.0 - wanted * activated) * _of_both_sides(wanted)
            return gap, derivative.mul_(-wanted * (gap > 0))
        missed = self._missed(activated, wanted)
        if self.error == "absolute":
            return missed.abs(), derivative.mul_(torch.sign(missed))
        return missed.square().mul_(0.5), derivative.mul_(missed)

    def _missed(self, activated: Tensor, wanted: float | Tensor) -> Tensor:
        if self.error != "squared_hinge":
            return activated - wanted
        if isinstance(wanted, Tensor):
            missed = activated - wanted.abs()
            return torch.where(wanted > 0, missed.clamp(max=0.0), missed.clamp(min=0.0))
        missed = activated - wanted
        return missed.clamp_(max=0.0) if wanted else missed.clamp_(min=0.0)


def _of_both_sides(wanted: float | Tensor) -> float | Tensor:
    """1 where there is a side to be on."""
    return (wanted != 0).to(wanted.dtype) if isinstance(wanted, Tensor) else float(wanted != 0)
