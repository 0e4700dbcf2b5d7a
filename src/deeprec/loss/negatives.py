"""Which items a sampled loss scores for a batch, and for how many others each of them stands.

Every item that is a target of anybody in the batch is scored for everybody, and stands for itself
alone. The rest of the catalog is estimated from items drawn for the whole batch: one that is drawn
`count` times where `expected` draws were to be expected stands for `count / expected` items. So the
sum over the catalog of any function of the scores is estimated without bias, and a target is never
mistaken for a drawn negative.

Shapes (legend in deeprec/batch.py): S draws, R distinct items that are scored.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """The items that are scored for a batch."""

    items_R: Tensor  # int64 [R], distinct, ascending
    share_R: Tensor  # float32 [R], for how many items each stands in a sum over the catalog, > 0


class Negatives:
    """Draws items with replacement from a mix of the uniform distribution and one of popularity.

    A draw costs O(log V). `popular` and `uniform` draws each have a fixed number, and an item's
    expected count is their sum (the balance heuristic), so that no item can be drawn only where it
    is very unlikely.

    Args:
        num_items: V.
        count: S, draws for a batch.
        popularity: int64 [V], training users that had each item; None: all draws are uniform.
        power: a popular draw takes an item with probability in proportion to
            `(popularity + 1) ** power`.
        uniform_share: of the draws, in [0, 1]; above 0, so that no item stands for very many.
        pool: draw so many instead, and keep the `count` that are hardest for the batch; each then
            stands for itself, so that a sum over the catalog is no longer estimated: the others
            are left out. None: keep all draws.

    Raises:
        ValueError: count is below 1, uniform_share lies outside (0, 1], or pool is not above count.

    Reference:
        Bengio and Senecal, Quick Training of Probabilistic Neural Nets by Importance Sampling,
        AISTATS 2003; the balance heuristic is that of Veach and Guibas, SIGGRAPH 1995.
    """

    def __init__(
        self,
        num_items: int,
        count: int,
        *,
        popularity: Tensor | None = None,
        power: float = 0.5,
        uniform_share: float = 0.2,
        pool: int | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"negatives must be 1 or more, got {count}")
        if pool is not None and pool <= count:
            raise ValueError(f"pool must be above negatives={count}, got {pool}; or set it to null")
        if not 0.0 < uniform_share <= 1.0:
            raise ValueError(f"uniform_share must be above 0 and at most 1, got {uniform_share}")
        self.num_items, self.count, self.pool = num_items, count, pool
        draws = pool or count
        self.num_uniform = draws if popularity is None else max(1, round(draws * uniform_share))
        self.num_popular = draws - self.num_uniform
        self._cumulative_V = None if popularity is None else _cumulative(popularity, power)

    def candidates(self, targets_P: Tensor, hardness: Callable[[Tensor], Tensor]) -> Candidates:
        """The batch's targets, and items drawn beside them from the global generator.

        Args:
            targets_P: int64 [P], items that are a target of somebody; repeats are fine.
            hardness: int64 items -> float, how high the batch scores each; asked for a pool only.
        """
        if self.count >= self.num_items:  # to draw so many is to know all of them
            items_V = torch.arange(self.num_items, device=targets_P.device)
            return Candidates(items_V, torch.ones(len(items_V), device=targets_P.device))
        drawn_S = self.draw(targets_P.device)
        targets_T = torch.unique(targets_P)
        negatives, counts = torch.unique(
            drawn_S[~torch.isin(drawn_S, targets_T)], return_counts=True
        )
        shares = counts / self.expected(negatives)
        if self.pool is not None:
            hardest = hardness(negatives).topk(min(self.count, len(negatives))).indices
            negatives, shares = negatives[hardest], torch.ones_like(shares[hardest])
        items_R, order_R = torch.sort(torch.cat([targets_T, negatives]))
        share_R = torch.cat([shares.new_ones(len(targets_T)), shares])[order_R]
        return Candidates(items_R, share_R)

    def draw(self, device: torch.device) -> Tensor:
        """int64 [S], with repeats."""
        uniform = torch.randint(self.num_items, (self.num_uniform,), device=device)
        if self._cumulative_V is None:
            return uniform
        self._cumulative_V = self._cumulative_V.to(device)
        places = torch.rand(self.num_popular, dtype=torch.float64, device=device)
        places *= self._cumulative_V[-1]
        popular = torch.searchsorted(self._cumulative_V, places, right=True)
        return torch.cat([uniform, popular.clamp_(max=self.num_items - 1)])

    def expected(self, items: Tensor) -> Tensor:
        """float32, shape of items: how often each is drawn on average."""
        expected = torch.full(items.shape, self.num_uniform / self.num_items, device=items.device)
        if self._cumulative_V is not None:
            below = torch.where(items > 0, self._cumulative_V[(items - 1).clamp(min=0)], 0.0)
            chance = (self._cumulative_V[items] - below) / self._cumulative_V[-1]
            expected += (self.num_popular * chance).float()
        return expected


def _cumulative(popularity_V: Tensor, power: float) -> Tensor:
    """float64 [V]: summed weights; in float32 a catalog of millions would lose its tail."""
    return (popularity_V.double() + 1.0).pow_(power).cumsum_(0)
