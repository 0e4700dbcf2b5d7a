"""The autoencoder against its definition written out user by user."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deeprec.batch import Batch, Jagged, Task
from deeprec.model.attribute_field import field_of
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.sparse_input import Backend
from deeprec.table import Sgd
from recommender_contract import FIELDS, NUM_ITEMS, USERS, RecommenderContract, batch


class TestAutoencoder(RecommenderContract):
    def new_model(self) -> Autoencoder:
        return Autoencoder(NUM_ITEMS, fields=FIELDS, hidden_dims=[8, 6])


class TestAutoencoderWithRepeatScoresAndReconstruction(RecommenderContract):
    def new_model(self) -> Autoencoder:
        return Autoencoder(
            NUM_ITEMS,
            fields=FIELDS,
            hidden_dims=[8],
            history_weighting="decayed",
            repeats=True,
        )


class TestAutoencoderWithRepeatScoresAlone(RecommenderContract):
    def new_model(self) -> Autoencoder:
        return Autoencoder(
            NUM_ITEMS,
            fields=FIELDS,
            repeats=True,
            reconstruction=0.0,
            history_weighting="binary",
            normalize=False,
            activation="sigmoid",
        )


class TestAutoencoderWithQuotientsAndRemainders(RecommenderContract):
    def new_model(self) -> Autoencoder:
        return Autoencoder(
            NUM_ITEMS, fields=FIELDS, hidden_dims=[8, 6], quotient_remainder=list(FIELDS)
        )


def test_an_attribute_of_two_tables_is_the_sum_of_their_rows() -> None:
    torch.manual_seed(0)
    model = Autoencoder(3, fields={"town": 10}, hidden_dims=[4], quotient_remainder=["town"])
    tables = model.sparse_input.tables
    quotients, remainders = tables["quotient:town"], tables["remainder:town"]
    assert (len(quotients), len(remainders)) == (3, 4)  # a root of 10, rounded up, is 4
    bias = model.layers.bias
    none, no_events = torch.zeros(0, dtype=torch.int64), torch.zeros(11, dtype=torch.int64)
    towns = {"town": (torch.arange(10), torch.arange(11))}
    hidden = model.encode(none, no_events, torch.zeros(0), towns).hidden_BD
    truth = [torch.tanh(bias + quotients[n // 4] + remainders[n % 4]) for n in range(10)]
    torch.testing.assert_close(hidden, torch.stack(truth))
    assert len({tuple(row.tolist()) for row in hidden}) == 10
    with pytest.raises(ValueError, match="did you mean 'town'"):
        Autoencoder(3, fields={"town": 10}, quotient_remainder=["twon"])


def test_attributes_of_any_names_have_tables_of_their_own() -> None:
    names = ["town", "town:quotient", "quotient:town", "user:town"]
    fields = {name: 10 + n for n, name in enumerate(names)}
    model = Autoencoder(3, fields=fields, hidden_dims=[4], quotient_remainder=["town"])
    rows = sorted(len(table) for table in model.sparse_input.tables.values())
    assert rows == [3, 3, 4, 11, 12, 13]  # items, quotients, remainders, and the other attributes


@pytest.mark.parametrize("backend", ["torch", "torchrec"])
def test_two_tables_learn_in_backward_as_dense_ones_do(backend: Backend) -> None:
    """Two of the three users share a quotient, and two a remainder: their gradients add up."""
    if backend == "torchrec":
        pytest.importorskip("torchrec")
    fields, lr = {"town": 10}, 0.1
    torch.manual_seed(0)
    model = Autoencoder(
        3,
        fields=fields,
        hidden_dims=[4],
        activation="identity",
        quotient_remainder=["town"],
        table_backend=backend,
    )
    towns_B = torch.tensor([4, 5, 9])
    before = {name: table.detach().clone() for name, table in model.sparse_input.tables.items()}
    model.sparse_input.fuse(Sgd(lr))
    none, no_events = torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    weight_BD = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, 0.5, 0.5, 0.5], [-1.0, 0.0, 1.0, 0.0]])
    encoded = model.encode(none, no_events, torch.zeros(0), {"town": (towns_B, torch.arange(4))})
    (encoded.hidden_BD * weight_BD).sum().backward()
    assert model.sparse_input.backend_in_use == backend
    for name, index_of in (("quotient:town", [1, 1, 2]), ("remainder:town", [0, 1, 1])):
        for user, row in enumerate(index_of):
            before[name][row] -= lr * model.scale * weight_BD[user]
        torch.testing.assert_close(model.sparse_input.tables[name].detach(), before[name])


def plain_hidden(model: Autoencoder, items: list[int], attributes: dict[str, list[int]]) -> Tensor:
    """hidden of one user with log_count weighting, normalised, two layers and tanh."""
    weights = {item: math.log(1 + items.count(item)) for item in items}
    length = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
    total = model.layers.bias.clone()
    for item, weight in weights.items():
        total += weight / length * model.sparse_input.tables["history"][item]
    for name, values in attributes.items():
        for value in values:
            total += model.sparse_input.tables[field_of(name)][value]
    linear = model.layers.layers[2]
    return torch.tanh(linear.weight @ torch.tanh(total) + linear.bias)


def test_hidden_is_what_the_definition_says() -> None:
    torch.manual_seed(0)
    model = Autoencoder(NUM_ITEMS, fields=FIELDS, hidden_dims=[8, 6], init_std=1.0).eval()
    with torch.no_grad():
        model.layers.bias.normal_()
        hidden = model.encode(*batch(USERS)).hidden_BD
        truth = torch.stack([plain_hidden(model, items, known) for items, _, known in USERS])
    torch.testing.assert_close(hidden, truth, atol=1e-6, rtol=0)


def test_the_output_bias_starts_at_the_log_odds_of_popularity() -> None:
    model = Autoencoder(3, popularity=torch.tensor([0, 50, 100]), num_users=100)
    expected = [math.log(0.5 / 100.5), 0.0, math.log(100.5 / 0.5)]
    assert model.item_bias.tolist() == pytest.approx(expected, abs=1e-6)


def test_where_a_score_is_no_log_odds_the_output_bias_starts_at_0() -> None:
    popularity = torch.tensor([0, 50, 100])
    model = Autoencoder(3, popularity=popularity, num_users=100, log_odds=False, repeats=True)
    assert model.item_bias.tolist() == model.reconstruction_bias.tolist() == [0.0] * 3


@pytest.mark.parametrize("length", [1.0, 2.0])  # of four items that weigh alike
def test_input_dropout_drops_whole_items_and_keeps_the_expected_sum(length: float) -> None:
    torch.manual_seed(0)
    model = Autoencoder(
        4,
        hidden_dims=[4],
        activation="identity",
        input_dropout=0.25,
        history_weighting="binary",
        normalize=length == 1.0,
    )
    model.sparse_input.tables["history"].data = torch.eye(4) * 2.0 / length
    history = Jagged(torch.arange(4).repeat(4000), torch.arange(0, 16001, 4))
    batch = Batch(torch.arange(4000), history, target=history)
    [task] = model.tasks(model.arrange(batch, torch.Generator().manual_seed(0)))
    hidden = task.encoded.hidden_BD.detach()
    assert hidden.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    # 16,000 draws of 0 or 4/3 have a mean within 4 standard errors of 1
    assert hidden.mean().item() == pytest.approx(1.0, abs=4 * (1 / 3) ** 0.5 / 16000**0.5)
    encoded = model.encode(history.values, history.offsets, torch.zeros(0), {})
    assert torch.equal(encoded.hidden_BD, torch.ones(4000, 4))


def dense_loss(task: Task) -> Tensor:
    """Binary cross entropy over the whole catalog, written out."""
    scores = task.encoded.hidden_BD @ task.item_weight_VD.T + task.item_bias_V
    wanted = torch.zeros_like(scores)
    users = torch.repeat_interleave(task.encoded.repeat_offsets_B1.diff())
    scores = scores.index_put((users, task.encoded.repeat_items_M), task.encoded.repeat_scores_M)
    wanted[torch.repeat_interleave(task.asked.target.offsets.diff()), task.asked.target.values] = (
        1.0
    )
    return functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")


def test_with_reconstruction_each_task_trains_its_own_parameters() -> None:
    torch.manual_seed(0)
    model = Autoencoder(NUM_ITEMS, repeats=True, reconstruction=0.3, input_dropout=0.5)
    items, offsets, ages, _ = batch(USERS)
    given = Batch(torch.arange(5), Jagged(items, offsets), ages)
    given.target = Jagged(torch.tensor([1, 3]), torch.tensor([0, 2, 2, 2, 2, 2]))
    predicted, rebuilt = model.tasks(model.arrange(given, torch.Generator().manual_seed(0)))
    trained = []
    for task in (predicted, rebuilt):
        gradients = torch.autograd.grad(
            dense_loss(task), list(model.parameters()), allow_unused=True, retain_graph=True
        )
        names = [name for name, _ in model.named_parameters()]
        trained.append({n for n, g in zip(names, gradients, strict=True) if g is not None})
    network = {"sparse_input.tables.history", "layers.bias", "item_weight", "reconstruction_bias"}
    assert trained[1] == network
    assert trained[0] == {name for name, _ in model.named_parameters()} - network
    assert (predicted.weight, rebuilt.weight) == (1.0, 0.3)
    shown, asked = rebuilt.encoded.repeat_items_M.tolist(), rebuilt.asked.target.values.tolist()
    assert sorted(shown + asked) == sorted([0, 3, 7, 10, 11, 12, 29])
    assert shown
    assert asked
    # what is shown costs nothing: its loss is that of the other items alone
    scores = rebuilt.encoded.hidden_BD @ model.item_weight.T + model.reconstruction_bias
    scores[torch.repeat_interleave(rebuilt.encoded.repeat_offsets_B1.diff()), shown] = -torch.inf
    cost = functional.softplus(scores).sum()
    cost -= scores[torch.repeat_interleave(rebuilt.asked.target.offsets.diff()), asked].sum()
    torch.testing.assert_close(dense_loss(rebuilt), cost, rtol=1e-5, atol=0)


def test_repeat_scores_are_what_the_definition_says() -> None:
    torch.manual_seed(0)
    popularity = torch.arange(NUM_ITEMS)
    model = Autoencoder(
        NUM_ITEMS, fields=FIELDS, repeats=True, popularity=popularity, num_users=40
    ).eval()
    assert model.repeat is not None
    with torch.no_grad():
        model.repeat.item_bias.normal_()
    encoded = model.encode(*batch(USERS))
    log_odds = [math.log((n + 0.5) / (40 - n + 0.5)) for n in range(NUM_ITEMS)]
    mean = sum(log_odds) / NUM_ITEMS
    truth = []
    for items, ages, _ in USERS:
        for item in sorted(set(items)):
            own = [age for other, age in zip(items, ages) if other == item]
            features = [
                math.log1p(len(own)) - 1,
                math.log1p(min(own)) / 2 - 2,
                math.log1p(max(own)) / 2 - 2.3,
                (log_odds[item] - mean) / 2,
            ]
            score = model.repeat.layers(torch.tensor(features)) + model.repeat.item_bias[item]
            truth.append(score.item())
    assert encoded.repeat_scores_M.tolist() == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_dims": []}, "hidden_dims must be one or more positive numbers"),
        ({"activation": "swish"}, "activation must be one of sigmoid, .* got 'swish'"),
        ({"history_weighting": "tfidf"}, "history_weighting must be one of binary, .* got 'tfidf'"),
        ({"input_dropout": 1.0}, r"input_dropout must be in \[0, 1\), got 1.0"),
        ({"repeats": True, "input_dropout": 0.0}, "input_dropout must be above 0"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Autoencoder(3, **arguments)  # type: ignore[arg-type]
