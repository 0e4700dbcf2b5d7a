"""A user as what its last events say in their order: a causal transformer over the history.

Every position of a history is trained to score the event after it above the rest of the catalog;
to a loss a position is a user with a target of one item, so that every catalog loss serves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
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
    transposed,
    with_transposition,
)
from deeprec.model.autoencoder import item_log_odds
from deeprec.model.base import PerUser
from deeprec.model.history import History, aggregate
from deeprec.model.next_items import NextItems, seen_by, what_comes_next
from deeprec.model.repeat import NoRepeat, RepeatScores, with_repeat, without_repeat
from deeprec.model.sparse_input import HISTORY, Backend, SparseInput
from deeprec.model.transformer import Transformer
from deeprec.model.window import NUM_GAPS, Windows, gaps_to_next, newest

Asks = Literal["event", "instant"]
ASKS = get_args(Asks)
PAIR_FLOATS = 48  # kept for the backward of the score of an item that a position has seen


@dataclass
class Sequences(Arranged):
    """What a `SequenceEncoder` reads of a batch in a step; its users are positions."""

    windows: Windows  # of all events but those that nothing comes after
    gaps_W: Tensor  # int64 [W]
    asked_P: Tensor  # int64 [P], positions that are asked: 1 + event of the windows, 0 for nobody
    seen: History | None  # what each of them has seen, for the repeat scores


class SequenceEncoder(nn.Module):
    """A history read in its order, scored against every item of the catalog.

    It learns what comes next after each event of the histories that it is shown, whatever the
    config part `target` asks for; `target=reconstruct` shows it all of them. Where items are not
    taken again, an item is only asked for where its user has it for the first time.

    Args:
        num_items: V, known from the data.
        popularity: int64 [V], training users that had each item, known from the data. The output
            bias starts at the log odds of an item being the next one; None: at 0.
        log_odds: whether the loss reads scores as log odds, known from the loss; else the bias
            starts at 0.
        repeats: whether a target may be an item that was had before, known from the data.
        width: D, floats of an item's row and of everything between.
        max_events: the newest events of a history that are read.
        asks: what a position is asked for: the `event` after it, or all items of the next
            `instant`. Events of one instant have no order, so only the last of them is asked then.
            Where times are unknown, every event has an instant of its own.
        num_layers: blocks of attention and layers.
        num_heads: of the attention; `width` is a multiple of it.
        dropout: chance of dropping each number that enters the blocks or that a block adds, in
            training.
        tied: one table for the events of a history and for the catalog.
        time_gaps: whether it is told how long after an event the next one comes, or the moment of
            prediction, in classes from a minute to two years; without effect where times are
            unknown.
        repeat_scores: give items of the window a score for how often and how long ago they were
            had, where `repeats`. It stands in place of the product, so that order tells only of
            other items: right where people buy by habit, wrong where what comes next of a few items
            follows from the last ones.
        init_std: standard deviation of the initial rows of items.
        table_backend: what updates an input table that is not tied, see `SparseInput`.

    Raises:
        ValueError: a setting lies outside its range, or `width` is no multiple of `num_heads`.

    Example:
        >>> model = SequenceEncoder(3, width=4, num_heads=2).eval()
        >>> history = torch.tensor([2, 0]), torch.tensor([0, 2, 2])
        >>> model.encode(*history, torch.zeros(0), {}).hidden_BD.shape
        torch.Size([2, 4])

    Reference:
        Kang and McAuley, Self-Attentive Sequential Recommendation (SASRec), ICDM 2018. Differs:
        the loss is chosen apart (that of gSASRec is `loss=sampled_binary loss.calibration=0.75
        loss.popularity_power=0`); positions are biases of the attention and not rows that are
        added; norms come first; time gaps; an output bias.
    """

    learns_next = True  # what comes after each event, whatever the target asks for
    note = (
        "the sequence encoder learns each next event of a history; of target= it uses the "
        "histories alone"
    )

    def __init__(
        self,
        num_items: int,
        *,
        popularity: Tensor | None = None,
        log_odds: bool = True,
        repeats: bool = False,
        width: int = 64,
        max_events: int = 100,
        asks: Asks = "instant",
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.2,
        tied: bool = True,
        time_gaps: bool = True,
        repeat_scores: bool = True,
        init_std: float = 0.1,
        table_backend: Backend = "auto",
    ) -> None:
        super().__init__()
        _check(width, max_events, num_layers, num_heads, dropout, asks)
        self.num_items, self.repeats, self.max_events = num_items, repeats, max_events
        self.asks, self.tied = asks, tied
        self.sparse_input = SparseInput(
            {} if tied else {HISTORY: num_items},
            width,
            borrowed=[HISTORY] if tied else [],
            backend=table_backend,
            init_std=init_std,
        )
        self.network = _Network(
            width, max_events, num_layers, num_heads, dropout, time_gaps=time_gaps
        )
        self.item_weight = nn.Parameter(torch.randn(num_items, width).mul_(init_std))
        log_odds_V = None
        if popularity is not None:
            log_odds_V = item_log_odds(popularity, float(popularity.sum()))
        begin_V = log_odds_V if log_odds and log_odds_V is not None else torch.zeros(num_items)
        self.item_bias = nn.Parameter(begin_V)
        self.repeat = RepeatScores(num_items, log_odds_V) if repeats and repeat_scores else None

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: Mapping[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the model says of each user; see `Recommender.encode`. Attributes are not used."""
        starts_B, ends_B = offsets_B1[:-1], offsets_B1[1:]
        windows = newest(starts_B, ends_B, self.max_events)
        rows_WD = self._rows(_one_each(items_N[windows.events_W]))
        said = self.network(rows_WD, gaps_to_next(windows, ages_N, ends_B), windows)
        hidden_BD = said[last_positions(windows)]
        if self.repeat is None:
            return without_repeat(hidden_BD)
        history = of_windows(windows, items_N, ages_N, self.num_items)
        return with_repeat(hidden_BD, history, self.repeat(history))

    def arrange(self, batch: Batch, draw: torch.Generator) -> Sequences:
        """Finds the windows and what is asked of each position; see `Recommender.arrange`."""
        ages_N = batch.known_ages
        when_N = ages_N if batch.times is None else batch.times
        next_items = what_comes_next(
            batch.history,
            when_N if self.asks == "instant" else when_N[:0],
            max_events=self.max_events,
            repeats=self.repeats,
            num_items=self.num_items,
        )
        windows, items_N = next_items.windows, batch.history.values
        seen = None if self.repeat is None else self._seen(next_items, items_N, ages_N)
        repeats = Jagged(items_N[:0], torch.zeros_like(next_items.target.offsets))
        if seen is not None:
            repeats = Jagged(seen.items_M, seen.offsets_B1)
        return Sequences(
            num_users=len(next_items.asked_P),
            fields={HISTORY: with_transposition(_one_each(items_N[windows.events_W]))},
            asked=[Asked(with_transposition(next_items.target), with_transposition(repeats))],
            windows=windows,
            gaps_W=gaps_to_next(windows, ages_N, batch.history.offsets[1:]),
            asked_P=next_items.asked_P,
            seen=seen,
        )

    def tasks(self, arranged: Sequences) -> list[Task]:
        """The event after each position."""
        rows_WD = self._rows(arranged.fields[HISTORY])
        said = self.network(rows_WD, arranged.gaps_W, arranged.windows)
        hidden_PD, seen = said.index_select(0, arranged.asked_P), arranged.seen
        [asked] = arranged.asked
        encoded = without_repeat(hidden_PD)
        if self.repeat is not None and seen is not None:
            scores_M = self.repeat.trained(seen, transposed(asked.repeats))
            encoded = with_repeat(hidden_PD, seen, scores_M)
        return [Task(1.0, encoded, self.item_weight, self.item_bias, asked)]

    def per_user(self, lengths: npt.NDArray[np.int64]) -> PerUser:
        """What a step of users with so many events takes at most: every event an instant."""
        events = float(lengths.clip(max=self.max_events).mean())
        longest = int(lengths.max().clip(max=self.max_events))
        floats = self.network.transformer.kept_floats(events, longest)
        pairs = 0.0 if self.repeat is None else events**2 / 2
        return PerUser(1.0 + events, floats + PAIR_FLOATS * pairs)

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, sharing the parameters of this model."""
        return ServingEncoder(self)

    def _seen(self, next_items: NextItems, items_N: Tensor, ages_N: Tensor) -> History:
        """What each position has seen, gathered by item."""
        seen = seen_by(next_items.asked_P, next_items.windows, ages_N)
        return aggregate(items_N[seen.events], seen.offsets_P1, seen.ages, self.num_items)

    def _rows(self, items: Jagged) -> Tensor:
        tables = {HISTORY: self.item_weight} if self.tied else {}
        rows_WD: Tensor = self.sparse_input({HISTORY: items}, tables)
        return rows_WD


class ServingEncoder(nn.Module):
    """The encoder of a `SequenceEncoder` in plain aten operations, for TorchScript.

    Args:
        model: whose parameters it shares.
    """

    def __init__(self, model: SequenceEncoder) -> None:
        super().__init__()
        self.table = model.item_weight if model.tied else model.sparse_input.tables[HISTORY]
        self.network, self.max_events = model.network, model.max_events
        self.num_items = model.num_items
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
        """As `SequenceEncoder.encode` in evaluation."""
        windows = newest(offsets_B1[:-1], offsets_B1[1:], self.max_events)
        gaps_W = gaps_to_next(windows, ages_N, offsets_B1[1:])
        rows_WD = F.embedding(items_N[windows.events_W], self.table)
        hidden_BD = self.network(rows_WD, gaps_W, windows)[last_positions(windows)]
        if self.has_repeat:
            history = of_windows(windows, items_N, ages_N, self.num_items)
            return with_repeat(hidden_BD, history, self.repeat(history))
        return without_repeat(hidden_BD)


class _Network(nn.Module):
    """From the rows of events to what is said after each of them, and of nobody."""

    def __init__(
        self,
        width: int,
        max_events: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        *,
        time_gaps: bool,
    ) -> None:
        super().__init__()
        self.scale, self.time_gaps = width**0.5, time_gaps
        self.nobody = nn.Parameter(torch.zeros(1, width))  # said where there is no history
        self.gap_rows = nn.Parameter(torch.zeros(NUM_GAPS, width))
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(
            width,
            max_events=max_events,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
        )

    def forward(self, rows_WD: Tensor, gaps_W: Tensor, windows: Windows) -> Tensor:
        """float32 [1 + W, D]: what is said of nobody, and after each event."""
        rows_WD = rows_WD * self.scale
        if self.time_gaps:
            rows_WD = rows_WD + self.gap_rows.index_select(0, gaps_W)
        return torch.cat([self.nobody, self.transformer(self.dropout(rows_WD), windows)])


def of_windows(windows: Windows, items_N: Tensor, ages_N: Tensor, num_items: int) -> History:
    """The events of the windows, gathered by item."""
    events_W = windows.events_W
    ages_W = ages_N[events_W] if ages_N.shape[0] > 0 else ages_N
    return aggregate(items_N[events_W], windows.offsets_B1, ages_W, num_items)


def last_positions(windows: Windows) -> Tensor:
    """int64 [B]: where in what a network says stands each user's last event; 0: it has none."""
    ends_B = windows.offsets_B1[1:]
    return ends_B.masked_fill(windows.offsets_B1.diff() == 0, 0)


def _one_each(items_W: Tensor) -> Jagged:
    """Rows of one item each."""
    return Jagged(items_W, torch.arange(len(items_W) + 1, device=items_W.device))


def _check(
    width: int, max_events: int, num_layers: int, num_heads: int, dropout: float, asks: str
) -> None:
    for name, value in (
        ("width", width),
        ("max_events", max_events),
        ("num_layers", num_layers),
        ("num_heads", num_heads),
    ):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if width % num_heads:
        raise ValueError(f"width must be a multiple of num_heads={num_heads}, got {width}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    if asks not in ASKS:
        raise ValueError(f"asks must be 'event' or 'instant', got {asks!r}")
