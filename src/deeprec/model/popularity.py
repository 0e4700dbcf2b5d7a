"""What most people took: of all, of late, or among those alike; the floor of every comparison."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from deeprec.batch import Batch, Encoded, Jagged
from deeprec.model.history import aggregate
from deeprec.model.repeat import without_repeat
from deeprec.model.solved import SolvedModel, as_matrix


class Popularity(SolvedModel):
    """Recommends what most users took; knows nothing of the user but perhaps one attribute.

    The score of an item is the share of users who took it, an item counting once for a user. With
    `by`, a user whose attribute has value s gets the share among users of value s, drawn towards
    the share among all as if so many more users of that value did as everybody does. A user of
    several values counts among the users of each, and gets the mean of their shares.

    Args:
        num_items: V, known from the data.
        fields: user attribute -> size of its vocabulary, known from the data.
        recent_days: a user counts `exp(-days since it last took the item / recent_days)`; null: 1.
        by: user attribute by whose values shares are taken; null: none.
        by_users: how many more users of each value do as everybody does.

    Raises:
        ValueError: `by` is no user attribute of the data, or a number is not above 0.

    Example:
        >>> model = Popularity(2)
        >>> histories = Jagged(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 3, 4]))
        >>> users = Batch(torch.arange(2), histories)
        >>> losses = list(model.solve(users, 0, torch.Generator()))
        >>> model.item_bias.tolist()
        [0.5, 1.0]
    """

    def __init__(
        self,
        num_items: int,
        *,
        fields: Mapping[str, int] | None = None,
        recent_days: float | None = None,
        by: str | None = None,
        by_users: float = 100.0,
    ) -> None:
        if by is not None and fields is not None and by not in fields:
            known = ", ".join(fields) or "none"
            raise ValueError(f"by must be a user attribute of the data ({known}), got {by!r}")
        for name, value in (("recent_days", recent_days), ("by_users", by_users)):
            if value is not None and not value > 0.0:
                raise ValueError(f"{name} must be above 0, got {value}")
        num_values = 0 if by is None or fields is None else fields[by]
        super().__init__(num_items, max(1, num_values), list(fields or {}))
        self.num_values, self.recent_days, self.by_users = num_values, recent_days, by_users
        self.field = -1 if by is None else self.field_names.index(by) if fields else 0

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """A one, shared out among the values of a user; see `Recommender.serving_encoder`."""
        num_users = offsets_B1.shape[0] - 1
        hidden_BD = torch.zeros(num_users, self.item_weight.shape[1], device=offsets_B1.device)
        if self.num_values > 0:
            lengths_B = attribute_offsets[self.field].diff()
            users = torch.repeat_interleave(lengths_B)
            share = 1.0 / lengths_B[users].float()
            values = attribute_values[self.field]
            hidden_BD = hidden_BD.index_put([users, values], share, accumulate=True)
        return without_repeat(hidden_BD)

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Counts; see `Solvable.solve`."""
        rows = users.history
        history = aggregate(rows.values, rows.offsets, users.known_ages, self.num_items)
        counted_M = torch.ones(len(history.items_M), dtype=torch.float64)
        if self.recent_days is not None:
            counted_M = torch.exp(-history.latest_M.double() / self.recent_days)
        counts_V = torch.bincount(history.items_M, counted_M, minlength=self.num_items)
        share_V = counts_V / max(users.num_users, 1)
        self.item_bias.copy_(share_V)
        if self.num_values > 0:
            values = users.attributes[self.field_names[self.field]]
            having = Jagged(values.values, values.offsets, torch.ones(len(values.values)).double())
            taken = Jagged(history.items_M, history.offsets_B1, counted_M)
            counts_SV = as_matrix(having, self.num_values).T @ as_matrix(taken, self.num_items)
            smoothed_SV = torch.from_numpy(counts_SV.toarray())
            smoothed_SV += self.by_users * share_V
            users_S = torch.bincount(values.values, minlength=self.num_values)
            smoothed_SV /= (users_S + self.by_users)[:, None]
            self.item_weight.copy_((smoothed_SV - share_V).T)
        yield float("nan")

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """Counts of items by value of the attribute; see `Solvable.solving_bytes`."""
        return 16 * num_events + 24 * self.num_values * self.num_items
