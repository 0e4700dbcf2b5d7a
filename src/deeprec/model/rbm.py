"""A restricted Boltzmann machine: items are visible units, and hidden units say what goes together.

    p(hidden d | history)  = sigmoid(hidden_bias_d + sum over items of the history item_weight_id)
    p(item i | hidden)     = sigmoid(item_bias_i + sum over hidden units item_weight_id hidden_d)

One table on both sides. An item is scored by what the chances of the hidden units, in the place of
the units, say of it.
"""

import torch
from torch import Tensor, nn

from deeprec.batch import Arranged, Asked, Batch, Encoded, Jagged, Task, with_transposition
from deeprec.model.autoencoder import item_log_odds
from deeprec.model.history import aggregate
from deeprec.model.repeat import without_repeat
from deeprec.model.sparse_input import HISTORY, SparseInput, weighted_sum


class Rbm(nn.Module):
    """A user as the chances of binary hidden units, scored against every item of the catalog.

    It learns of the history that it is shown, whatever the config part `target` asks for, and is
    made for `loss=contrastive_divergence` (`experiment=rbm`). With another loss it is a tied
    autoencoder of one sigmoid layer.

    Args:
        num_items: V, known from the data.
        popularity: int64 [V], training users that had each item, known from the data. The bias of a
            visible unit starts at the log odds of being on; None: at 0.
        num_users: training users, known from the data.
        hidden_units: D, the width of the catalog table.
        init_std: standard deviation of its initial rows.

    Raises:
        ValueError: hidden_units is below 1.

    Example:
        >>> model = Rbm(3, hidden_units=2).eval()
        >>> _ = model.item_weight.data.copy_(torch.tensor([[1.0, 0.0], [9.0, 9.0], [-1.0, 0.0]]))
        >>> history = torch.tensor([2, 0, 2]), torch.tensor([0, 3])
        >>> model.encode(*history, torch.zeros(0), {}).hidden_BD.tolist()
        [[0.5, 0.5]]

    Reference:
        Salakhutdinov, Mnih and Hinton, Restricted Boltzmann Machines for Collaborative Filtering,
        ICML 2007, equation 10 for the scores. Differs: a visible unit says whether a user had an
        item, and every item of the catalog has one; there it is one of five ratings, and units of
        movies that a user did not rate are left out.
    """

    learns_shown = True  # to rebuild it, whatever the target asks for

    def __init__(
        self,
        num_items: int,
        *,
        popularity: Tensor | None = None,
        num_users: int = 0,
        hidden_units: int = 128,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        if hidden_units < 1:
            raise ValueError(f"hidden_units must be 1 or more, got {hidden_units}")
        self.num_items = num_items
        self.sparse_input = SparseInput({}, hidden_units, borrowed=[HISTORY])
        self.item_weight = nn.Parameter(torch.randn(num_items, hidden_units).mul_(init_std))
        self.item_bias = nn.Parameter(
            torch.zeros(num_items) if popularity is None else item_log_odds(popularity, num_users)
        )
        self.hidden_bias = nn.Parameter(torch.zeros(hidden_units))

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: dict[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the model says of each user; see `Recommender.encode`. Attributes are not used."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items)
        return self._encoded(Jagged(history.items_M, history.offsets_B1))

    def arrange(self, batch: Batch, draw: torch.Generator) -> Arranged:
        """The distinct items of histories; see `Recommender.arrange`. Nothing is drawn."""
        items = batch.history
        history = aggregate(items.values, items.offsets, torch.zeros(0), self.num_items)
        had = with_transposition(Jagged(history.items_M, history.offsets_B1))
        none = Jagged(history.items_M[:0], torch.zeros_like(history.offsets_B1))
        return Arranged(batch.num_users, {HISTORY: had}, [Asked(had, with_transposition(none))])

    def tasks(self, arranged: Arranged) -> list[Task]:
        """The history from itself."""
        encoded = self._encoded(arranged.fields[HISTORY])
        return [Task(1.0, encoded, self.item_weight, self.item_bias, arranged.asked[0])]

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, sharing the parameters of this model."""
        return ServingEncoder(self)

    def _encoded(self, had: Jagged) -> Encoded:
        sums_BD = self.sparse_input({HISTORY: had}, {HISTORY: self.item_weight})
        return without_repeat(torch.sigmoid(sums_BD + self.hidden_bias))


class ServingEncoder(nn.Module):
    """The encoder of an `Rbm` in plain aten operations, for TorchScript.

    Args:
        model: whose parameters it shares.
    """

    def __init__(self, model: Rbm) -> None:
        super().__init__()
        self.num_items = model.num_items
        self.item_weight, self.hidden_bias = model.item_weight, model.hidden_bias

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """As `Rbm.encode`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items)
        sums_BD = weighted_sum(self.item_weight, history.items_M, history.offsets_B1, None)
        return without_repeat(torch.sigmoid(sums_BD + self.hidden_bias))
