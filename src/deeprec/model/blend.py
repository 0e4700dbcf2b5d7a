"""Several models as one: what each says of a user, made comparable, and weighed.

A blend keeps the seam: hidden vectors and catalog tables stand side by side, so that one product
gives the weighted sum of all products, and an item that a member scores on its own has the weighted
sum of what all members say of it as a score of its own.

Scores of different models have different sizes. Each member's are divided by their standard
deviation over the catalog, for every user, which needs no score of the catalog:

    variance[b] = h[b] . C h[b]        h: hidden vector and 1        C: covariance of table and bias

of the products. Items with scores of their own are taken out of it, and are a group beside it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deeprec.batch import Batch, Encoded
from deeprec.model.base import Recommender
from deeprec.model.rank import encode
from deeprec.model.sparse_input import pair_products
from deeprec.model.topk import with_repeats


class Blend(nn.Module):
    """The weighted sum of what members say; `deeprec blend` makes it of runs.

    Args:
        num_items: V, known from the data.
        members: recommenders of the same catalog and attributes, trained before.
        weights: of each member's scores, over their standard deviation; 0 or more.
        cutoff: weights are best by validation ndcg@cutoff; None: they were given. It is told, and
            changes nothing.
        told: what `experiment=auto` was told, of which it trained the members; likewise. None:
            they are runs of their own.

    Raises:
        ValueError: weights do not fit the members, or are below 0.

    Example:
        >>> from deeprec.model.linear_autoencoder import LinearAutoencoder
        >>> members = [LinearAutoencoder(3, width=1), LinearAutoencoder(3, width=2)]
        >>> blend = Blend(3, members=members, weights=[0.25, 0.75])
        >>> [list(blend.item_weight.shape), blend.weights]
        [[3, 5], [0.25, 0.75]]
    """

    passes: int | None = 1

    def __init__(
        self,
        num_items: int,
        *,
        members: Sequence[Any],
        weights: Sequence[float],
        cutoff: int | None = None,
        told: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if len(weights) != len(members) or not members:
            raise ValueError(
                f"weights must be one for each of {len(members)} members, got {list(weights)}"
            )
        if min(weights) < 0.0 or not sum(weights) > 0.0:
            raise ValueError(f"weights must be 0 or more, one of them above, got {list(weights)}")
        self.num_items, self.weights, self.cutoff = num_items, list(weights), cutoff
        self.members = nn.ModuleList(members)
        width = sum(member.item_weight.shape[1] + 1 for member in members)
        self.item_weight = nn.Parameter(torch.zeros(num_items, width), requires_grad=False)
        self.item_bias = nn.Parameter(torch.zeros(num_items), requires_grad=False)
        for index, member in enumerate(members):
            size = member.item_weight.shape[1] + 1
            moments = torch.zeros(1 + size, size, dtype=torch.float64)
            self.register_buffer(f"moments_{index}", moments)

    @torch.no_grad()
    def join(self) -> None:
        """Takes over the tables that the members have by now."""
        tables = [
            torch.cat([member.item_weight, member.item_bias[:, None]], 1)
            for member in self._members()
        ]
        self.item_weight.copy_(torch.cat(tables, 1))
        for moments, table_VD in zip(self.moments(), tables, strict=True):
            moments.copy_(moments_of(table_VD))

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: dict[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the members say of each user; see `Recommender.encode`."""
        encoded = [
            member.encode(items_N, offsets_B1, ages_N, attributes) for member in self._members()
        ]
        return blended(encoded, self.item_weight, self.moments(), self.weights)

    def standardised(self, batch: Batch) -> list[tuple[Encoded, Tensor]]:
        """What each member alone says of a batch, over its spread, and its part of the table."""
        moments = self.moments()
        tables = torch.split(self.item_weight, [one.shape[1] for one in moments], 1)
        return [
            (standardised(encode(member, batch), table, one), table)
            for member, table, one in zip(self._members(), tables, moments, strict=True)
        ]

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, of the members' own; see `Recommender`."""
        return ServingBlend(self)

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Joins the members, who have learned already; see `Solvable.solve`."""
        self.join()
        yield float("nan")

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """The tables once more; see `Solvable.solving_bytes`."""
        return 4 * self.item_weight.numel()

    def _members(self) -> list[Recommender]:
        return list(self.members)  # type: ignore[arg-type]  # Modules that keep the contract

    def moments(self) -> list[Tensor]:
        """Of each member, as `moments_of` has them."""
        return [getattr(self, f"moments_{index}") for index in range(len(self.members))]


class ServingBlend(nn.Module):
    """The encoder of a `Blend` in plain aten operations, for TorchScript.

    Args:
        blend: whose tables it shares.
    """

    moments: Tensor  # of all members, one after the other: TorchScript knows no list of buffers

    def __init__(self, blend: Blend) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(member.serving_encoder() for member in blend._members())
        self.item_weight, self.weights = blend.item_weight, blend.weights
        moments = blend.moments()
        self.sizes = [one.shape[1] for one in moments]
        self.register_buffer("moments", torch.cat([one.flatten() for one in moments]))

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """As `Blend.encode`."""
        encoded: list[Encoded] = []
        for encoder in self.encoders:
            encoded.append(
                encoder(items_N, offsets_B1, ages_N, attribute_values, attribute_offsets)
            )
        moments: list[Tensor] = []
        start = 0
        for size in self.sizes:
            stop = start + (1 + size) * size
            moments.append(self.moments[start:stop].view(1 + size, size))
            start = stop
        return blended(encoded, self.item_weight, moments, self.weights)


def blended(
    encoded: list[Encoded], table_VW: Tensor, moments: list[Tensor], weights: list[float]
) -> Encoded:
    """What members said of B users, as one; scriptable.

    Args:
        encoded: of each member.
        table_VW: float32 [V, W], the members' catalog tables side by side, each with its bias.
        moments: of each member's part of the table, as `moments_of` has them.
        weights: of each member.

    Returns:
        Hidden vectors [B, W], or [B, W + V] where a member's hidden vectors hold scores.
    """
    num_items = table_VW.shape[0]
    cells_M, offsets_B1 = own_cells(encoded, num_items)
    scores_M = torch.zeros(cells_M.shape[0], device=cells_M.device)
    hidden: list[Tensor] = []
    direct: list[Tensor] = []
    users_M = torch.div(cells_M, num_items, rounding_mode="floor")
    items_M = cells_M % num_items
    start = 0
    for index, said in enumerate(encoded):
        size = moments[index].shape[1]
        table_VD = table_VW[:, start : start + size]
        start += size
        own = standardised(said, table_VD, moments[index])
        hidden.append(own.hidden_BD[:, :size] * weights[index])
        if own.hidden_BD.shape[1] > size:
            direct.append(own.hidden_BD[:, size:] * weights[index])
        product_M = products(own.hidden_BD, table_VD, items_M, offsets_B1, users_M)
        scores_M = scores_M + replaced(product_M, cells_M, own, num_items) * weights[index]
    if len(direct) > 0:
        hidden.append(torch.stack(direct).sum(0))
    return Encoded(torch.cat(hidden, 1), items_M, offsets_B1, scores_M)


def standardised(said: Encoded, table_VD: Tensor, moments: Tensor) -> Encoded:
    """What one member said, over its spread, with a column of ones for the bias of its table."""
    hidden_BD = with_one(said.hidden_BD, table_VD.shape[1])
    items_M, offsets_B1, own_M = said.repeat_items_M, said.repeat_offsets_B1, said.repeat_scores_M
    own_M = own_M.float()
    scale_B = 1.0 / deviation(Encoded(hidden_BD, items_M, offsets_B1, own_M), table_VD, moments)
    own_M = own_M * scale_B[owners_of(offsets_B1, items_M)]
    return Encoded(hidden_BD * scale_B[:, None], items_M, offsets_B1, own_M)


def scores_at(said: Encoded, table_VD: Tensor, items_BC: Tensor) -> Tensor:
    """float32 [B, C]: the scores of these items by the standardised; of item -1, of item 0."""
    num_users, num_asked = items_BC.shape
    items_BC = items_BC.clamp(min=0)
    users_M = torch.arange(num_users, device=items_BC.device).repeat_interleave(num_asked)
    offsets_B1 = torch.arange(num_users + 1, device=items_BC.device) * num_asked
    product_M = products(said.hidden_BD, table_VD, items_BC.flatten(), offsets_B1, users_M)
    return with_repeats(product_M.view_as(items_BC), items_BC, said)


def moments_of(table_VD: Tensor) -> Tensor:
    """float64 [1 + D, D]: the mean row, and below it the covariance of the columns."""
    exact_VD = table_VD.double()
    mean_D = exact_VD.mean(0)
    off_VD = exact_VD - mean_D
    return torch.cat([mean_D[None], off_VD.T @ off_VD / len(off_VD)])


def own_cells(encoded: list[Encoded], num_items: int) -> tuple[Tensor, Tensor]:
    """The cells, user * V + item, that any member scores on its own, ascending; and offsets."""
    cells: list[Tensor] = []
    for said in encoded:
        cells.append(cells_of(said, num_items))
    cells_M = torch.unique(torch.cat(cells))
    users_B1 = torch.arange(encoded[0].repeat_offsets_B1.shape[0], device=cells_M.device)
    return cells_M, torch.searchsorted(cells_M, users_B1 * num_items)


def cells_of(said: Encoded, num_items: int) -> Tensor:
    """int64 [M]: user * V + item of what one member scores on its own, ascending."""
    owners_M = owners_of(said.repeat_offsets_B1, said.repeat_items_M)
    return owners_M * num_items + said.repeat_items_M


def owners_of(offsets_B1: Tensor, items_M: Tensor) -> Tensor:
    """int64 [M]: the user of each cell."""
    return torch.repeat_interleave(offsets_B1[1:] - offsets_B1[:-1], output_size=items_M.shape[0])


def with_one(hidden: Tensor, size: int) -> Tensor:
    """[B, D] or [B, D + V] with a column of ones after the first D = size - 1, for the bias."""
    ones_B1 = torch.ones([hidden.shape[0], 1], device=hidden.device)
    return torch.cat([hidden[:, : size - 1], ones_B1, hidden[:, size - 1 :]], 1)


def products(
    hidden_BD: Tensor, table_VD: Tensor, items_M: Tensor, offsets_B1: Tensor, users_M: Tensor
) -> Tensor:
    """float32 [M]: what the product says of these items, of each user its own."""
    size = table_VD.shape[1]
    product_M = pair_products(hidden_BD[:, :size], table_VD, items_M, offsets_B1, users_M)
    if hidden_BD.shape[1] > size:
        product_M = product_M + hidden_BD[users_M, size + items_M]
    return product_M


def replaced(product_M: Tensor, cells_M: Tensor, said: Encoded, num_items: int) -> Tensor:
    """What a member says of these cells: its own score where it has one, else the product."""
    places = torch.searchsorted(cells_M, cells_of(said, num_items))
    return product_M.index_put([places], said.repeat_scores_M.float())


def deviation(said: Encoded, table_VD: Tensor, moments: Tensor) -> Tensor:
    """float32 [B]: the standard deviation of each user's scores over the catalog.

    Infinite where all scores are the same: such a member says nothing of that user.

    Args:
        said: its hidden vectors with a column of ones, as `with_one` has them.
        table_VD: float32 [V, D], its catalog table with the bias.
        moments: of the table, as `moments_of` has them.
    """
    if said.hidden_BD.shape[1] > table_VD.shape[1]:
        mean_B, variance_B = spread_of_scores(said, table_VD)
    else:
        mean_B, variance_B = spread_of_products(said, table_VD, moments)
    # float32 leaves less than this of scores that are all the same
    least_B = 1e-12 * mean_B**2 + 1e-70
    nothing = torch.full_like(variance_B, float("inf"))
    return torch.where(variance_B > least_B, variance_B, nothing).sqrt().float()


def spread_of_scores(said: Encoded, table_VD: Tensor) -> tuple[Tensor, Tensor]:
    """float64 [B], mean and variance of scores that are there already: no need for moments."""
    size = table_VD.shape[1]
    scores_BV = said.hidden_BD[:, :size] @ table_VD.t() + said.hidden_BD[:, size:]
    users_M = owners_of(said.repeat_offsets_B1, said.repeat_items_M)
    scores_BV = scores_BV.index_put([users_M, said.repeat_items_M], said.repeat_scores_M).double()
    mean_B = scores_BV.mean(1)
    return mean_B, ((scores_BV - mean_B[:, None]) ** 2).mean(1)


def spread_of_products(said: Encoded, table_VD: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """float64 [B], mean and variance of products, own scores in their place.

    Of two groups, the products that stay and the own scores, each about its own mean. Own scores
    may be a millionth of the products that they replace: about one mean nothing of them would be
    left.
    """
    num_items = table_VD.shape[0]
    items_M, offsets_B1 = said.repeat_items_M, said.repeat_offsets_B1
    users_M = owners_of(offsets_B1, items_M)
    hidden_BD, own_M = said.hidden_BD.double(), said.repeat_scores_M.double()
    product_M = products(said.hidden_BD, table_VD, items_M, offsets_B1, users_M).double()
    zeros_B = torch.zeros_like(hidden_BD[:, 0])
    mean_B = hidden_BD @ moments[0]
    squares_B = num_items * (hidden_BD @ moments[1:] * hidden_BD).sum(1)
    num_own_B = (offsets_B1[1:] - offsets_B1[:-1]).double()
    num_left_B = num_items - num_own_B
    off_M = product_M - mean_B[users_M]
    off_B = -zeros_B.index_add(0, users_M, off_M) / num_left_B.clamp(min=1.0)
    left_B = squares_B - zeros_B.index_add(0, users_M, off_M**2) - num_left_B * off_B**2
    left_B = torch.where(num_left_B > 1.0, left_B.clamp(min=0.0), zeros_B)
    own_B = zeros_B.index_add(0, users_M, own_M) / num_own_B.clamp(min=1.0)
    within_B = zeros_B.index_add(0, users_M, (own_M - own_B[users_M]) ** 2)
    apart_B = mean_B + off_B - own_B
    share_B = num_own_B / num_items
    variance_B = (left_B + within_B + num_left_B * share_B * apart_B**2) / num_items
    return (1.0 - share_B) * (mean_B + off_B) + share_B * own_B, variance_B
