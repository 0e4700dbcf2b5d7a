"""Which items a sampled loss scores for a batch, and for how many others each of them stands.

Every item that is a target of anybody in the batch is scored for everybody, and stands for itself
alone. The rest of the catalog is estimated from items drawn for the whole batch: one that is drawn
`count` times where `expected` draws were to be expected stands for `count / expected` items. So the
sum over the catalog of any function of the scores is estimated without bias, and a target is never
mistaken for a drawn negative.

All of that is decided on the host, before a step. Of a pool of draws the hardest can only be found
by the device; how many they are is known before.

Shapes (legend in deeprec/batch.py): S draws, T distinct targets.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deeprec.batch import Asked, Drawn, Jagged, Sample, transposed, with_transposition

Items = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float32]


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
        pool: draw so many instead, and keep the `count` that are hardest for the batch, those first
            that somebody of it had and has an own score for; each then stands for itself, so that
            a sum over the catalog is no longer estimated: the others are left out. None: keep all
            draws.
        shared_targets: score the batch's targets for everybody; else each for its own users, and
            for everybody the draws alone.

    Raises:
        ValueError: count is below 1, uniform_share lies outside (0, 1], pool is not above count, or
            there is a pool and targets are not shared.

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
        shared_targets: bool = True,
    ) -> None:
        if count < 1:
            raise ValueError(f"negatives must be 1 or more, got {count}")
        if pool is not None and pool <= count:
            raise ValueError(f"pool must be above negatives={count}, got {pool}; or set it to null")
        if not 0.0 < uniform_share <= 1.0:
            raise ValueError(f"uniform_share must be above 0 and at most 1, got {uniform_share}")
        if pool is not None and not shared_targets:
            raise ValueError("a pool of hard negatives needs shared_targets=true, got false")
        self.num_items, self.count, self.pool = num_items, count, pool
        self.shared_targets = shared_targets
        draws = pool or count
        self.num_uniform = draws if popularity is None else max(1, round(draws * uniform_share))
        self.num_popular = draws - self.num_uniform
        self._cumulative_V = None if popularity is None else _cumulative(popularity, power)

    def sample(self, asked: Asked, draw: torch.Generator | None = None) -> Sample | Drawn:
        """What is scored for a batch: `Sample` where targets are shared, else `Drawn`.

        What is asked may lie on any device; all this happens on the host, where the sample's sizes
        are known, and the sample is brought to the device.

        Args:
            asked: arranged; targets and repeats of the batch.
            draw: on the CPU; None: torch's own.
        """
        return self._with_targets(asked, draw) if self.shared_targets else self._alone(asked, draw)

    def _with_targets(self, asked: Asked, draw: torch.Generator | None) -> Sample:
        if self.count >= self.num_items:  # to draw so many is to know all of them
            items, shares = self._everything()
            pool, num_hardest = items[:0], 0
        else:
            items, shares, pool, num_hardest = self._chosen(asked, draw)
        target, _ = _told(asked.target, items)
        repeats, of_repeats = _told(asked.repeats, items)
        device = target.values.device
        return Sample(
            items=torch.from_numpy(items).to(device),
            shares=torch.from_numpy(shares).to(device),
            pool=torch.from_numpy(pool).to(device),
            num_hardest=num_hardest,
            target=target,
            repeats=repeats,
            of_repeats=of_repeats,
        )

    def _alone(self, asked: Asked, draw: torch.Generator | None) -> Drawn:
        if self.count >= self.num_items:
            items, shares = self._everything()
        else:
            items, counts = np.unique(self.draw(draw).numpy(), return_counts=True)
            shares = counts.astype(np.float32) / self.expected(torch.from_numpy(items)).numpy()
        targets, _ = _told(replace(asked.target, weights=None), items)
        repeats, of_repeats = _told(asked.repeats, items)
        distinct = transposed(asked.target).distinct.cpu().numpy()
        among = _among(items, distinct)
        shared, others = np.flatnonzero(among), np.flatnonzero(~among)
        as_targets = np.searchsorted(distinct, items[shared])
        device = asked.target.values.device
        return Drawn(
            items=torch.from_numpy(items).to(device),
            shares=torch.from_numpy(shares).to(device),
            targets=targets,
            repeats=repeats,
            of_repeats=of_repeats,
            shared=torch.from_numpy(shared).to(device),
            as_targets=torch.from_numpy(as_targets).to(device),
            others=torch.from_numpy(others).to(device),
        )

    def _everything(self) -> tuple[Items, Shares]:
        return np.arange(self.num_items), np.ones(self.num_items, np.float32)

    def draw(self, draw: torch.Generator | None = None) -> Tensor:
        """int64 [S], with repeats, on the CPU."""
        uniform = torch.randint(self.num_items, (self.num_uniform,), generator=draw)
        if self._cumulative_V is None:
            return uniform
        places = torch.rand(self.num_popular, dtype=torch.float64, generator=draw)
        places *= self._cumulative_V[-1]
        popular = torch.searchsorted(self._cumulative_V, places, right=True)
        return torch.cat([uniform, popular.clamp_(max=self.num_items - 1)])

    def expected(self, items: Tensor) -> Tensor:
        """float32, shape of items: how often each is drawn on average."""
        expected = torch.full(items.shape, self.num_uniform / self.num_items)
        if self._cumulative_V is not None:
            expected += (self.num_popular * self._chance(items)).float()
        return expected

    def rate(self, items: Tensor) -> Tensor:
        """float32, shape of items: the chance of each to be among the draws, once or more."""
        if self.count >= self.num_items:
            return torch.ones(items.shape)
        missed = torch.full(items.shape, -1.0 / self.num_items, dtype=torch.float64).log1p_()
        missed *= self.num_uniform
        if self._cumulative_V is not None:
            missed += self.num_popular * (-self._chance(items)).log1p()
        return missed.expm1_().neg_().float()

    def _chance(self, items: Tensor) -> Tensor:
        """float64: of each to be what a popular draw takes."""
        assert self._cumulative_V is not None
        below = torch.where(items > 0, self._cumulative_V[(items - 1).clamp(min=0)], 0.0)
        return (self._cumulative_V[items] - below) / self._cumulative_V[-1]

    def _chosen(
        self, asked: Asked, draw: torch.Generator | None
    ) -> tuple[Items, Shares, Items, int]:
        """The first four fields of a `Sample`, on the host."""
        ascending = transposed(asked.target).on_host
        targets_T = ascending[np.diff(ascending, prepend=-1) > 0]
        drawn, counts = np.unique(self.draw(draw).numpy(), return_counts=True)
        beside = ~_among(drawn, targets_T)
        negatives, counts = drawn[beside], counts[beside]
        if self.pool is not None:
            # a repeat score needs its place now, so items with one are not left to the device
            owned = _among(negatives, transposed(asked.repeats).on_host)
            items, pool = np.sort(np.concatenate([targets_T, negatives[owned]])), negatives[~owned]
            num_hardest = min(max(self.count - int(owned.sum()), 0), len(pool))
            return items, np.ones(len(items), np.float32), pool, num_hardest
        shares = counts / self.expected(torch.from_numpy(negatives)).numpy()
        items, shares = (
            np.concatenate(columns)
            for columns in ((targets_T, negatives), (np.ones(len(targets_T)), shares))
        )
        order = np.argsort(items)
        return items[order], shares[order].astype(np.float32), items[:0], 0


def _told(rows: Jagged, items: Items) -> tuple[Jagged, Tensor]:
    """Those of the values that are among the items, told by their place there; and which they are.

    Args:
        rows: weights stay as they are; there may be some only where all values are among the items.
        items: int64, ascending.
    """
    device, values = rows.values.device, rows.values.cpu().numpy()
    kept = np.flatnonzero(_among(values, items))
    places = torch.from_numpy(np.searchsorted(items, values[kept])).to(device)
    offsets = torch.from_numpy(np.searchsorted(kept, rows.offsets.cpu().numpy())).to(device)
    told = with_transposition(Jagged(places, offsets, rows.weights))
    return told, torch.from_numpy(kept).to(device)


def _among(items: Items, ascending: Items) -> npt.NDArray[np.bool_]:
    """Of each item, whether it is one of those."""
    if len(ascending) == 0:
        return np.zeros(len(items), np.bool_)
    places = np.searchsorted(ascending, items).clip(max=len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[places] == items
    return found


def _cumulative(popularity_V: Tensor, power: float) -> Tensor:
    """float64 [V]: summed weights; in float32 a catalog of millions would lose its tail."""
    return (popularity_V.double() + 1.0).pow_(power).cumsum_(0)
