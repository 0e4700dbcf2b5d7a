"""Implicit alternating least squares: users and items in turn, each solved exactly.

Shapes (legend in deeprec/batch.py): L items of the longest history of a group of users.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from deeprec.batch import Batch, Encoded, Jagged
from deeprec.console import console
from deeprec.model.history import HistoryWeighting, aggregate, history_weights
from deeprec.model.repeat import without_repeat
from deeprec.model.solved import SolvedModel, weighted_histories

GROUP_FLOATS = 2**22  # of the rows gathered at once: 16 MiB


class Ials(SolvedModel):
    """A user and an item meet in the product of their vectors; all unobserved pairs count a little.

    With S the observed pairs, each of weight w, and I all pairs of a user and one of V items, the
    loss is

          sum over S of w (u . i - 1)^2  +  unobserved_weight * sum over I of (u . i)^2
        + l2 * sum over users of (n + unobserved_weight V)^frequency_power |u|^2
        + l2 * the same sum over items

    one side after the other, each exactly: a user's vector is the solution of D equations given the
    items, whether it was there in training or not. That is what `encode` computes, so that a new
    user needs no training. The second sum is a [D, D] Gram matrix, whatever the catalog.

    Args:
        num_items: V, known from the data.
        width: D, floats of an item's row.
        unobserved_weight: of a pair that was not observed, against 1 of one that was.
        l2: how much long vectors cost.
        frequency_power: how much the more of those that occur more often; 0: all alike.
        history_weighting: w of an observed pair, as of `Autoencoder`.
        fade_days: days after which an event counts 1/e in `decayed`.
        init_std: standard deviation of an item's first vector, as a whole: each of its D floats has
            a root of D less.
        block_width: floats of an item's vector that are solved at once, the others held; null: all
            D. The items' part of a pass costs D / block_width times less, and goes a shorter way.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> users = Batch(torch.arange(2), Jagged(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 3])))
        >>> model = Ials(3, width=2)
        >>> losses = [loss for loss, _ in zip(model.solve(users, 0, torch.Generator()), range(3))]
        >>> losses[2] < losses[1] < losses[0]
        True

    Reference:
        Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008,
        with the regularisation and the scale of the first vectors of Rendle, Krichene, Zhang and
        Koren, Revisiting the Performance of iALS on Item Recommendation Benchmarks, RecSys 2022;
        blocks as in iALS++ (Rendle et al., 2021), but of items alone: users are solved whole, so
        that nothing of a user is kept from pass to pass.
    """

    passes = None
    gram_DD: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 128,
        unobserved_weight: float = 0.1,
        l2: float = 0.01,
        frequency_power: float = 1.0,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = 90.0,
        init_std: float = 0.1,
        block_width: int | None = None,
    ) -> None:
        super().__init__(num_items, width)
        for name, value in (("width", width), ("block_width", block_width)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        for name, number in (("unobserved_weight", unobserved_weight), ("l2", l2)):
            if not number > 0.0:
                raise ValueError(f"{name} must be above 0, got {number}")
        self.width = width
        self.unobserved_weight, self.l2 = unobserved_weight, l2
        self.frequency_power = frequency_power
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.block_width = width if block_width is None else min(block_width, width)
        rows_VD = self.item_weight.data.normal_().mul_(init_std / width**0.5)
        self.register_buffer("gram_DD", rows_VD.T @ rows_VD)

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """Solves each user; see `Recommender.serving_encoder`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        start_BD = torch.zeros(offsets_B1.shape[0] - 1, self.width, device=items_N.device)
        solved_BD = solve_rows(
            start_BD,
            history.items_M,
            history.offsets_B1,
            weights_M,
            self.item_weight,
            self.unobserved_weight * self.gram_DD,
            self.ridge(history.offsets_B1.diff(), self.num_items),
            self.width,
        )
        return without_repeat(solved_BD)

    def ridge(self, lengths_B: Tensor, num_others: int) -> Tensor:
        """float32 [B]: what is added to the diagonal of each one's equations."""
        occurs_B = lengths_B.float() + self.unobserved_weight * float(num_others)
        return self.l2 * occurs_B.pow(self.frequency_power)

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Users, then items, over and over; see `Solvable.solve`."""
        known = weighted_histories(users, self.num_items, self.history_weighting, self.fade_days)
        device = self.item_weight.device
        assert known.weights is not None
        of_users = Jagged(
            known.values.to(device), known.offsets.to(device), known.weights.to(device)
        )
        of_items = _turned(of_users, self.num_items)
        num_users = users.num_users
        zeros = torch.zeros(num_users, self.width, device=device)
        while True:
            with console.status(f"pass {done + 1} over users and items"):
                user_weight = self._side(zeros, of_users, self.item_weight, self.width)
                rows_VD = self._side(self.item_weight, of_items, user_weight, self.block_width)
                self.item_weight.copy_(rows_VD)
                self.gram_DD.copy_(rows_VD.T @ rows_VD)
            done += 1
            yield self._loss(user_weight, of_users, of_items) / max(num_users, 1)

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """The users' vectors, histories by user and by item, and one group of equations."""
        equations = 3 * 4 * GROUP_FLOATS
        return 4 * num_users * self.width + 64 * num_events + equations

    def _side(self, start_BD: Tensor, rows: Jagged, other_VD: Tensor, block_width: int) -> Tensor:
        assert rows.weights is not None
        return solve_rows(
            start_BD,
            rows.values,
            rows.offsets,
            rows.weights,
            other_VD,
            self.unobserved_weight * (other_VD.T @ other_VD),
            self.ridge(rows.offsets.diff(), other_VD.shape[0]),
            block_width,
        )

    def _loss(self, user_weight: Tensor, of_users: Jagged, of_items: Jagged) -> float:
        assert of_users.weights is not None
        lengths = of_users.offsets.diff()
        owners = torch.repeat_interleave(lengths)
        observed = 0.0
        step = GROUP_FLOATS // self.width + 1
        for start in range(0, len(owners), step):
            rows = slice(start, start + step)
            scores = (user_weight[owners[rows]] * self.item_weight[of_users.values[rows]]).sum(1)
            observed += float((of_users.weights[rows] * (scores - 1.0).square()).sum())
        all_pairs = float(((user_weight.T @ user_weight) * self.gram_DD).sum())
        length = self.ridge(lengths, self.num_items) @ user_weight.square().sum(1)
        of_items_V = self.ridge(of_items.offsets.diff(), len(user_weight))
        length = length + of_items_V @ self.item_weight.square().sum(1)
        return observed + self.unobserved_weight * all_pairs + float(length)


def solve_rows(
    start_BD: Tensor,
    items_M: Tensor,
    offsets_B1: Tensor,
    weights_M: Tensor,
    other_VD: Tensor,
    gram_DD: Tensor,
    ridge_B: Tensor,
    block_width: int,
    group_floats: int = GROUP_FLOATS,
) -> Tensor:
    """The vector of each row that fits its items best.

    It minimises `sum of w (x . other - 1)^2 + x' gram x + ridge |x|^2`, block after block of the
    vector, each given the blocks before it. Rows of similar length are solved together.

    Args:
        start_BD: float32 [B, D], where blocks begin; no matter where one block is all.
        items_M: int64 [M], rows of `other`.
        offsets_B1: int64 [B + 1].
        weights_M: float32 [M].
        other_VD: float32 [V, D].
        gram_DD: float32 [D, D].
        ridge_B: float32 [B], above 0.
        block_width: floats solved at once.
        group_floats: of the rows gathered at once.

    Returns:
        float32 [B, D]. Scriptable, of plain aten operations.
    """
    width = other_VD.shape[1]
    lengths_B = offsets_B1[1:] - offsets_B1[:-1]
    order_B = torch.argsort(lengths_B, descending=True)
    solved_BD = start_BD.clone()
    first = 0
    while first < order_B.shape[0]:
        longest = int(lengths_B[order_B[first]])
        count = max(1, group_floats // (width * max(longest, block_width)))
        rows = order_B[first : first + count]
        solved_BD[rows] = _solve_group(
            solved_BD[rows],
            lengths_B[rows],
            offsets_B1[:-1][rows],
            longest,
            items_M,
            weights_M,
            other_VD,
            gram_DD,
            ridge_B[rows],
            block_width,
        )
        first += count
    return solved_BD


def _solve_group(
    start_BD: Tensor,
    lengths_B: Tensor,
    begins_B: Tensor,
    longest: int,
    items_M: Tensor,
    weights_M: Tensor,
    other_VD: Tensor,
    gram_DD: Tensor,
    ridge_B: Tensor,
    block_width: int,
) -> Tensor:
    width = other_VD.shape[1]
    if longest == 0:
        return torch.zeros_like(start_BD)
    solved_BD = start_BD.clone() if block_width < width else torch.zeros_like(start_BD)
    places_L = torch.arange(longest, device=lengths_B.device)
    there_BL = places_L[None, :] < lengths_B[:, None]
    at_BL = torch.where(there_BL, begins_B[:, None] + places_L[None, :], 0)
    root_BL = torch.where(there_BL, weights_M[at_BL].sqrt(), 0.0)
    root_BLD = other_VD[items_M[at_BL]].mul_(root_BL[:, :, None])
    missing_BL1 = -root_BL[:, :, None]
    if block_width < width:
        missing_BL1 = torch.baddbmm(missing_BL1, root_BLD, start_BD[:, :, None])
    start = 0
    while start < width:
        stop = min(start + block_width, width)
        block_BLE = root_BLD[:, :, start:stop]
        block_BEL = block_BLE.transpose(1, 2)
        slope_BE = torch.bmm(block_BEL, missing_BL1)[:, :, 0]
        if block_width < width:
            slope_BE = slope_BE + solved_BD @ gram_DD[:, start:stop]
            slope_BE = slope_BE + ridge_B[:, None] * solved_BD[:, start:stop]
        curve_BEE = torch.baddbmm(gram_DD[None, start:stop, start:stop], block_BEL, block_BLE)
        curve_BEE.diagonal(dim1=1, dim2=2).add_(ridge_B[:, None])
        factor_BEE = torch.linalg.cholesky(curve_BEE)
        step_BE1 = torch.cholesky_solve(slope_BE[:, :, None], factor_BEE)
        solved_BD[:, start:stop] -= step_BE1[:, :, 0]
        if stop < width:
            missing_BL1 = torch.baddbmm(missing_BL1, block_BLE, step_BE1, alpha=-1.0)
        start = stop
    return solved_BD


def _turned(rows: Jagged, num_values: int) -> Jagged:
    """The rows of each value, with the weights that it has in them."""
    assert rows.weights is not None
    owners = torch.repeat_interleave(rows.offsets.diff())
    order = torch.argsort(rows.values, stable=True)
    edges = torch.arange(num_values + 1, device=order.device)
    offsets = torch.searchsorted(rows.values[order], edges)
    return Jagged(owners[order], offsets, rows.weights[order])
