"""RecVAE: a variational autoencoder that is held to what it said before, and trained by turns.

Shapes as in deeprec/batch.py, and H, the width of the input tables; Z, floats of a code.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deeprec.batch import Arranged, Batch, Encoded, Jagged, Penalty, Task
from deeprec.model.autoencoder import output_bias
from deeprec.model.history import FADE_DAYS, HistoryWeighting
from deeprec.model.repeat import without_repeat
from deeprec.model.sparse_input import HISTORY, Backend, weighted_bag
from deeprec.model.user_input import UserInput, asked_without_repeats
from deeprec.model.variational import ServingEncoder, drawn

WIDE_LOG_VARIANCE = 10.0
NORM_EPSILON = 0.1  # of layer norms, as in the authors' code


@dataclass
class Shown(Arranged):
    """What a `RecVae` reads of a batch in a step."""

    whole: dict[str, Jagged]  # `fields` without anything dropped


class RecVae(nn.Module):
    """Mult-VAE with a composite prior, a weight of the divergence by user, and turns.

    For `encoder_steps` steps the encoder alone is trained, on histories with items dropped; then
    for `decoder_steps` the catalog table alone, on codes of whole histories. The code itself is
    scored: there are no layers behind it.

    The prior of a user's code is, number by number, a mixture of the standard normal, of what the
    encoder said of this user before its last turn, and of a wide normal. The divergence from
    it is estimated with the code that was drawn, and weighs `gamma` times the number of items of
    the user's history.

    What the encoder said before is kept as a copy of it, input tables included, which is made anew
    at the end of each of its turns. That takes as much memory as the tables, and time in the size
    of the catalog: of 256 floats an item, 0.9 ms at 10,000 items and 17 at 200,000 (one CPU core),
    in every fourth step as it ships. More `encoder_steps` and `decoder_steps` make it rarer.

    Args:
        num_items: V, known from the data.
        fields: user attribute -> size of its vocabulary, known from the data.
        popularity: as of `Autoencoder`.
        log_odds: as of `Autoencoder`.
        num_users: training users, known from the data.
        target_share: items in a target over items in a history, known from the data.
        width: H, units of each layer of the encoder.
        num_layers: of the encoder; each is shown what all before it said, and is normalised.
        code_dim: Z, floats of a code, and the width of the catalog table.
        history_weighting: as of `Autoencoder`; `binary` is the paper's.
        fade_days: days after which an event counts 1/e in `decayed`.
        input_dropout: chance of dropping each distinct item of a history in a turn of the encoder.
        gamma: weight of the divergence for each item of a user's history.
        prior_weights: of the standard normal, of what was said before and of the wide normal.
        encoder_steps: steps of a turn of the encoder.
        decoder_steps: steps of a turn of the catalog table.
        init_std: standard deviation of the initial input rows.
        output_init_std: the same of the catalog table.
        quotient_remainder: as of `Autoencoder`.
        table_backend: what updates the input tables, see `SparseInput`.

    Raises:
        ValueError: a number is outside its range.

    Example:
        >>> model = RecVae(3, width=4, code_dim=2).eval()
        >>> none = torch.zeros(0)
        >>> encoded = model.encode(torch.tensor([2, 0]), torch.tensor([0, 2, 2]), none, {})
        >>> encoded.hidden_BD.shape
        torch.Size([2, 2])

    Reference:
        Shenbin et al., RecVAE: a New Variational Autoencoder for Top-N Recommendations with
        Implicit Feedback, WSDM 2020, and the authors' code. Differs: turns are counted in steps and
        not in passes over the users, an output bias that starts at the log odds of popularity, user
        attributes beside the history, and tables of which an update changes the rows that a batch
        touched; Adam's correction of their first steps counts the steps of both turns.
    """

    def __init__(
        self,
        num_items: int,
        *,
        fields: Mapping[str, int] | None = None,
        popularity: Tensor | None = None,
        log_odds: bool = True,
        num_users: int = 0,
        target_share: float = 1.0,
        width: int = 256,
        num_layers: int = 5,
        code_dim: int = 128,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
        input_dropout: float = 0.5,
        gamma: float = 0.0025,
        prior_weights: Sequence[float] = (0.15, 0.75, 0.1),
        encoder_steps: int = 3,
        decoder_steps: int = 1,
        init_std: float = 0.1,
        output_init_std: float = 0.01,
        quotient_remainder: Sequence[str] = (),
        table_backend: Backend = "auto",
    ) -> None:
        super().__init__()
        _check_counts(width, num_layers, code_dim, encoder_steps, decoder_steps)
        _check_prior(gamma, prior_weights)
        self.gamma, self.log_prior_weights = gamma, [math.log(each) for each in prior_weights]
        self.encoder_steps, self.decoder_steps = encoder_steps, decoder_steps
        self.user_input = UserInput(
            num_items,
            width,
            fields=fields,
            history_weighting=history_weighting,
            fade_days=fade_days,
            input_dropout=input_dropout,
            init_std=init_std,
            quotient_remainder=quotient_remainder,
            table_backend=table_backend,
        )
        self.posterior = Posterior(width, num_layers, code_dim)
        self.before = Before(self.user_input.sparse_input.tables, self.posterior)
        self.item_weight = nn.Parameter(torch.randn(num_items, code_dim).mul_(output_init_std))
        self.item_bias = nn.Parameter(
            output_bias(num_items, popularity, num_users, target_share, log_odds=log_odds)
        )

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: Mapping[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the model says of each user; see `Recommender.encode`."""
        known = {name: Jagged(*rows) for name, rows in attributes.items()}
        sum_BH = self.user_input(self.user_input.whole(items_N, offsets_B1, ages_N, known))
        return without_repeat(self.posterior.mean(self.posterior.layers(sum_BH)))

    def arrange(self, batch: Batch, draw: torch.Generator) -> Shown:
        """Draws what is dropped of histories; see `Recommender.arrange`."""
        whole = self.user_input.of_batch(batch)
        fields = self.user_input.dropped(whole, draw)
        return Shown(batch.num_users, fields, [asked_without_repeats(batch)], whole)

    def begin_step(self, step: int) -> None:
        """Remembers the encoder where a turn of it has ended; see `Trainable`."""
        if self._turn(step) == self.encoder_steps:
            self.before.renew(self.user_input.sparse_input.tables, self.posterior)

    def tasks(self, arranged: Shown) -> list[Task | Penalty]:
        """The target from a code that is drawn, for whoever's turn it is."""
        if self._turn(arranged.step) < self.encoder_steps:
            return self._encoder_tasks(arranged)
        return self._decoder_tasks(arranged)

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, sharing the parameters of this model."""
        posterior = self.posterior
        return ServingEncoder(self.user_input, posterior.layers, posterior.mean, nn.Identity())

    def _turn(self, step: int) -> int:
        return step % (self.encoder_steps + self.decoder_steps)

    def _encoder_tasks(self, arranged: Shown) -> list[Task | Penalty]:
        mean_BZ, log_variance_BZ = self.posterior(self.user_input(arranged.fields))
        code_BZ = drawn(mean_BZ, log_variance_BZ)
        excess_B = log_density(code_BZ, mean_BZ, log_variance_BZ).sum(1)
        excess_B = excess_B - self._log_prior(code_BZ, arranged.whole).sum(1)
        weight_B = self.gamma * arranged.whole[HISTORY].offsets.diff()
        table, bias = self.item_weight.detach(), self.item_bias.detach()
        return [
            Task(1.0, without_repeat(code_BZ), table, bias, arranged.asked[0]),
            Penalty(1.0, (weight_B * excess_B).mean()),
        ]

    def _decoder_tasks(self, arranged: Shown) -> list[Task | Penalty]:
        with torch.no_grad():
            code_BZ = drawn(*self.posterior(self.user_input(arranged.whole)))
        encoded = without_repeat(code_BZ)
        return [Task(1.0, encoded, self.item_weight, self.item_bias, arranged.asked[0])]

    def _log_prior(self, code_BZ: Tensor, whole: Mapping[str, Jagged]) -> Tensor:
        """float32 [B, Z]: the logarithm of the mixture's density at each number of a code."""
        zero = torch.zeros_like(code_BZ)
        parts = (zero, zero), self.before(whole), (zero, zero + WIDE_LOG_VARIANCE)
        densities = [
            log_density(code_BZ, *part) + log_weight
            for part, log_weight in zip(parts, self.log_prior_weights)
        ]
        return torch.stack(densities).logsumexp(0)


class DenselyConnected(nn.Module):
    """Layers that each read what all before them said; the first are the input tables but for bias.

    A layer is the swish of its product and of what is read, normalised.
    """

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))
        self.first = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.linears = nn.ModuleList([nn.Linear(width, width) for _ in range(num_layers - 1)])
        self.norms = nn.ModuleList(
            [nn.LayerNorm(width, eps=NORM_EPSILON) for _ in range(num_layers - 1)]
        )

    def forward(self, sum_BH: Tensor) -> Tensor:
        said_BH: Tensor = self.first(nn.functional.silu(sum_BH + self.bias))
        read_BH = said_BH
        for linear, norm in zip(self.linears, self.norms):
            said_BH = norm(nn.functional.silu(linear(said_BH) + read_BH))
            read_BH = read_BH + said_BH
        return said_BH


class Posterior(nn.Module):
    """Summed embeddings -> mean and logarithm of the variance of a code, float32 [B, Z] each."""

    def __init__(self, width: int, num_layers: int, code_dim: int) -> None:
        super().__init__()
        self.layers = DenselyConnected(width, num_layers)
        self.mean = nn.Linear(width, code_dim)
        self.log_variance = nn.Linear(width, code_dim)

    def forward(self, sum_BH: Tensor) -> tuple[Tensor, Tensor]:
        inner_BH = self.layers(sum_BH)
        # float32 whatever the precision of products: a variance is an exponential
        return self.mean(inner_BH).float(), self.log_variance(inner_BH).float()


class Before(nn.Module):
    """The encoder as it was before its last turn: copies, in checkpoints and not in bundles.

    Args:
        tables: input tables, by sparse field.
        posterior: what is made of their sum.
    """

    def __init__(self, tables: nn.ParameterDict, posterior: Posterior) -> None:
        super().__init__()
        self.tables = nn.ParameterDict({name: table.clone() for name, table in tables.items()})
        self.posterior = copy.deepcopy(posterior)
        self.requires_grad_(False)

    @torch.no_grad()
    def renew(self, tables: nn.ParameterDict, posterior: Posterior) -> None:
        """Takes over what the encoder is now.

        Of the tables that is every row: constraints and other processes change more of them than a
        batch of this one touches, and a run that goes on within a turn does not know which.
        """
        for name, table in tables.items():
            self.tables[name].copy_(table)
        for copied, parameter in zip(self.posterior.parameters(), posterior.parameters()):
            copied.copy_(parameter)

    @torch.no_grad()
    def forward(self, fields: Mapping[str, Jagged]) -> tuple[Tensor, Tensor]:
        """As `Posterior`, from sparse fields."""
        bags = [weighted_bag(table, fields[name]) for name, table in self.tables.items()]
        found: tuple[Tensor, Tensor] = self.posterior(torch.stack(bags).sum(0))
        return found


def log_density(code_BZ: Tensor, mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """float32 [B, Z]: of normal distributions, each number by itself.

    Example:
        >>> log_density(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1))
        tensor([[-1.4189]])
    """
    square_BZ = (code_BZ - mean_BZ).square() * (-log_variance_BZ).exp()
    return -0.5 * (math.log(2.0 * math.pi) + log_variance_BZ + square_BZ)


def _check_counts(
    width: int, num_layers: int, code_dim: int, encoder_steps: int, decoder_steps: int
) -> None:
    for name, count in (
        ("width", width),
        ("num_layers", num_layers),
        ("code_dim", code_dim),
        ("encoder_steps", encoder_steps),
        ("decoder_steps", decoder_steps),
    ):
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}")


def _check_prior(gamma: float, weights: Sequence[float]) -> None:
    if not gamma >= 0.0:
        raise ValueError(f"gamma must be 0 or more, got {gamma}")
    if len(weights) != 3 or min(weights) <= 0.0 or not math.isclose(sum(weights), 1.0):
        raise ValueError(
            f"prior_weights must be three numbers above 0 that sum to 1, got {list(weights)}"
        )
