"""Implicit alternating least squares: users and items in turn, each given the other.

Shapes (legend in deeprec/batch.py): G rows solved together.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from deeprec.batch import Batch, Encoded, Jagged
from deeprec.console import console
from deeprec.errors import ConfigError
from deeprec.model.exporting import is_exporting
from deeprec.model.history import (
    FADE_DAYS,
    HistoryWeighting,
    aggregate,
    check_weighting,
    history_weights,
)
from deeprec.model.repeat import without_repeat
from deeprec.model.solved import SolvedModel, largest_of, weighted_histories
from deeprec.model.sparse_input import pair_products, weighted_sum

GROUP_FLOATS = 2**22  # of the vectors solved at once: 16 MiB, and seven times that beside them
ANSWER_TOLERANCE = 1e-7  # near what float32 can tell; of 1e-5 scores were off by 4e-5
MOST_UNOBSERVED = 0.2  # that is taken without being told
UNOBSERVED = 0.3  # of a mean history over the root of the catalog, likewise
MOST_L2, SHORT = 0.01, 10.0  # likewise; the length of histories below which it may be more
MOST_RIDGE = 0.14  # of a mean history, likewise: what its user has on the diagonal of its equations
MAX_STEPS = 100  # of conjugate gradients; some 4 are enough for a pass and 10 for an answer


class Ials(SolvedModel):
    """A user and an item meet in the product of their vectors; all unobserved pairs count a little.

    With S the observed pairs, each of weight w, and I all pairs of a user and one of V items, the
    loss is

          sum over S of w (u . i - 1)^2  +  unobserved_weight * sum over I of (u . i)^2
        + l2 * sum over users of (n + unobserved_weight V)^frequency_power |u|^2
        + l2 * the same sum over items

    one side after the other: a user's vector is the solution of D equations given the items,
    whether it was there in training or not. That is what `encode` computes, so that a new user
    needs no training. The second sum is a [D, D] Gram matrix, whatever the catalog. Where users do
    not count alike, one of weight k is as k users who had the same.

    No equation is written out. Both sides stand along the principal axes of the side that is held,
    where its Gram matrix is diagonal: the part of the equations that all rows share is solved by a
    division, and what the few items of a row add to it is found by conjugate gradients in steps of
    O(n D) operations, the fewer the smaller it is. Answers are solved to the precision of float32,
    a pass only as far as the next pass needs.

    Args:
        num_items: V, known from the data.
        width: D, floats of an item's row.
        unobserved_weight: of a pair that was not observed, against 1 of one that was; None: 0.2, or
            less: 0.3 times the mean length of a history over the root of V.
        l2: how much long vectors cost; None: 0.01, or so much less that what it adds to the
            diagonal of the equations of a user of mean history is 0.14 of that history's length.
            Where that is below 10, so much more than 0.01 as it is shorter.
        frequency_power: how much the more of those that occur more often; 0: all alike.
        history_weighting: w of an observed pair, as of `Autoencoder`.
        fade_days: days after which an event counts 1/e in `decayed`.
        init_std: standard deviation of an item's first vector, as a whole: each of its D floats has
            a root of D less.
        tolerance: share of what is wrong with a vector that a pass may leave, by the norm of the
            preconditioned residual; 1e-5 is as good as exact.

    Raises:
        ValueError: a number is out of its range.
        ConfigError: in `solve`, costs are 0 or infinite in float32.

    Example:
        >>> users = Batch(torch.arange(2), Jagged(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 3])))
        >>> model = Ials(3, width=2)
        >>> losses = [loss for loss, _ in zip(model.solve(users, 0, torch.Generator()), range(3))]
        >>> losses[2] < losses[1] < losses[0]
        True

    Reference:
        Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008,
        with the regularisation and the scale of the first vectors of Rendle, Krichene, Zhang and
        Koren, Revisiting the Performance of iALS on Item Recommendation Benchmarks, RecSys 2022.
        Conjugate gradients in place of an exact solution are from Takacs, Pilaszy and Tikk,
        Applications of the Conjugate Gradient Method for Implicit Feedback Collaborative Filtering,
        RecSys 2011; the axes are not. Users begin each pass at zero, so that nothing of a user is
        kept from pass to pass.
    """

    weighs_users = True
    passes = None
    spectrum_D: Tensor  # of the items' Gram matrix, which is diagonal
    unobserved_weight: Tensor
    l2: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 128,
        unobserved_weight: float | None = None,
        l2: float | None = None,
        frequency_power: float = 1.0,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
        init_std: float = 0.1,
        tolerance: float = 0.03,
    ) -> None:
        super().__init__(num_items, width)
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        for name, number in (("unobserved_weight", unobserved_weight), ("l2", l2)):
            if number is not None and not number > 0.0:
                raise ValueError(f"{name} must be above 0, got {number}")
        if not 0.0 < init_std < float("inf"):
            raise ValueError(f"init_std must be above 0 and finite, got {init_std}")
        if not 0.0 < tolerance < 1.0:
            raise ValueError(f"tolerance must lie in (0, 1), got {tolerance}")
        self.width = width
        self._told = unobserved_weight, l2
        self.frequency_power = frequency_power
        check_weighting(history_weighting, fade_days)
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.tolerance = tolerance
        self.item_weight.data.normal_().mul_(init_std / width**0.5)
        self.register_buffer("spectrum_D", torch.zeros(width))
        self.register_buffer(
            "unobserved_weight", torch.tensor(unobserved_weight or MOST_UNOBSERVED)
        )
        self.register_buffer("l2", torch.tensor(l2 or MOST_L2))
        self._take(self.item_weight.data)

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
            self.unobserved_weight * self.spectrum_D,
            self.ridge(history.offsets_B1.diff(), float(self.num_items)),
        )
        return without_repeat(solved_BD)

    def ridge(self, lengths_B: Tensor, num_others: float) -> Tensor:
        """float32 [B]: what is added to the diagonal of each one's equations."""
        occurs_B = lengths_B.float() + self.unobserved_weight * num_others
        return self.l2 * occurs_B.pow(self.frequency_power)

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Users, then items, over and over; see `Solvable.solve`."""
        known = weighted_histories(users, self.num_items, self.history_weighting, self.fade_days)
        device, num_users = self.item_weight.device, users.num_users
        assert known.weights is not None
        of_users = Jagged(
            known.values.to(device), known.offsets.to(device), known.weights.to(device)
        )
        counts_B = torch.ones(num_users, device=device)
        if users.user_weights is not None:
            counts_B = users.user_weights.to(device)
        of_items, had_V = _by_item(of_users, counts_B, self.num_items)
        events, counted = float(had_V.double().sum()), float(counts_B.double().sum())
        if done == 0:  # a run that goes on has it from its checkpoint
            self._fit_to(max(1.0, events / counted) if counted else 1.0)
        ridge_B = self.ridge(of_users.offsets.diff(), float(self.num_items))
        ridge_V = self.ridge(had_V, float(counts_B.sum()))
        self._refuse_lost(ridge_B, ridge_V)
        zeros = torch.zeros(num_users, self.width, device=device)
        while True:
            with console.status(f"pass {done + 1} over users and items"):
                user_weight = self._side(
                    zeros, of_users, self.item_weight, self.spectrum_D, ridge_B
                )
                spectrum_D, axes_DD = principal_axes(user_weight * counts_B.sqrt()[:, None])
                user_weight = user_weight @ axes_DD
                start_VD = self.item_weight @ axes_DD
                rows_VD = self._side(start_VD, of_items, user_weight, spectrum_D, ridge_V)
                observed = _observed(rows_VD, of_items, user_weight)
                all_pairs = float((rows_VD.square() @ spectrum_D).sum())
                length = (counts_B * ridge_B) @ user_weight.square().sum(1)
                length = length + ridge_V @ rows_VD.square().sum(1)
                loss = observed + float(self.unobserved_weight) * all_pairs + float(length)
                self._take(rows_VD)
            self.settle_ties(had_V.cpu().numpy(), largest_of(self.item_weight))
            done += 1
            yield loss / max(num_users, 1)

    def _refuse_lost(self, ridge_B: Tensor, ridge_V: Tensor) -> None:
        """Of items it may be 0, where the users of all of them count for nothing."""
        if not ((ridge_B > 0.0).all() and torch.cat([ridge_B, ridge_V]).isfinite().all()):
            raise ConfigError(
                f"model.frequency_power={self.frequency_power:g}: what it costs users or items to "
                "be long is 0 or infinite in float32; give one nearer to 0, or another model.l2"
            )

    def _fit_to(self, mean_history: float) -> None:
        """What nobody told of weights and costs, for histories of this length."""
        unobserved_weight, l2 = self._told
        if unobserved_weight is None:
            usual = UNOBSERVED * mean_history / self.num_items**0.5
            self.unobserved_weight.fill_(min(MOST_UNOBSERVED, usual))
        if l2 is None:
            occurs = mean_history + float(self.unobserved_weight) * self.num_items
            power = torch.tensor(occurs).double() ** self.frequency_power
            most = MOST_L2 * max(1.0, SHORT / mean_history)
            self.l2.fill_(min(most, float(MOST_RIDGE * mean_history / power)))

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """The users' vectors twice and zeros, histories by user and by item, and one group."""
        return 3 * 4 * num_users * self.width + 64 * num_events + 8 * 4 * GROUP_FLOATS

    def _take(self, rows_VD: Tensor) -> None:
        """Makes these the items, turned to their own principal axes."""
        spectrum_D, axes_DD = principal_axes(rows_VD)
        self.item_weight.data.copy_(rows_VD @ axes_DD)
        self.spectrum_D.copy_(spectrum_D)

    def _side(
        self, start_BD: Tensor, rows: Jagged, other_VD: Tensor, spectrum_D: Tensor, ridge_B: Tensor
    ) -> Tensor:
        assert rows.weights is not None
        return solve_rows(
            start_BD,
            rows.values,
            rows.offsets,
            rows.weights,
            other_VD,
            self.unobserved_weight * spectrum_D,
            ridge_B,
            self.tolerance,
        )


def _observed(rows_VD: Tensor, of_items: Jagged, user_weight: Tensor) -> float:
    """The sum of `w (u . i - 1)^2` over the observed pairs."""
    assert of_items.weights is not None
    owners = torch.repeat_interleave(of_items.offsets.diff())
    scores = pair_products(rows_VD, user_weight, of_items.values, of_items.offsets, owners)
    return float((of_items.weights * (scores - 1.0).square()).sum())


def principal_axes(rows_VD: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [D], [D, D]: what the squares of rows sum to along each axis, and the axes.

    Turned by them (`rows @ axes`), the rows have a diagonal Gram matrix.
    """
    spectrum_D, axes_DD = torch.linalg.eigh((rows_VD.T @ rows_VD).double())
    return spectrum_D.clamp(min=0.0).float(), axes_DD.float()


At = tuple[Tensor, Tensor, Tensor, Tensor]  # solved, missing, direction, wrong: what a step changes


class Equations(NamedTuple):
    """What the steps for a group of rows read."""

    items_M: Tensor
    offsets_G1: Tensor
    owners_M: Tensor
    weights_M: Tensor
    other_VD: Tensor
    diagonal_GD: Tensor
    least_G1: Tensor


def solve_rows(
    start_BD: Tensor,
    items_M: Tensor,
    offsets_B1: Tensor,
    weights_M: Tensor,
    other_VD: Tensor,
    shared_D: Tensor,
    ridge_B: Tensor,
    tolerance: float = ANSWER_TOLERANCE,
    group_floats: int = GROUP_FLOATS,
) -> Tensor:
    """The vector of each row that fits its items best.

    It minimises `sum of w (x . other - 1)^2 + sum of shared x^2 + ridge |x|^2`, rows in groups.

    Args:
        start_BD: float32 [B, D], where each begins.
        items_M: int64 [M], rows of `other`.
        offsets_B1: int64 [B + 1].
        weights_M: float32 [M].
        other_VD: float32 [V, D].
        shared_D: float32 [D], at least 0.
        ridge_B: float32 [B], above 0.
        tolerance: share of what is wrong at the start that may be left of each row.
        group_floats: of the vectors solved at once.

    Returns:
        float32 [B, D]. Scriptable, of plain aten operations.
    """
    if is_exporting():
        diagonal_BD = shared_D[None, :] + ridge_B[:, None]
        return _solve_group(
            start_BD, items_M, offsets_B1, weights_M, other_VD, diagonal_BD, tolerance
        )
    solved_BD = torch.empty_like(start_BD)
    group = max(1, group_floats // other_VD.shape[1])
    for first in range(0, start_BD.shape[0], group):
        last = min(first + group, start_BD.shape[0])
        begin, end = int(offsets_B1[first]), int(offsets_B1[last])
        solved_BD[first:last] = _solve_group(
            start_BD[first:last],
            items_M[begin:end],
            offsets_B1[first : last + 1] - begin,
            weights_M[begin:end],
            other_VD,
            shared_D[None, :] + ridge_B[first:last, None],
            tolerance,
        )
    return solved_BD


def _solve_group(
    solved_GD: Tensor,
    items_M: Tensor,
    offsets_G1: Tensor,
    weights_M: Tensor,
    other_VD: Tensor,
    diagonal_GD: Tensor,
    tolerance: float,
    max_steps: int = MAX_STEPS,
) -> Tensor:
    """Conjugate gradients, preconditioned by the diagonal; a row stops where it is solved."""
    owners_M = torch.repeat_interleave(offsets_G1.diff())
    scores_M = pair_products(solved_GD, other_VD, items_M, offsets_G1, owners_M)
    missing_GD = weighted_sum(other_VD, items_M, offsets_G1, weights_M * (1.0 - scores_M))
    missing_GD = missing_GD - diagonal_GD * solved_GD
    direction_GD = missing_GD / diagonal_GD
    wrong_G1 = (missing_GD * direction_GD).sum(1, keepdim=True)
    least_G1 = wrong_G1 * tolerance**2
    at = (solved_GD, missing_GD, direction_GD, wrong_G1)
    equations = Equations(items_M, offsets_G1, owners_M, weights_M, other_VD, diagonal_GD, least_G1)
    if is_exporting():
        return _exported_steps(at, equations, max_steps)
    step = 0
    while step < max_steps and bool((at[3] > least_G1).any()):
        at = _step(at, equations)
        step += 1
    return at[0]


def _step(at: At, of: Equations) -> At:
    """One step of conjugate gradients, for rows that are not solved yet."""
    solved_GD, missing_GD, direction_GD, wrong_G1 = at
    scores_M = pair_products(direction_GD, of.other_VD, of.items_M, of.offsets_G1, of.owners_M)
    bent_GD = weighted_sum(of.other_VD, of.items_M, of.offsets_G1, of.weights_M * scores_M)
    bent_GD = bent_GD + of.diagonal_GD * direction_GD
    curve_G1 = (direction_GD * bent_GD).sum(1, keepdim=True)
    is_open_G1 = wrong_G1 > of.least_G1
    length_G1 = torch.where(is_open_G1, wrong_G1 / curve_G1, 0.0)
    solved_GD = solved_GD + length_G1 * direction_GD
    missing_GD = missing_GD - length_G1 * bent_GD
    next_GD = missing_GD / of.diagonal_GD
    left_G1 = (missing_GD * next_GD).sum(1, keepdim=True)
    turn_G1 = torch.where(is_open_G1, left_G1 / wrong_G1, 0.0)
    return solved_GD, missing_GD, next_GD + turn_G1 * direction_GD, left_G1


@torch.jit.unused
def _exported_steps(at: At, of: Equations, max_steps: int) -> Tensor:
    """The steps as the loop that `torch.export` has."""

    def is_open(step: Tensor, *at: Tensor) -> Tensor:
        return (step < max_steps) & (at[3] > of.least_G1).any()

    def stepped(step: Tensor, *at: Tensor) -> tuple[Tensor, ...]:
        return step + 1, *_step((at[0], at[1], at[2], at[3]), of)

    start = (torch.tensor(0), *at)
    found = while_loop(is_open, stepped, start)  # type: ignore[no-untyped-call]  # torch's own
    solved_GD: Tensor = found[1]
    return solved_GD


def _by_item(rows: Jagged, counts_B: Tensor, num_items: int) -> tuple[Jagged, Tensor]:
    """The users of each item, with w times what each counts; float32 [V], what they count."""
    assert rows.weights is not None
    owners = torch.repeat_interleave(rows.offsets.diff())
    order = torch.argsort(rows.values, stable=True)
    owners, items = owners[order], rows.values[order]
    edges = torch.arange(num_items + 1, device=order.device)
    had_V = counts_B.new_zeros(num_items).index_add(0, items, counts_B[owners])
    weights = rows.weights[order] * counts_B[owners]
    return Jagged(owners, torch.searchsorted(items, edges), weights), had_V
