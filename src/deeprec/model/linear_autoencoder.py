"""A linear autoencoder with one table: an item is scored by its likeness to the items of a history.

A shallow one: no layers, no bias. Item i has a row `u_i` of unit length, a history is the sum of
its rows, and an item is scored by its product with that sum. What is learned is which items lie
close to each other, as in an item-to-item model whose V x V similarities have rank D. The best rows
under a squared error are singular vectors of all histories, so rows begin near these.

Popularity enters twice, by powers that are settings: an item counts for less in a history the more
popular it is, and is scored the higher.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from deeprec.batch import Arranged, Asked, Batch, Encoded, Jagged, Task, with_transposition
from deeprec.model.attribute_field import Bags, attribute_fields, attribute_tables
from deeprec.model.history import (
    FADE_DAYS,
    History,
    HistoryWeighting,
    ages_read,
    aggregate,
    aggregated,
    check_weighting,
    history_weights,
)
from deeprec.model.repeat import without_repeat
from deeprec.model.solved import OF_POPULARITY, powers, scaled_histories, tie_breaks
from deeprec.model.sparse_input import HISTORY, SparseInput, sparse_gradient_bag
from deeprec.model.svd import leading_vectors, looking_bytes

WARM_ITERATIONS = 3  # training finds the rest
WARM_POWER = 0.5  # by which events of long histories and popular items weigh less
SCATTERED = 40  # users an item, below which what is popular says little of what comes next
# weight of what is known of a user: at 1, rows of an attribute that says nothing took a twentieth
# of ndcg on generated events (validation ndcg@100 .221, now .231, as without it); by country on
# Online Retail it is .130 at 1 and .131 at .1, on Complete Journey .065 at both
OF_ATTRIBUTES = 0.05
SMALLEST = 1e-6  # length below which singular vectors say nothing of an item
ROWS_AT_ONCE = 2**14  # of a table that others take the place of


class LinearAutoencoder(nn.Module):
    """A history as the sum of its items' rows, scored against the same rows.

    To that sum are added rows of the user's attributes and one row for everybody, which says what
    to expect of a user of whom nothing is known. These start at nothing.

    It learns to rebuild the history that it is shown, whatever the config part `target` asks for,
    and is made for `loss=cosine` with `exclude_self` (`experiment=linear`): other losses reward it
    for scoring an item by its own row.

    `item_weight` holds `row_length_V[i] * u_i`, so that training, ranking and bundle read one
    table. The optimizer keeps the lengths of its rows.

    Args:
        num_items: V, known from the data.
        fields: user attribute -> size of its vocabulary, known from the data.
        popularity: int64 [V], training users that had each item, known from the data; None: all
            alike, until the buffers are loaded.
        width: D, floats of an item's row.
        input_power: an item of a history weighs `popularity ** -input_power`.
        output_power: scores are multiplied by `popularity ** output_power`.
        history_weighting: weight of each distinct item of a history, as of `Autoencoder`.
        fade_days: days after which an event counts 1/e in `decayed`.
        warm_start: whether rows begin at singular vectors of all histories, not at random.
        everybody: whether there is one row for everybody; None: where items have 40 users each.
            It says what is popular, which is worth the more the less there is to choose from:
            ndcg@100 on validation is .318 in place of .317 on MovieLens 1M and .131 in place of
            .116 on Online Retail's new items, but .120 in place of .133 on purchases of books, of
            26 users an item, after half of ten epochs.

    Raises:
        ValueError: width is below 1, or fade_days less than a second.
        ConfigError: a power of popularity is 0 or infinite in float32.

    Example:
        >>> model = LinearAutoencoder(3, width=2)
        >>> _ = model.item_weight.data.copy_(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]))
        >>> history = torch.tensor([1, 2]), torch.tensor([0, 2])
        >>> model.encode(*history, torch.zeros(0), {}).hidden_BD.tolist()
        [[0.6000000238418579, 1.7999999523162842]]

    Reference:
        Vancura et al., Scalable Linear Shallow Autoencoder for Collaborative Filtering (ELSA),
        RecSys 2022. Differs: the powers of popularity, as graph filters have them (Shen et al., How
        Powerful is Graph Convolution for Recommendation, CIKM 2021), rows that begin at singular
        vectors and are kept at their length instead of being normalised in each step, and what is
        added to the sum of a history.
    """

    linear = True  # a history is the sum of its rows of the catalog table
    learns_shown = True  # to rebuild it, whatever the target asks for
    input_scale_V: Tensor
    row_length_V: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        fields: Mapping[str, int] | None = None,
        popularity: Tensor | None = None,
        width: int = 256,
        input_power: float = 0.2,
        output_power: float = 0.2,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
        warm_start: bool = True,
        everybody: bool | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        check_weighting(history_weighting, fade_days)
        self.num_items = num_items
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.warm_start, self.fields = warm_start, dict(fields or {})
        tables = attribute_tables(self.fields, {})
        self.sparse_input = SparseInput(tables, width, init_std=0.0) if tables else None
        self.register_buffer("input_scale_V", _powers(popularity, num_items, -input_power))
        self.register_buffer("row_length_V", _powers(popularity, num_items, output_power))
        rows_VD = torch.randn(num_items, width)
        rows_VD.div_(torch.linalg.vector_norm(rows_VD, dim=1, keepdim=True))
        self.item_weight = nn.Parameter(rows_VD.mul_(self.row_length_V[:, None]))
        ties_V = torch.zeros(num_items) if popularity is None else tie_breaks(popularity, 1.0)
        self.item_bias = nn.Parameter(ties_V, requires_grad=False)
        if everybody is None:
            everybody = popularity is not None and float(popularity.double().mean()) >= SCATTERED
        self.everybody_D = nn.Parameter(torch.zeros(width), requires_grad=bool(everybody))

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: dict[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the model says of each user; see `Recommender.encode`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        items = Jagged(history.items_M, history.offsets_B1, self._weights(history))
        known = {name: Jagged(*attributes[name]) for name in self.fields}
        of_user_D = self._of_user(attribute_fields(known, {}))
        return without_repeat(self._of_items(items) + of_user_D)

    @torch.no_grad()
    def begin(self, users: Batch, draw: torch.Generator) -> None:
        """Turns rows to the singular vectors of these histories; see `Trainable`.

        Of an item, each vector counts by the root of its singular value, as if both sides of a
        factorisation had their share of it. An item that no vector knows keeps its random row.
        """
        if not self.warm_start:
            return
        scaled, *_ = scaled_histories(
            users,
            self.num_items,
            self.history_weighting,
            self.fade_days,
            user_power=WARM_POWER,
            item_power=WARM_POWER,
        )
        vectors_VD = leading_vectors(scaled, self.item_weight.shape[1], draw, WARM_ITERATIONS)
        rows_VD = torch.from_numpy(vectors_VD)
        said_BD = torch.from_numpy(scaled @ vectors_VD)
        rows_VD *= torch.linalg.vector_norm(said_BD, dim=0).sqrt()
        # in blocks: a large catalog has no room for its table once more
        tables = self.item_weight, rows_VD, self.row_length_V
        for table_CD, rows_CD, length_C in zip(
            *(torch.split(whole, ROWS_AT_ONCE) for whole in tables), strict=True
        ):
            found_CD = rows_CD.to(table_CD.device)
            found_C1 = torch.linalg.vector_norm(found_CD, dim=1, keepdim=True)
            found_CD = found_CD * (length_C[:, None] / found_C1.clamp(min=SMALLEST))
            table_CD.copy_(torch.where(found_C1 > SMALLEST, found_CD, table_CD))

    def begin_bytes(self, num_users: int, num_events: int) -> int:
        """What `begin` takes; see `Trainable`."""
        if not self.warm_start:
            return 0
        return looking_bytes(self.item_weight, num_users, num_events)

    def arrange(self, batch: Batch, draw: torch.Generator) -> Arranged:
        """Aggregates histories; see `Recommender.arrange`. Nothing is drawn."""
        ages_N = ages_read(batch.known_ages, self.history_weighting)
        history = aggregated(batch, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        shown = with_transposition(Jagged(history.items_M, history.offsets_B1, weights_M))
        none = Jagged(history.items_M[:0], torch.zeros_like(history.offsets_B1))
        known = {name: batch.attributes[name] for name in self.fields}
        of_user = attribute_fields(known, {})
        fields = {HISTORY: shown, **{k: with_transposition(v) for k, v in of_user.items()}}
        return Arranged(batch.num_users, fields, [Asked(shown, with_transposition(none))])

    def tasks(self, arranged: Arranged) -> list[Task]:
        """The history from itself; its weights are those that it has in `encode`."""
        shown = arranged.fields[HISTORY]
        assert shown.weights is not None
        shown = replace(shown, weights=shown.weights * self.input_scale_V[shown.values])
        own_BD = self._of_items(shown)
        asked = replace(arranged.asked[0], target=shown, own_BD=own_BD)
        of_user = {name: rows for name, rows in arranged.fields.items() if name != HISTORY}
        encoded = without_repeat(own_BD + self._of_user(of_user))
        return [Task(1.0, encoded, self.item_weight, self.item_bias, asked)]

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, sharing the table of this model."""
        return ServingEncoder(self)

    def _weights(self, history: History) -> Tensor:
        weights_M = history_weights(history, self.history_weighting)
        return weights_M * self.input_scale_V[history.items_M]

    def _of_items(self, items: Jagged) -> Tensor:
        """float32 [B, D]: the sum of the rows of each history, at length 1 times their weights."""
        assert items.weights is not None
        weights_M = items.weights / self.row_length_V[items.values]
        return sparse_gradient_bag(self.item_weight, replace(items, weights=weights_M))

    def _of_user(self, attributes: Mapping[str, Jagged]) -> Tensor:
        """float32 [B, D], or [D] where nothing is known of users."""
        if self.sparse_input is None:
            return self.everybody_D
        of_attributes_BD: Tensor = self.sparse_input(attributes)
        return OF_ATTRIBUTES * of_attributes_BD + self.everybody_D


class ServingEncoder(nn.Module):
    """The encoder of a `LinearAutoencoder` in plain aten operations, for TorchScript.

    Args:
        model: whose table it shares.
    """

    input_scale_V: Tensor
    row_length_V: Tensor

    def __init__(self, model: LinearAutoencoder) -> None:
        super().__init__()
        self.num_items = model.num_items
        self.history_weighting, self.fade_days = model.history_weighting, model.fade_days
        tables = nn.ParameterDict() if model.sparse_input is None else model.sparse_input.tables
        self.bags = Bags(model.item_weight, tables, model.fields, {}, OF_ATTRIBUTES)
        self.everybody_D = model.everybody_D
        self.register_buffer("input_scale_V", model.input_scale_V)
        self.register_buffer("row_length_V", model.row_length_V)

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """As `LinearAutoencoder.encode`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        weights_M = weights_M * self.input_scale_V[history.items_M]
        weights_M = weights_M / self.row_length_V[history.items_M]
        sum_BD = self.bags(history, weights_M, attribute_values, attribute_offsets)
        return without_repeat(sum_BD + self.everybody_D)


def _powers(popularity_V: Tensor | None, num_items: int, power: float) -> Tensor:
    """float32 [V]: a power of popularity; an item that nobody had counts as one that one user had.

    Over its mean, so that powers leave the size of rows and scores as it is.
    """
    if popularity_V is None:
        return torch.ones(num_items)
    had_V = popularity_V.double().clamp(min=1.0)
    powers_V = torch.from_numpy(powers(had_V.numpy(), power, OF_POPULARITY))
    return (powers_V / powers_V.mean()).float()
