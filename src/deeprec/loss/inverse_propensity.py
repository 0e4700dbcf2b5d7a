"""Targets weighed by one over the chance that they were seen at all: popular ones count less."""

from dataclasses import replace

from torch import Tensor

from deeprec.batch import Jagged


class InversePropensity:
    """What nobody was shown nobody could take: a target of a rare item says more of its user.

    The propensity of an item is `(popularity / highest popularity) ** power`, at least
    `smallest_propensity`; a target weighs one over it, over the mean of that over all training
    interactions, so that the loss keeps its size and the learning rate its meaning.

    Args:
        popularity: int64 [V], training users that had each item, known from the data; an item that
            nobody had counts as one that one user had. None: not known yet.
        power: how much likelier popular items are seen, 0 or more; 0: all targets weigh 1.
        smallest_propensity: no target weighs more than one over it, before the mean; in (0, 1].

    Raises:
        ValueError: an argument lies outside its range.

    Reference:
        Yang et al., Unbiased Offline Recommender Evaluation for Missing-Not-At-Random Implicit
        Feedback, RecSys 2018, section 3.3 (power = (gamma + 1) / 2), there for metrics. Saito et
        al., Unbiased Recommender Learning from Missing-Not-At-Random Implicit Feedback, WSDM 2020,
        train with it. Differs: the mean weight is 1, and the cost of items that are no target stays
        as it is.

    Example:
        >>> import torch
        >>> weighting = InversePropensity(popularity=torch.tensor([16, 4]), power=0.5)
        >>> both = Jagged(torch.tensor([0, 1]), torch.tensor([0, 2]))
        >>> weighting(both).weights  # 1 and 2, over 24 / 20
        tensor([0.8333, 1.6667])
    """

    def __init__(
        self,
        *,
        popularity: Tensor | None = None,
        power: float = 0.5,
        smallest_propensity: float = 0.01,
    ) -> None:
        if not power >= 0.0:
            raise ValueError(f"power must be 0 or more, got {power}")
        if not 0.0 < smallest_propensity <= 1.0:
            raise ValueError(f"smallest_propensity must be in (0, 1], got {smallest_propensity}")
        self.weight_V: Tensor | None = None
        if popularity is not None:
            counts_V = popularity.double()
            share_V = counts_V.clamp(min=1.0) / counts_V.max().clamp(min=1.0)
            weight_V = (share_V**power).clamp(min=smallest_propensity).reciprocal()
            mean = (weight_V * counts_V).sum() / counts_V.sum().clamp(min=1.0)
            self.weight_V = (weight_V / mean).float()

    def begun(self, item_bias_V: Tensor) -> Tensor:
        """A bias of log odds of being a target as log odds of targets as they weigh."""
        assert self.weight_V is not None, "popularity is known when a model is made"
        return item_bias_V + self.weight_V.log().to(item_bias_V)

    def __call__(self, target: Jagged) -> Jagged:
        """The same items, each weighed on top of the weight it has; made on the host."""
        assert self.weight_V is not None, "popularity is known when batches are made"
        weights_P = self.weight_V[target.values]
        if target.weights is not None:
            weights_P = weights_P * target.weights
        return replace(target, weights=weights_P)
