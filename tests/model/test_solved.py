"""Models that are solved: each against its own definition, written out densely."""

import itertools
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

import small_shop
from deeprec.batch import Batch, Jagged
from deeprec.config import check, compose, to_dict
from deeprec.errors import ConfigError, NonFiniteError
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.model import ease, svd
from deeprec.model.base import Recommender, Solvable
from deeprec.model.ease import Ease
from deeprec.model.graph_filter import GraphFilter
from deeprec.model.history import aggregate
from deeprec.model.ials import Ials, solve_rows
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.neighbour_scores import NeighbourScores, with_own_items
from deeprec.model.own_frequency import OwnFrequency
from deeprec.model.popularity import Popularity
from deeprec.model.sparse_ease import SparseEase
from deeprec.model.svd import Svd, orthonormal
from deeprec.train import train
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.run import open_run
from deeprec.verb import EvaluateConfig, ExportConfig
from largest_tensor import LargestTensor
from recommender_contract import FIELDS, NUM_ITEMS, USERS, RecommenderContract, batch, scores

U, V = 40, 12


def shop() -> Batch:
    items, offsets, ages, attributes = batch(USERS)
    fields = {name: Jagged(*rows) for name, rows in attributes.items()}
    return Batch(torch.arange(len(USERS)), Jagged(items, offsets), ages, fields)


def solved(model: Solvable, users: Batch, passes: int = 1) -> list[float]:
    with torch.no_grad():
        losses = model.solve(users, 0, torch.Generator())
        return [loss for loss, _ in zip(losses, range(passes))]


class TestEase(RecommenderContract):
    def new_model(self) -> Recommender:
        return Ease(NUM_ITEMS)


class TestIals(RecommenderContract):
    def new_model(self) -> Recommender:
        return Ials(NUM_ITEMS, width=6, history_weighting="decayed")


class TestSvd(RecommenderContract):
    def new_model(self) -> Recommender:
        model = Svd(NUM_ITEMS, width=2)
        solved(model, shop())
        return model


class TestGraphFilter(RecommenderContract):
    def new_model(self) -> Recommender:
        model = GraphFilter(NUM_ITEMS, width=2, neighbours=3)
        solved(model, shop())
        return model


class TestSparseEase(RecommenderContract):
    def new_model(self) -> Recommender:
        model = SparseEase(NUM_ITEMS, neighbours=2)
        solved(model, shop())
        return model


class TestItemToItem(RecommenderContract):
    def new_model(self) -> Recommender:
        model = ItemToItem(NUM_ITEMS)
        solved(model, shop())
        return model


class TestOwnFrequency(RecommenderContract):
    def new_model(self) -> Recommender:
        model = OwnFrequency(NUM_ITEMS)
        solved(model, shop())
        return model


class TestPopularity(RecommenderContract):
    def new_model(self) -> Recommender:
        return Popularity(NUM_ITEMS, fields=FIELDS, by="age")


@pytest.fixture(scope="module")
def taken() -> np.ndarray:
    """float64 [U, V], who took what; user 0 took nothing, and nobody took the last item."""
    draw = np.random.default_rng(3)
    taken = (draw.random((U, V)) < draw.uniform(0.1, 0.6, V)).astype(float)
    taken[0], taken[:, -1] = 0, 0
    return taken


def users_of(taken: np.ndarray) -> Batch:
    items = np.ascontiguousarray(np.nonzero(taken)[1])
    offsets = np.concatenate([[0], np.cumsum(taken.sum(1).astype(int))])
    return Batch(
        torch.arange(len(taken)), Jagged(torch.from_numpy(items), torch.from_numpy(offsets))
    )


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_each_item_of_ease_is_a_ridge_regression_on_all_others(
    taken: np.ndarray, dropout: float
) -> None:
    model = Ease(V, l2=2.5, dropout=dropout, user_power=0.0)
    solved(model, users_of(taken))
    counts = taken.sum(0)
    for item in range(V):
        others = [other for other in range(V) if other != item]
        ridge = np.sqrt(2.5 + dropout / (1 - dropout) * counts[others])
        features = np.vstack([taken[:, others], np.diag(ridge)])
        target = np.concatenate([taken[:, item], np.zeros(V - 1)])
        expected = np.linalg.lstsq(features, target)[0]
        np.testing.assert_allclose(model.between_items[others, item], expected, atol=1e-5)
    assert model.between_items.diagonal().abs().max() == 0.0


def test_the_powers_of_ease_weigh_users_and_items(taken: np.ndarray) -> None:
    lengths, counts = taken.sum(1).clip(1), taken.sum(0).clip(1)
    model = Ease(V, l2=2.0, dropout=0.0, user_power=0.5, input_power=0.3, output_power=0.2)
    solved(model, users_of(taken))
    scaled = taken * lengths[:, None] ** -0.5 * counts**-0.3
    of_a_user = np.square(scaled).sum() / taken.sum()
    inverse = np.linalg.inv(scaled.T @ scaled + 2.0 * of_a_user * np.eye(V))
    between = -inverse / np.diag(inverse)
    np.fill_diagonal(between, 0)
    expected = counts[:, None] ** -0.3 * between * counts**0.2
    np.testing.assert_allclose(model.between_items, expected, atol=1e-5)


def scores_of(model: Solvable, taken: np.ndarray) -> np.ndarray:
    users = users_of(taken).history
    return scores(model, model.encode(users.values, users.offsets, torch.zeros(0), {})).numpy()


def test_svd_projects_histories_on_the_leading_singular_vectors(taken: np.ndarray) -> None:
    lengths, counts = taken.sum(1).clip(1), taken.sum(0).clip(1)
    model = Svd(V, width=3, user_power=0.4, input_power=0.3, output_power=0.2)
    solved(model, users_of(taken))
    scaled = taken * lengths[:, None] ** -0.4 * counts**-0.3
    leading = np.linalg.svd(scaled)[2][:3]
    expected = (taken * counts**-0.3) @ leading.T @ leading * counts**0.2
    np.testing.assert_allclose(scores_of(model, taken), expected, atol=1e-5)


def test_svd_of_more_directions_than_there_are_rebuilds_histories(taken: np.ndarray) -> None:
    model = Svd(V, width=V + 5, user_power=0.0, input_power=0.0, output_power=0.0)
    solved(model, users_of(taken))
    np.testing.assert_allclose(scores_of(model, taken), taken, atol=1e-5)


def test_a_basis_is_orthonormal_however_near_its_columns_are() -> None:
    draw = np.random.default_rng(0)
    apart = draw.standard_normal((3000, 12)).astype(np.float32)
    near = apart * np.logspace(0, -5, 12, dtype=np.float32) + apart[:, :1]
    for columns in (apart, near, np.hstack([near, near[:, :2], np.zeros_like(near[:, :1])])):
        basis = orthonormal(columns.copy())
        lengths = np.linalg.eigvalsh((basis.T @ basis).astype(np.float64))
        assert np.minimum(abs(lengths), abs(lengths - 1)).max() < 1e-5  # each is there, or is not
        assert (lengths > 0.5).sum() >= 12
        rest = columns - basis @ (basis.T @ columns)
        assert np.linalg.norm(rest, axis=0).max() < 1e-4 * np.linalg.norm(columns[:, 0])


@pytest.mark.parametrize("kind", ["svd", "ease"])
def test_solving_takes_what_the_memory_plan_says(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svd, "BLOCK_NUMBERS", 2**14)  # so that tables are what takes most
    monkeypatch.setattr(ease, "GRAM_BLOCK", 64)
    items, users = (1000, 200) if kind == "ease" else (10_000, 1000)
    rows = torch.randint(items, (10 * users,), generator=torch.Generator().manual_seed(0))
    histories = Jagged(rows, torch.arange(users + 1) * 10)
    model = Ease(items, l2=5.0) if kind == "ease" else Svd(items, width=32)
    largest = LargestTensor()
    tracemalloc.start()  # which numpy tells what it takes, and torch does not
    try:
        with largest:
            solved(model, Batch(torch.arange(users), histories))
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < model.solving_bytes(users, 10 * users)
    assert largest.elements <= (items * 64 if kind == "svd" else max(10 * users, items))


@pytest.mark.parametrize("neighbours", [2, V])
def test_a_graph_filter_adds_neighbours_and_a_low_pass(taken: np.ndarray, neighbours: int) -> None:
    lengths, counts = taken.sum(1).clip(1), taken.sum(0).clip(1)
    model = GraphFilter(V, width=3, low_pass=0.7, neighbours=neighbours)
    solved(model, users_of(taken))
    scaled = taken * lengths[:, None] ** -0.5 * counts**-0.5
    near = scaled.T @ scaled
    for item in range(V):
        others = sorted(set(range(V)) - {item}, key=lambda other: (-near[item, other], other))
        near[item, others[neighbours:]] = 0
    leading = np.linalg.svd(scaled)[2][:3]
    low = counts[:, None] ** -0.5 * (leading.T @ leading) * counts**0.5
    expected = taken @ (near + 0.7 * low)
    np.testing.assert_allclose(scores_of(model, taken), expected, atol=1e-5)


@pytest.mark.parametrize("powers", [(0.0, 0.0, 0.0), (0.5, 0.3, 0.2)])
def test_sparse_ease_of_all_neighbours_is_ease(
    taken: np.ndarray, powers: tuple[float, float, float]
) -> None:
    taken = np.vstack([taken, np.ones((1, V))])  # every pair of items has somebody
    told = dict(zip(("user_power", "input_power", "output_power"), powers, strict=True))
    whole = Ease(V, l2=2.0, dropout=0.3, **told)
    near = SparseEase(V, l2=2.0, dropout=0.3, neighbours=V, **told)
    solved(whole, users_of(taken))
    solved(near, users_of(taken))
    np.testing.assert_allclose(scores_of(near, taken), scores_of(whole, taken), atol=1e-5)


def test_an_item_of_sparse_ease_is_a_regression_on_what_explains_most(taken: np.ndarray) -> None:
    model = SparseEase(V, l2=2.5, dropout=0.0, user_power=0.0, neighbours=3)
    solved(model, users_of(taken))
    expected = np.zeros((V, V))
    for item in range(V):
        explained = np.zeros(V)
        for other in set(range(V)) - {item}:
            alone = taken[:, other] @ taken[:, item] / (taken[:, other].sum() + 2.5)
            explained[other] = alone * (taken[:, other] @ taken[:, item])
        near = np.argsort(-explained)[:3]
        near = near[explained[near] > 0]
        features = np.vstack([taken[:, near], np.sqrt(2.5) * np.eye(len(near))])
        target = np.concatenate([taken[:, item], np.zeros(len(near))])
        expected[near, item] = np.linalg.lstsq(features, target)[0]
    np.testing.assert_allclose(scores_of(model, taken), taken @ expected, atol=1e-5)


@pytest.mark.parametrize(("weights", "held"), [(1, 1), (20, 3 * V), (2**18, 2**22)])
def test_neighbours_say_the_same_whatever_is_held_at_once(
    taken: np.ndarray, weights: int, held: int
) -> None:
    table = sparse.random_array((200, 200), density=0.02, random_state=np.random.default_rng(1))
    near = NeighbourScores(200)
    near.fill(with_own_items(table.tocsr()))
    near.weights_at_once, near.scores_at_once = weights, held
    users = users_of(taken).history
    history = aggregate(users.values, users.offsets, torch.zeros(0), 200)
    said = near(history, torch.ones(len(history.items_M)))
    expected = taken @ table.toarray()[:V]
    rows = np.repeat(np.arange(U), said.repeat_offsets_B1.diff())
    found = np.zeros((U, 200))
    found[rows, said.repeat_items_M] = said.repeat_scores_M
    np.testing.assert_allclose(found, expected, atol=1e-5)
    keys = rows * 200 + said.repeat_items_M.numpy()
    assert (np.diff(keys) > 0).all()
    assert {*np.flatnonzero(expected)} <= {*keys.tolist()}


@pytest.mark.parametrize(
    "model",
    [
        Ease(V),
        SparseEase(V),
        Svd(V, width=4),
        GraphFilter(V, width=4, neighbours=3),
        Ials(V, width=4),
        ItemToItem(V),
    ],
    ids=lambda model: type(model).__name__,
)
def test_who_has_nothing_yet_is_shown_what_is_popular(model: Solvable, taken: np.ndarray) -> None:
    solved(model, users_of(taken))
    nobody = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.zeros(0)
    [scores_V] = scores(model, model.encode(*nobody, {}))
    in_order = taken.sum(0)[scores_V.argsort(descending=True).numpy()]
    assert (np.diff(in_order) <= 0).all()
    assert len(np.unique(in_order)) > 1, "or every order would do"


@pytest.mark.parametrize("kind", [Ease, SparseEase])
def test_too_small_an_l2_is_an_error_with_a_way_out(kind: type[Ease] | type[SparseEase]) -> None:
    twins = users_of(np.ones((9, 3)))
    with pytest.raises(NonFiniteError, match="l2 of 1 or more"):
        solved(kind(3, l2=1e-12, dropout=0.0), twins)
    solved(kind(3, l2=1.0, dropout=0.0), twins)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (partial(Ease, input_power=80.0), r"a popularity of \d+ to the power of -80 is 0"),
        (partial(SparseEase, output_power=80.0), r"to the power of 80 is infinite"),
        (partial(Svd, output_power=-80.0), r"to the power of -80 is 0"),
        (partial(GraphFilter, user_power=80.0), r"a history of \d+ items to the power of -80"),
        (partial(Ials, frequency_power=80.0), "frequency_power=80: .* give one nearer to 0"),
        (partial(Ials, init_std=0.0), "init_std must be above 0"),
        (partial(ItemToItem, fade_days=-1.0), "fade_days must be 1.2e-05 or more"),
        (
            partial(Ease, history_weighting="decayed", fade_days=0.001),
            "fade_days=0.001: every event .* counts 0; set model.fade_days higher",
        ),
    ],
)
def test_settings_of_which_nothing_is_left_are_refused(
    taken: np.ndarray, kind: Callable[[int], Solvable], message: str
) -> None:
    users = users_of(taken)
    old = replace(users, ages=torch.ones(len(users.history.values)))
    with pytest.raises((ConfigError, ValueError), match=message):
        solved(kind(V), old)


@pytest.mark.parametrize(
    "kind",
    [
        partial(Ease, l2=2.0, input_power=0.3),
        partial(SparseEase, neighbours=3, l2=2.0, input_power=0.3),
        partial(GraphFilter, width=3, neighbours=4),
        partial(Svd, width=3),
        partial(Ials, width=4, l2=0.05, tolerance=1e-6),
    ],
)
def test_a_user_of_weight_three_is_as_three_users(
    taken: np.ndarray, kind: Callable[[int], Solvable]
) -> None:
    counts = np.random.default_rng(5).integers(1, 4, len(taken))
    copied, weighed = users_of(np.repeat(taken, counts, axis=0)), users_of(taken)
    weighed.user_weights = torch.from_numpy(counts).float()
    said, asked = [], users_of(taken).history
    for users in (copied, weighed):
        torch.manual_seed(1)
        model = kind(V)
        solved(model, users, passes=25 if isinstance(model, Ials) else 1)
        encoded = model.encode(asked.values, asked.offsets, torch.zeros(0), {})
        said.append(scores(model, encoded))
    torch.testing.assert_close(said[0], said[1], atol=1e-3, rtol=0)
    assert said[0].abs().max() > 0.1


def test_what_ials_takes_for_granted_is_of_the_users_that_count() -> None:
    few, many = np.eye(90), np.ones((9, 90))  # a catalog wide enough that l2 is not the most
    alone, beside = users_of(few), users_of(np.concatenate([few, many]))
    beside.user_weights = torch.tensor([1.0] * len(few) + [0.0] * len(many))
    told = []
    for users in (alone, beside):
        model = Ials(90, width=2)
        solved(model, users)
        told.append((float(model.unobserved_weight), float(model.l2)))
    assert told[0] == told[1]


def dense_loss(taken: torch.Tensor, users: torch.Tensor, model: Ials) -> torch.Tensor:
    items = model.item_weight.double()
    scores = users @ items.T
    loss = (taken * (scores - 1).square()).sum() + model.unobserved_weight * scores.square().sum()
    for rows, counts, others in ((users, taken.sum(1), V), (items, taken.sum(0), U)):
        ridge = model.l2 * (counts + model.unobserved_weight * others) ** model.frequency_power
        loss = loss + (ridge * rows.square().sum(1)).sum()
    return loss


def test_a_user_of_ials_is_where_the_loss_is_flat(taken: np.ndarray) -> None:
    torch.manual_seed(1)
    model = Ials(V, width=5, l2=0.05, frequency_power=0.7)
    solved(model, users_of(taken), passes=3)
    users = users_of(taken).history
    encoded = model.encode(users.values, users.offsets, torch.zeros(0), {})
    hidden = encoded.hidden_BD.double().requires_grad_()
    dense_loss(torch.from_numpy(taken), hidden, model).backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().max() < 1e-4
    assert encoded.hidden_BD[1:].abs().max() > 0.1


@pytest.mark.parametrize("unobserved_weight", [0.01, 0.1, 1.0])
def test_scores_of_ials_are_as_exact_as_a_bundle_is_held_to(unobserved_weight: float) -> None:
    """A solution that stops sooner differs by a step between two programs, and from the exact."""
    rng = np.random.default_rng(3)
    taken = (rng.random((300, 120)) < 0.02 + 0.2 * rng.random(120)).astype(float)
    model = Ials(120, width=16, unobserved_weight=unobserved_weight, l2=0.002)
    solved(model, users_of(taken), passes=5)
    rows = model.item_weight.detach().double().numpy()
    shared = unobserved_weight * model.spectrum_D.double().numpy()
    ridges = model.ridge(torch.from_numpy(taken.sum(1)), 120.0).double().numpy()
    expected = []
    for had, ridge in zip(taken.astype(bool), ridges, strict=True):
        gram = rows[had].T @ rows[had] + np.diag(shared + ridge)
        expected.append(rows @ np.linalg.solve(gram, rows[had].sum(0)))
    np.testing.assert_allclose(scores_of(model, taken), expected, atol=4e-6)


def test_ials_falls_to_a_minimum_and_says_the_loss_it_has(taken: np.ndarray) -> None:
    torch.manual_seed(1)
    model = Ials(V, width=5, l2=0.05, tolerance=1e-5)
    losses = solved(model, users_of(taken), passes=60)
    assert all(later < earlier + 1e-5 for earlier, later in itertools.pairwise(losses))
    # at a minimum the users that encode solves are those that the pass ended with
    users = users_of(taken).history
    hidden = model.encode(users.values, users.offsets, torch.zeros(0), {}).hidden_BD.double()
    dense = dense_loss(torch.from_numpy(taken), hidden, model) / U
    assert losses[-1] == pytest.approx(dense.item(), rel=1e-4)


def test_ials_comes_as_far_where_a_pass_leaves_some_of_what_is_wrong(taken: np.ndarray) -> None:
    losses = []
    for tolerance in (1e-5, 0.1):
        torch.manual_seed(1)
        model = Ials(V, width=5, l2=0.05, tolerance=tolerance)
        losses.append(solved(model, users_of(taken), passes=60)[-1])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_ials_weighs_what_was_not_observed_less_where_histories_are_short() -> None:
    one_each = np.eye(500)[:40]
    model, other = Ials(500, width=5), Ials(500, width=5, unobserved_weight=0.3)
    for one in (model, other):
        solved(one, users_of(one_each))
    assert float(model.unobserved_weight) == pytest.approx(0.3 / 500**0.5)  # one item each
    assert float(other.unobserved_weight) == pytest.approx(0.3)
    solved(few := Ials(V, width=5), users_of(np.ones((3, V))))
    assert float(few.unobserved_weight) == pytest.approx(0.2)


@pytest.mark.parametrize(("length", "l2"), [(5, 40.0), (38, 300.0)])
def test_ease_smooths_less_where_histories_are_short(length: int, l2: float) -> None:
    had = ((np.arange(40)[:, None] - np.arange(40)) % 40 < length).astype(float)
    users = users_of(np.concatenate([had, np.zeros((9, 40))]))  # who had nothing tell nothing
    usual, told = Ease(40), Ease(40, l2=l2)
    for model in (usual, told):
        solved(model, users)
    torch.testing.assert_close(usual.between_items, told.between_items)
    other = Ease(40, l2=1.1 * l2)
    solved(other, users)
    assert not torch.allclose(usual.between_items, other.between_items)


@pytest.mark.parametrize(("length", "most"), [(5, 0.02), (10, 0.01), (20, 0.01)])
def test_the_most_that_length_costs_in_ials_is_more_of_short_histories(
    length: int, most: float
) -> None:
    had = (np.arange(40)[:, None] - np.arange(40)) % 40 < length
    model = Ials(40, width=5, unobserved_weight=1e-6, frequency_power=0.1)
    solved(model, users_of(had.astype(float)))
    assert float(model.l2) == pytest.approx(most)


def test_ials_costs_length_less_where_histories_are_short(taken: np.ndarray) -> None:
    model = Ials(V, width=5, unobserved_weight=50.0)
    solved(model, users_of(taken))
    mean = taken.sum() / U
    assert float(model.ridge(torch.tensor([mean]), V)) == pytest.approx(0.14 * mean, rel=1e-5)


def test_the_items_of_ials_stand_along_their_principal_axes(taken: np.ndarray) -> None:
    model = Ials(V, width=5)
    solved(model, users_of(taken), passes=2)
    gram = model.item_weight.T @ model.item_weight
    torch.testing.assert_close(gram, torch.diag(model.spectrum_D), atol=1e-5, rtol=0)


@pytest.mark.parametrize("group_floats", [1, 20, 2**22])
def test_rows_in_groups_solve_their_own_equations(taken: np.ndarray, group_floats: int) -> None:
    draw = np.random.default_rng(4)
    rows = users_of(taken).history
    other, shared = draw.normal(size=(V, 5)), draw.random(5)
    weights, ridge = draw.uniform(0.5, 3.0, len(rows.values)), draw.uniform(0.1, 1.0, U)
    numbers = (draw.normal(size=(U, 5)), weights, other, shared, ridge)
    start, weights_M, other_VD, shared_D, ridge_B = (
        torch.from_numpy(array).float() for array in numbers
    )
    found = solve_rows(
        start,
        rows.values,
        rows.offsets,
        weights_M,
        other_VD,
        shared_D,
        ridge_B,
        1e-6,
        group_floats,
    )
    offsets = rows.offsets.tolist()
    for user, (begin, end) in enumerate(itertools.pairwise(offsets)):
        mine = other[rows.values[begin:end].numpy()]
        square = mine.T @ (weights[begin:end, None] * mine) + np.diag(shared + ridge[user])
        expected = np.linalg.solve(square, mine.T @ weights[begin:end])
        np.testing.assert_allclose(found[user], expected, atol=1e-5)


def test_rows_of_any_length_and_grouping_are_solved_alike(taken: np.ndarray) -> None:
    torch.manual_seed(1)
    model = Ials(V, width=5)
    rows = users_of(taken).history
    together = model.encode(rows.values, rows.offsets, torch.zeros(0), {}).hidden_BD
    for user in range(U):
        own = rows.values[rows.offsets[user] : rows.offsets[user + 1]]
        alone = model.encode(own, torch.tensor([0, len(own)]), torch.zeros(0), {}).hidden_BD
        torch.testing.assert_close(alone[0], together[user], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.make(tmp_path_factory.mktemp("data") / "prepared")


def settings(prepared: Path, output: Path, *words: str) -> list[str]:
    return [f"prepared={prepared}", f"output_dir={output}", "logger.wandb=off", *words]


@pytest.mark.parametrize(
    "model",
    [
        "ease",
        "ials",
        "svd",
        "graph_filter",
        "sparse_ease",
        "item_to_item",
        "own_frequency",
        "popularity",
    ],
)
def test_a_solved_model_goes_the_whole_road(model: str, prepared: Path, tmp_path: Path) -> None:
    words = settings(prepared, tmp_path / "run", f"model={model}", "trainer.max_epochs=3")
    run = train(compose("train", words))  # type: ignore[arg-type]
    told = open_run(run).config
    assert told.loss is None
    assert told.optimizer is None
    passes = 3 if model == "ials" else 1
    assert [int(row["epoch"]) for row in read_metrics(run / "metrics.csv")] == [
        *range(1, passes + 1)
    ]
    evaluate(EvaluateConfig(run=str(run), bootstrap_samples=20))
    assert (run / "report.json").is_file()
    export(
        ExportConfig(
            run=str(run), output_dir=str(tmp_path / "bundle"), program=False, golden_users=5
        )
    )
    again = train(compose("train", [f"resume={run}"]))  # type: ignore[arg-type]
    assert again == run


def test_a_model_without_steps_is_not_told_to_take_smaller_ones(
    prepared: Path, tmp_path: Path
) -> None:
    words = settings(prepared, tmp_path / "run", "model=ease", "model.output_power=20")
    with pytest.raises(NonFiniteError, match="change the settings of model, or the weights of us"):
        train(compose("train", words))  # type: ignore[arg-type]


def test_ials_goes_on_as_if_it_had_never_stopped(prepared: Path, tmp_path: Path) -> None:
    words = settings(prepared, tmp_path / "whole", "model=ials", "trainer.max_epochs=3")
    whole = train(compose("train", words))  # type: ignore[arg-type]
    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    (stopped / "manifest.json").unlink()
    shutil.rmtree(stopped / "checkpoints" / "step-00000003")
    train(compose("train", [f"resume={stopped}"]))  # type: ignore[arg-type]
    name = "checkpoints/step-00000003/weights.safetensors"
    assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def test_only_a_solved_model_goes_without_a_loss(prepared: Path) -> None:
    words = settings(prepared, Path("run"), "model=ease")
    config = to_dict(compose("train", words))
    check({**config, "loss": None, "optimizer": None, "target": None}, "train")
    trained = to_dict(compose("train", settings(prepared, Path("run"))))
    with pytest.raises(ConfigError, match="loss: missing; choose it with loss=CHOICE"):
        check({**trained, "loss": None}, "train")
