"""The network of DSSTNE: history -> summed item embeddings -> hidden layers -> catalog.

With two additions: user attributes are further sparse inputs, and items of the user's own history
may get a score for how often and how long ago they were had (`repeat`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import (
    Arranged,
    Asked,
    Batch,
    Encoded,
    Jagged,
    Task,
    again,
    transposed,
    with_transposition,
)
from deeprec.model.attribute_field import (
    Bags,
    attribute_fields,
    attribute_tables,
    divisors_of,
)
from deeprec.model.dropping import check_share, divide, thinned
from deeprec.model.history import (
    FADE_DAYS,
    History,
    HistoryWeighting,
    ages_read,
    aggregate,
    aggregated,
    check_weighting,
    history_weights,
    normalized,
)
from deeprec.model.layers import Activation, Layers, check_layers
from deeprec.model.repeat import NoRepeat, RepeatScores, with_repeat, without_repeat
from deeprec.model.sparse_input import HISTORY, Backend, Pooling, SparseInput, mean_weights

NEVER = -1e4  # a score that takes the item out of any loss


@dataclass
class Shown(Arranged):
    """What an `Autoencoder` reads of a batch in a step."""

    history: History | None  # whole, for the repeat scores

    def filled(self, num_pairs: int, num_users: int) -> "Shown":
        """The same with so many pairs, the further ones the last again, and users without any."""
        history = self.history
        if history is None:
            return self
        sizes = {"offsets_B1": num_users + 1}
        filled = {
            name: again(each, sizes.get(name, num_pairs))
            for name, each in history._asdict().items()
        }
        return replace(self, history=History(**filled))


class Autoencoder(nn.Module):
    """A user as the embedding of what it had, scored against every item of the catalog.

    Args:
        num_items: V, known from the data.
        fields: user attribute -> size of its vocabulary, known from the data.
        popularity: int64 [V], training users that had each item, known from the data. The output
            bias starts at the log odds of an item being in a target; None: at 0.
        log_odds: whether the loss reads scores as log odds, known from the loss; a bias that starts
            at log odds is far off where a score is the target itself, so there it starts at 0.
        num_users: training users, known from the data.
        target_share: items in a target over items in a history, known from the data.
        repeats: whether a target may hold items of the history that is shown, known from the data.
        hidden_dims: units of each hidden layer; the first is the width of the input tables, the
            last is D, the width of the catalog table.
        activation: after every hidden layer, the last one too.
        output_activation: after the last hidden layer instead; None: `activation`.
        history_weighting: weight of each distinct item of a history: `binary` 1, `log_count`
            log(1 + events), `decayed` the same with events fading by `fade_days`.
        fade_days: days after which an event counts 1/e in `decayed`.
        pooling: what becomes of the weighted embeddings of a history: their `sum`, or their `mean`
            (the sum over the sum of the weights).
        normalize: divide those weights by their root of summed squares; a mean knows no such scale.
        input_dropout: chance of dropping each distinct item of a history in training; the weights
            of those kept, normalised before, are scaled up (DSSTNE: Denoising.p).
        dropout: chance of dropping each hidden unit in training.
        tied: one table for the items of a history and for the catalog, which learns from both sides
            at once; the first and the last of `hidden_dims` must be equal.
        unit_vectors: hidden vectors and catalog rows have length 1 and there is no output bias, so
            that scores are cosines, for `loss=cosine_contrastive`. The optimizer keeps the rows so.
        init_std: standard deviation of the initial input rows, and of a tied table.
        output_init_std: the same of a catalog table that is not tied.
        repeat_scores: give items of the user's own history a score for how often and how long ago
            they were had, where `repeats`.
        reconstruction: above 0 and where `repeats`, the network and the catalog table learn from a
            second task of this weight alone: to find the dropped items of the history from the
            kept ones. The target then trains what is left: one scale of what the network says, the
            output bias and the repeat scores. Predicting the next window from the same few
            thousand users at every step makes a network remember them; finding dropped items does
            not.
        quotient_remainder: user attributes whose embedding is the sum of two: of the quotient and
            of the remainder of its index by the root of its vocabulary's size. A million values,
            as of a hashed attribute, take two tables of 1,000 rows, and no two the same pair.
        table_backend: what updates the input tables, see `SparseInput`.

    Example:
        >>> model = Autoencoder(3, hidden_dims=[4]).eval()
        >>> none = torch.zeros(0)
        >>> encoded = model.encode(torch.tensor([2, 0]), torch.tensor([0, 2, 2]), none, {})
        >>> encoded.hidden_BD.shape
        torch.Size([2, 4])
    """

    reads_bags_alone = users_apart = True

    def __init__(
        self,
        num_items: int,
        *,
        fields: Mapping[str, int] | None = None,
        popularity: Tensor | None = None,
        log_odds: bool = True,
        num_users: int = 0,
        target_share: float = 1.0,
        repeats: bool = False,
        hidden_dims: Sequence[int] = (128,),
        activation: Activation = "tanh",
        output_activation: Activation | None = None,
        history_weighting: HistoryWeighting = "log_count",
        fade_days: float = FADE_DAYS,
        pooling: Pooling = "sum",
        normalize: bool = True,
        input_dropout: float = 0.5,
        dropout: float = 0.0,
        tied: bool = False,
        unit_vectors: bool = False,
        init_std: float = 0.1,
        output_init_std: float = 0.01,
        repeat_scores: bool = True,
        reconstruction: float = 0.3,
        quotient_remainder: Sequence[str] = (),
        table_backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_layers(hidden_dims, [activation, output_activation or activation])
        check_weighting(history_weighting, fade_days)
        self.reconstruction = reconstruction if repeats else 0.0
        _check_shares(input_dropout, dropout, self.reconstruction)
        _check_tied(tied, hidden_dims)
        self.num_items = num_items
        self.fields = dict(fields or {})
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.pooling, self.normalize, self.input_dropout = pooling, normalize, input_dropout
        first, last = hidden_dims[0], hidden_dims[-1]
        divided = () if fields is None else quotient_remainder  # a config is checked without data
        self.divisors = divisors_of(self.fields, divided)
        tables = attribute_tables(self.fields, self.divisors)
        self.tied, self.unit_vectors = tied, unit_vectors
        self.sparse_input = SparseInput(
            tables if tied else {HISTORY: num_items, **tables},
            first,
            borrowed=[HISTORY] if tied else [],
            pooling={HISTORY: pooling},
            backend=table_backend,
            init_std=init_std,
        )
        activations = activation, output_activation or activation
        self.layers = Layers(hidden_dims, *activations, dropout, unit_vectors)
        log_odds_V = None if popularity is None else item_log_odds(popularity, num_users)
        std = init_std if tied else output_init_std
        self.item_weight = nn.Parameter(torch.randn(num_items, last).mul_(std))
        start_V = output_bias(num_items, popularity, num_users, target_share, log_odds=log_odds)
        self.item_bias = nn.Parameter(start_V)
        if unit_vectors:
            self._keep_unit_length()
        self.repeat = RepeatScores(num_items, log_odds_V) if repeats and repeat_scores else None
        if self.reconstruction > 0.0:
            bias_V = output_bias(num_items, popularity, num_users, 1.0, log_odds=log_odds)
            self.reconstruction_bias = nn.Parameter(bias_V)
            self.scale = nn.Parameter(torch.tensor(0.3))  # learned: about 0.2 on daily purchases
        else:
            # on the CPU even where the rest is on the meta device: no file holds it
            self.register_buffer("scale", torch.ones((), device="cpu"), persistent=False)

    def _keep_unit_length(self) -> None:
        if self.reconstruction > 0.0:
            raise ValueError("unit_vectors needs reconstruction=0: a learned scale is no cosine")
        self.item_weight.data = F.normalize(self.item_weight.data)
        self.item_bias = nn.Parameter(torch.zeros(self.num_items), requires_grad=False)
        lengths_V = torch.ones(self.num_items, device="cpu")  # as `scale` below
        self.register_buffer("row_length_V", lengths_V, persistent=False)

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: Mapping[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the model says of each user; see `Recommender.encode`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        fields = self._of_attributes({name: Jagged(*attributes[name]) for name in self.fields})
        hidden_BD = self._hidden({HISTORY: self._weighted(history), **fields})
        if self.repeat is None:
            return without_repeat(hidden_BD * self.scale)
        return with_repeat(hidden_BD * self.scale, history, self.repeat(history))

    def arrange(self, batch: Batch, draw: torch.Generator) -> Shown:
        """Aggregates histories and draws what is dropped of them; see `Recommender.arrange`."""
        assert batch.target is not None
        ages_N = batch.known_ages
        if self.repeat is None:
            ages_N = ages_read(ages_N, self.history_weighting)
        history = aggregated(batch, ages_N, self.num_items, self.fade_days)
        weighted, dropped = self._weighted(history), None
        if self.reconstruction > 0.0:
            kept, dropped = divide(weighted, self.input_dropout, draw)
        else:
            kept = thinned(weighted, self.input_dropout, draw)
        kept = with_transposition(kept)
        scored = 0 if self.repeat is None else len(history.items_M)
        repeats = Jagged(history.items_M[:scored], history.offsets_B1.clamp(max=scored))
        asked = [Asked(with_transposition(batch.target), with_transposition(repeats))]
        if dropped is not None:
            asked.append(Asked(with_transposition(dropped), replace(kept, weights=None)))
        fields = self._of_attributes(batch.attributes)
        fields = {name: with_transposition(rows) for name, rows in fields.items()}
        whole = None if self.repeat is None else history
        return Shown(batch.num_users, {HISTORY: kept, **fields}, asked, whole)

    def tasks(self, arranged: Shown) -> list[Task]:
        """The target from the history, and with `reconstruction` the history from a part of it."""
        hidden_BD = self._hidden(arranged.fields)
        if self.reconstruction == 0.0:
            [asked] = arranged.asked
            encoded = self._trained(arranged, hidden_BD)
            return [Task(1.0, encoded, self.item_weight, self.item_bias, asked)]
        asked, asked_dropped = arranged.asked
        encoded = self._trained(arranged, hidden_BD.detach() * self.scale)
        kept = asked_dropped.repeats
        never = torch.full_like(kept.values, NEVER, dtype=torch.float32)
        rebuilt = Encoded(hidden_BD, kept.values, kept.offsets, never)
        item_bias = self.reconstruction_bias
        return [
            Task(1.0, encoded, self.item_weight.detach(), self.item_bias, asked),
            Task(self.reconstruction, rebuilt, self.item_weight, item_bias, asked_dropped),
        ]

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, sharing the parameters of this model."""
        return ServingEncoder(self)

    def _weighted(self, history: History) -> Jagged:
        weights_M = history_weights(history, self.history_weighting)
        if self.normalize and self.pooling == "sum":
            weights_M = normalized(weights_M, history.users_M, len(history.offsets_B1) - 1)
        return Jagged(history.items_M, history.offsets_B1, weights_M)

    def _of_attributes(self, attributes: Mapping[str, Jagged]) -> dict[str, Jagged]:
        known = {name: attributes[name] for name in self.fields}
        return attribute_fields(known, self.divisors)

    def _hidden(self, fields: Mapping[str, Jagged]) -> Tensor:
        tables = {HISTORY: self.item_weight} if self.tied else {}
        hidden_BD: Tensor = self.layers(self.sparse_input(fields, tables))
        return hidden_BD

    def _trained(self, arranged: Shown, hidden_BD: Tensor) -> Encoded:
        if self.repeat is None:
            return without_repeat(hidden_BD)
        assert arranged.history is not None
        by_item = transposed(arranged.asked[0].repeats)
        scores_M = self.repeat.trained(arranged.history, by_item)
        return with_repeat(hidden_BD, arranged.history, scores_M)


class ServingEncoder(nn.Module):
    """The encoder of an `Autoencoder` in plain aten operations, for TorchScript.

    Args:
        model: whose parameters it shares.
    """

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        tables = model.sparse_input.tables
        history = model.item_weight if model.tied else tables[HISTORY]
        self.num_items = model.num_items
        self.history_weighting, self.fade_days = model.history_weighting, model.fade_days
        self.pooling, self.normalize = model.pooling, model.normalize
        self.bags = Bags(history, tables, model.fields, model.divisors)
        self.layers, self.scale = model.layers, model.scale
        self.repeat = NoRepeat() if model.repeat is None else model.repeat
        self.has_repeat = model.repeat is not None

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """As `Autoencoder.encode` in evaluation; attributes in the order of the model's fields."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        if self.pooling == "mean":
            weights_M = mean_weights(weights_M, history.users_M, offsets_B1.shape[0] - 1)
        elif self.normalize:
            weights_M = normalized(weights_M, history.users_M, offsets_B1.shape[0] - 1)
        sum_BH = self.bags(history, weights_M, attribute_values, attribute_offsets)
        hidden_BD = self.layers(sum_BH) * self.scale
        if self.has_repeat:
            return with_repeat(hidden_BD, history, self.repeat(history))
        return without_repeat(hidden_BD)


def item_log_odds(popularity_V: Tensor, num_users: float) -> Tensor:
    """float32 [V]: log odds that a training user has the item, half a user added to each side."""
    having = popularity_V.double() + 0.5
    return torch.log(
        having / (float(num_users) - popularity_V.double() + 0.5).clamp(min=0.5)
    ).float()


def output_bias(
    num_items: int,
    popularity_V: Tensor | None,
    num_users: int,
    target_share: float,
    *,
    log_odds: bool,
) -> Tensor:
    """float32 [V]: where an output bias starts; the arguments are those of `Autoencoder`."""
    if popularity_V is None or not log_odds:
        return torch.zeros(num_items)
    return item_log_odds(popularity_V * min(target_share, 1.0), num_users)


def _check_tied(tied: bool, hidden_dims: Sequence[int]) -> None:
    if tied and hidden_dims[0] != hidden_dims[-1]:
        raise ValueError(
            f"tied makes one table of input and catalog, so the first and the last of hidden_dims "
            f"must be equal, got {list(hidden_dims)}"
        )


def _check_shares(input_dropout: float, dropout: float, reconstruction: float) -> None:
    check_share("input_dropout", input_dropout)
    check_share("dropout", dropout)
    if reconstruction < 0.0:
        raise ValueError(f"reconstruction must be 0 or more, got {reconstruction}")
    if reconstruction > 0.0 and input_dropout == 0.0:
        raise ValueError(
            "reconstruction finds the dropped items of a history, so input_dropout must be above "
            "0, got 0; or set reconstruction to 0"
        )
