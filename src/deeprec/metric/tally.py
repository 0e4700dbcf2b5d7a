"""One system's metrics, user by user, while its lists come in batch after batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import Tensor

from deeprec.batch import Jagged
from deeprec.metric import exposure, ranking
from deeprec.metric.hits import Hits, found

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DEFINITIONS = {**ranking.DEFINITIONS, **exposure.DEFINITIONS}


@dataclass(frozen=True)
class ItemFacts:
    """What is known of the items of a catalog.

    Args:
        popularity_V: int64 [V], training users who had each item.
        num_users: training users.
        codes: per attribute, int64 [V], a number for each value; -1 unknown.
        prices_V: float64 [V], 0 where unknown.
        embedding_VD: float32 [V, D], rows that stand for the items.
    """

    popularity_V: IntArray
    num_users: int
    codes: Mapping[str, IntArray] = field(default_factory=dict)
    prices_V: FloatArray | None = None
    embedding_VD: npt.NDArray[np.float32] | None = None

    @cached_property
    def order_W(self) -> IntArray:  # noqa: N802  # its shape
        """int64 [W]: items that anybody had, the most popular first, ties by lower index."""
        num_warm = int((self.popularity_V > 0).sum())
        return np.argsort(-self.popularity_V, kind="stable")[:num_warm]

    def share(self, items: IntArray) -> FloatArray:
        """The share of training users who had each of these items."""
        share: FloatArray = self.popularity_V[items] / max(1, self.num_users)
        return share

    def bits(self, items: IntArray) -> FloatArray:
        """How much it would say to hear that a training user had each of these items."""
        bits: FloatArray = -np.log2((self.popularity_V[items] + 1) / (self.num_users + 1))
        return bits


class Tally:
    """Metrics of one system at several cutoffs.

    Args:
        cutoffs: list lengths judged, each at least 1.
        facts: of the catalog.

    Example:
        >>> import torch
        >>> tally = Tally([1, 2], ItemFacts(np.array([3, 1, 0, 0]), num_users=3))
        >>> target = Jagged(torch.tensor([0, 1]), torch.tensor([0, 2]))
        >>> nothing = Jagged(torch.tensor([2]), torch.tensor([0, 1]))
        >>> _ = tally.add(torch.tensor([[3, 0]]), target, nothing, np.array([4]))
        >>> tally.values()["recall@2"].tolist(), tally.shares()["coverage@2"]
        ([0.5], 0.5)
    """

    def __init__(self, cutoffs: Sequence[int], facts: ItemFacts) -> None:
        self.cutoffs = sorted(cutoffs)
        self._facts = facts
        self._values: dict[str, list[FloatArray]] = {}
        num_items = len(facts.popularity_V)
        # lists that hold an item between one cutoff and the next
        self._counts = [np.zeros(num_items, np.int32) for _ in self.cutoffs]
        self._num_users = 0

    def add(
        self, items_BK: Tensor, target: Jagged, history: Jagged, num_candidates_B: IntArray
    ) -> Hits:
        """Judges the lists of some users.

        Args:
            items_BK: int64 [B, K], item indices, best first, distinct inside a list; -1 is a place
                that cannot be a hit. K is at least the largest cutoff.
            target: the distinct items each user took, ascending.
            history: the distinct items each user had before, ascending.
            num_candidates_B: int64 [B], items each list could have held.

        Returns:
            The hits, for who wants to know more of them.
        """
        hits = Hits.of(items_BK, target, num_candidates_B)
        for name, metric in ranking.METRICS.items():
            self._keep(name, np.stack([metric(hits, k) for k in self.cutoffs], 1))
        self._add_exposure(items_BK.numpy(), history)
        if self._facts.prices_V is not None:
            self._keep("revenue", self._revenue(hits, target))
        self._num_users += hits.num_users
        return hits

    def join(self, other: "Tally") -> None:
        """Takes in what another process tallied of other users, behind those of this one."""
        for name, parts in other._values.items():
            self._values.setdefault(name, []).extend(parts)
        for mine, theirs in zip(self._counts, other._counts, strict=True):
            mine += theirs
        self._num_users += other._num_users

    def values(self) -> dict[str, FloatArray]:
        """Per metric@k, float64 [U] in the order the users were added."""
        return {
            f"{name}@{k}": values_U
            for name, parts in self._values.items()
            for k, values_U in zip(self.cutoffs, np.concatenate(parts).T.copy(), strict=True)
        }

    def shares(self) -> dict[str, float]:
        """Per metric@k, what is a property of all lists together."""
        order_W = self._facts.order_W
        counts_V = np.zeros(len(self._facts.popularity_V), np.int64)
        shares: dict[str, dict[int, float]] = {}
        for k, more_V in zip(self.cutoffs, self._counts, strict=True):
            counts_V = counts_V + more_V
            told = {
                "coverage": exposure.coverage(counts_V),
                "gini": exposure.gini(counts_V),
                "head_1": exposure.head(counts_V, order_W, 0.01),
                "head_10": exposure.head(counts_V, order_W, 0.1),
                "overlap": exposure.overlap(counts_V, self._num_users, k),
            }
            for name, share in told.items():
                shares.setdefault(name, {})[k] = share
        return {f"{name}@{k}": share for name, of in shares.items() for k, share in of.items()}

    def _keep(self, name: str, values_BC: FloatArray) -> None:
        self._values.setdefault(name, []).append(values_BC)

    def _add_exposure(self, items: IntArray, history: Jagged) -> None:
        facts, items = self._facts, items[:, : self.cutoffs[-1]]
        held = items >= 0
        start = 0
        for k, counts_V in zip(self.cutoffs, self._counts, strict=True):
            here = items[:, start:k]
            np.add.at(counts_V, here[here >= 0], 1)
            start = k
        self._keep("popularity", exposure.means_at(facts.share(items), held, self.cutoffs))
        self._keep("novelty", exposure.means_at(facts.bits(items), held, self.cutoffs))
        had = np.zeros(items.shape)
        rows, places, _ = found(items, history)
        had[rows, places] = 1
        self._keep("repeats", exposure.means_at(had, held, self.cutoffs))
        for name, codes_V in facts.codes.items():
            codes = np.where(held, codes_V[items], -2)
            self._keep(f"diversity.{name}", exposure.diversity_by_attribute(codes, self.cutoffs))
        if facts.embedding_VD is not None:
            values = exposure.diversity_by_embedding(items, facts.embedding_VD, self.cutoffs)
            self._keep("diversity.embedding", values)

    def _revenue(self, hits: Hits, target: Jagged) -> FloatArray:
        """What the lists would have sold, float64 [B, cutoffs]."""
        assert self._facts.prices_V is not None
        prices_H = self._facts.prices_V[target.values.numpy()[hits.targets_H]]
        return np.stack(
            [
                np.bincount(hits.users_H[near], prices_H[near], minlength=hits.num_users).astype(
                    np.float64, copy=False
                )
                for near in (hits.places_H < k for k in self.cutoffs)
            ],
            1,
        )
