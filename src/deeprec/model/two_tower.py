"""Two towers whose scores are cosines: what a user had and is, and a row for each item.

pooled = mean of the rows of the history, or a mean by learned attention
hidden = unit length of (1 - gate) * (project pooled + bias) + gate * rows of the attributes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Arranged, Batch, Encoded, Jagged, Task, with_transposition
from deeprec.model.attribute_field import (
    Bag,
    attribute_bag,
    attribute_fields,
    attribute_tables,
    divisors_of,
)
from deeprec.model.dropping import check_share, thinned
from deeprec.model.history import (
    FADE_DAYS,
    History,
    HistoryWeighting,
    ages_read,
    aggregate,
    check_weighting,
    history_weights,
)
from deeprec.model.repeat import without_repeat
from deeprec.model.sparse_input import HISTORY, Backend, SparseInput, mean_weights
from deeprec.model.user_input import asked_without_repeats

HistoryPooling = Literal["mean", "attention"]


@dataclass
class Shown(Arranged):
    """What a `TwoTower` reads of a batch in a step."""

    history: Jagged  # what is kept of it; `fields` holds it as its pooling reads it


class TwoTower(nn.Module):
    """A user as one direction, from its history and attributes, and each item as another.

    Made for `loss=cosine_contrastive` (`experiment=simplex`). Hidden vectors and catalog rows have
    length 1 and there is no output bias; the optimizer keeps the rows so. Who has neither history
    nor attributes gets the direction of the bias: what everybody likes.

    Args:
        num_items: V, known from the data.
        fields: user attribute -> size of its vocabulary, known from the data.
        width: D, floats of an item's row in either table.
        pooling: what becomes of the rows of a history: their `mean`, or one by `attention`, where
            a learned query weighs each row by what it holds.
        history_weighting: weight of each distinct item in that mean, as of `Autoencoder`.
        fade_days: days after which an event counts 1/e in `decayed`.
        input_dropout: chance of dropping each distinct item of a history in training.
        tied: one table for the items of a history and for the catalog.
        gate: share of the attributes at first, in (0, 1); it is learned. Without attributes there
            is none.
        init_std: standard deviation of the initial rows of a history's items and of attributes.
        quotient_remainder: user attributes of two tables, as of `Autoencoder`.
        table_backend: what updates the input tables, see `SparseInput`.

    Raises:
        ValueError: an argument lies outside its range.

    Example:
        >>> model = TwoTower(3, width=2).eval()
        >>> history = torch.tensor([2, 0]), torch.tensor([0, 2, 2])
        >>> model.encode(*history, torch.zeros(0), {}).hidden_BD.norm(dim=1).round().tolist()
        [1.0, 1.0]

    Reference:
        Mao et al., SimpleX: A Simple and Strong Baseline for Collaborative Filtering, CIKM 2021,
        equation 5. Differs: the attributes of a user stand where its embedding does, so that who
        was not trained on has an answer; the gate is learned; a table of its own for histories,
        unless `tied`; a bias of the projection; parts of histories are dropped in training.
    """

    unit_vectors = True  # scores are cosines
    row_length_V: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        fields: Mapping[str, int] | None = None,
        width: int = 64,
        pooling: HistoryPooling = "mean",
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
        input_dropout: float = 0.5,
        tied: bool = False,
        gate: float = 0.5,
        init_std: float = 0.1,
        quotient_remainder: Sequence[str] = (),
        table_backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_weighting(history_weighting, fade_days)
        _check(width, pooling, gate)
        check_share("input_dropout", input_dropout)
        self.num_items, self.fields, self.tied = num_items, dict(fields or {}), tied
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.input_dropout = input_dropout
        self.history_input = SparseInput(
            {} if tied else {HISTORY: num_items},
            width,
            borrowed=[HISTORY] if tied else [],
            pooling={HISTORY: "mean"} if pooling == "mean" else {},
            backend=table_backend,
            init_std=init_std,
        )
        self.attention = Attention(width) if pooling == "attention" else None
        divided = () if fields is None else quotient_remainder  # a config is checked without data
        self.divisors = divisors_of(self.fields, divided)
        self.user_tower = UserTower(width, gate if self.fields else None)
        self.attribute_input = (
            SparseInput(
                attribute_tables(self.fields, self.divisors),
                width,
                backend=table_backend,
                init_std=init_std,
            )
            if self.fields
            else None
        )
        self.item_weight = nn.Parameter(F.normalize(torch.randn(num_items, width)))
        self.item_bias = nn.Parameter(torch.zeros(num_items), requires_grad=False)
        # on the CPU even where the rest is on the meta device: no file holds it
        lengths_V = torch.ones(num_items, device="cpu")
        self.register_buffer("row_length_V", lengths_V, persistent=False)

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: Mapping[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the model says of each user; see `Recommender.encode`."""
        items = self._weighted(items_N, offsets_B1, ages_N)
        known = {name: Jagged(*attributes[name]) for name in self.fields}
        return without_repeat(self._hidden(items, self._fields(items, known)))

    def arrange(self, batch: Batch, draw: torch.Generator) -> Shown:
        """Aggregates histories and draws what is dropped of them; see `Recommender.arrange`."""
        history = batch.history
        ages_N = ages_read(batch.known_ages, self.history_weighting)
        items = self._weighted(history.values, history.offsets, ages_N)
        kept = thinned(items, self.input_dropout, draw)
        fields = self._fields(kept, {name: batch.attributes[name] for name in self.fields})
        fields = {name: with_transposition(rows) for name, rows in fields.items()}
        return Shown(batch.num_users, fields, [asked_without_repeats(batch)], kept)

    def tasks(self, arranged: Shown) -> list[Task]:
        """The target from what is kept of the history."""
        encoded = without_repeat(self._hidden(arranged.history, arranged.fields))
        return [Task(1.0, encoded, self.item_weight, self.item_bias, arranged.asked[0])]

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, sharing the parameters of this model."""
        return ServingEncoder(self)

    def _weighted(self, items_N: Tensor, offsets_B1: Tensor, ages_N: Tensor) -> Jagged:
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        return Jagged(history.items_M, history.offsets_B1, weights_M)

    def _fields(self, items: Jagged, attributes: Mapping[str, Jagged]) -> dict[str, Jagged]:
        """All sparse fields; attention reads each item of a history as a row of its own."""
        if self.attention is not None:
            each = torch.arange(len(items.values) + 1, device=items.values.device)
            items = Jagged(items.values, each)
        return {HISTORY: items, **attribute_fields(attributes, self.divisors)}

    def _hidden(self, items: Jagged, fields: Mapping[str, Jagged]) -> Tensor:
        tables = {HISTORY: self.item_weight} if self.tied else {}
        read = self.history_input({HISTORY: fields[HISTORY]}, tables)
        if self.attention is not None:
            assert items.weights is not None
            users_M = torch.repeat_interleave(items.offsets.diff(), output_size=len(items.values))
            read = self.attention(read, items.weights, users_M, len(items.offsets) - 1)
        attributes_BD = torch.zeros_like(read)
        if self.attribute_input is not None:
            of_users = {name: rows for name, rows in fields.items() if name != HISTORY}
            attributes_BD = self.attribute_input(of_users)
        hidden_BD: Tensor = self.user_tower(read, attributes_BD)
        return hidden_BD


class UserTower(nn.Module):
    """From a pooled history and summed attributes to a direction.

    Args:
        width: D.
        gate: share of the attributes at first; None: there are none.
    """

    def __init__(self, width: int, gate: float | None) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)
        self.has_gate = gate is not None
        start = torch.logit(torch.tensor(0.5 if gate is None else gate))
        self.gate = nn.Parameter(start, requires_grad=self.has_gate)

    def forward(self, pooled_BD: Tensor, attributes_BD: Tensor) -> Tensor:
        """float32 [B, D], rows of length 1."""
        hidden_BD = self.project(pooled_BD)
        if self.has_gate:
            share = torch.sigmoid(self.gate)
            hidden_BD = (1.0 - share) * hidden_BD + share * attributes_BD
        return F.normalize(hidden_BD, dim=1)


class Attention(nn.Module):
    """A mean of rows, each weighed by what a learned query finds in it.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, 1, bias=False)

    def forward(
        self, rows_MD: Tensor, weights_M: Tensor, users_M: Tensor, num_users: int
    ) -> Tensor:
        """float32 [B, D]; zeros for a user without rows.

        Args:
            rows_MD: of the items of histories.
            weights_M: float32 [M], above 0, what each counts besides.
            users_M: int64 [M], whose each is.
            num_users: B.
        """
        found_M = self.query(torch.tanh(self.key(rows_MD))).squeeze(1).float()
        most_B = torch.zeros(num_users, device=found_M.device)
        most_B = most_B.scatter_reduce(0, users_M, found_M.detach(), "amax", include_self=False)
        weights_M = weights_M * torch.exp(found_M - most_B[users_M])
        shares_M = mean_weights(weights_M, users_M, num_users)
        zeros_BD = torch.zeros(num_users, rows_MD.shape[1], device=rows_MD.device)
        return zeros_BD.index_add(0, users_M, rows_MD * shares_M[:, None])


class ServingEncoder(nn.Module):
    """The encoder of a `TwoTower` in plain aten operations, for TorchScript.

    Args:
        model: whose parameters it shares.
    """

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        history = model.item_weight if model.tied else model.history_input.tables[HISTORY]
        self.num_items = model.num_items
        self.history_weighting, self.fade_days = model.history_weighting, model.fade_days
        self.pooled = (
            _Mean(history) if model.attention is None else _Attentive(history, model.attention)
        )
        tables = nn.ParameterDict()
        if model.attribute_input is not None:
            tables = model.attribute_input.tables
        self.attributes = nn.ModuleList(
            [attribute_bag(tables, name, model.divisors.get(name)) for name in model.fields]
        )
        self.user_tower = model.user_tower

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """As `TwoTower.encode`; attributes in the order of the model's fields."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        pooled_BD = self.pooled(history, weights_M)
        attributes_BD = torch.zeros_like(pooled_BD)
        for i, bag in enumerate(self.attributes):
            ones = torch.ones(attribute_values[i].shape[0], device=items_N.device)
            attributes_BD = attributes_BD + bag(attribute_values[i], attribute_offsets[i], ones)
        return without_repeat(self.user_tower(pooled_BD, attributes_BD))


class _Mean(nn.Module):
    def __init__(self, table: nn.Parameter) -> None:
        super().__init__()
        self.bag = Bag(table)

    def forward(self, history: History, weights_M: Tensor) -> Tensor:
        shares_M = mean_weights(weights_M, history.users_M, history.offsets_B1.shape[0] - 1)
        pooled_BD: Tensor = self.bag(history.items_M, history.offsets_B1, shares_M)
        return pooled_BD


class _Attentive(nn.Module):
    def __init__(self, table: nn.Parameter, attention: Attention) -> None:
        super().__init__()
        self.table, self.attention = table, attention

    def forward(self, history: History, weights_M: Tensor) -> Tensor:
        rows_MD, num_users = self.table[history.items_M], history.offsets_B1.shape[0] - 1
        pooled_BD: Tensor = self.attention(rows_MD, weights_M, history.users_M, num_users)
        return pooled_BD


def _check(width: int, pooling: str, gate: float) -> None:
    if width < 1:
        raise ValueError(f"width must be 1 or more, got {width}")
    if pooling not in get_args(HistoryPooling):
        raise ValueError(
            f"pooling must be one of {', '.join(get_args(HistoryPooling))}; got {pooling!r}"
        )
    if not 0.0 < gate < 1.0:
        raise ValueError(f"gate must be in (0, 1), got {gate}")
