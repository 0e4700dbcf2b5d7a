"""A variational autoencoder: a user as a normal distribution over codes, decoded into the catalog.

Shapes as in deeprec/batch.py, and H, the width of the input tables; Z, floats of a code.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from deeprec.batch import Arranged, Batch, Encoded, Jagged, Penalty, Task
from deeprec.model.autoencoder import output_bias
from deeprec.model.history import FADE_DAYS, HistoryWeighting
from deeprec.model.layers import Activation, Decoder, Layers, check_layers
from deeprec.model.repeat import without_repeat
from deeprec.model.sparse_input import Backend
from deeprec.model.user_input import UserInput, asked_without_repeats

BETA_OF_ITEM, MOST_BETA = 0.0025, 0.3  # by default; found on histories of 3 to 140 items


class Variational(nn.Module):
    """Mult-VAE: a history becomes mean and variance of a code, and a code becomes hidden.

    In training a code is drawn from that distribution; judged and served is its mean. The loss is
    that of the catalog plus `beta` times the divergence of a user's distribution from the standard
    normal, in nats per user. After any loss of the catalog; `loss=softmax` is the paper's.

    Args:
        num_items: V, known from the data.
        fields: user attribute -> size of its vocabulary, known from the data.
        popularity: as of `Autoencoder`.
        log_odds: as of `Autoencoder`.
        num_users: training users, known from the data.
        target_share: items in a target over items in a history, known from the data.
        hidden_dims: units of each hidden layer between history and code; the first is the width of
            the input tables.
        code_dim: Z, floats of a code.
        decoder_dims: units of each hidden layer between code and catalog; the last is D, the width
            of the catalog table. Empty: none, the code itself is scored; None: `hidden_dims` from
            last to first, as the paper has it.
        activation: after every hidden layer.
        history_weighting: as of `Autoencoder`; `binary` is the paper's.
        fade_days: days after which an event counts 1/e in `decayed`.
        input_dropout: chance of dropping each distinct item of a history in training.
        beta: weight of the divergence once annealed; 0: none, and codes are drawn all the same.
            None: 0.0025 for each item that a training user has in the mean, and at most 0.3. The
            loss of a user is a sum over its items, so against that of short histories a fixed
            weight leaves nothing in a code.
        anneal_steps: over so many steps the weight rises evenly from 0 to `beta`; 0: it is `beta`
            from the first step on.
        init_std: standard deviation of the initial input rows.
        output_init_std: the same of the catalog table.
        quotient_remainder: as of `Autoencoder`.
        table_backend: what updates the input tables, see `SparseInput`.

    Raises:
        ValueError: a number is outside its range.

    Example:
        >>> model = Variational(3, hidden_dims=[4], code_dim=2).eval()
        >>> none = torch.zeros(0)
        >>> encoded = model.encode(torch.tensor([2, 0]), torch.tensor([0, 2, 2]), none, {})
        >>> encoded.hidden_BD.shape
        torch.Size([2, 2])

    Reference:
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018. Differs: by
        default no layers behind the code; an output bias that starts at the log odds of popularity,
        user attributes beside the history, and tables of which an update changes the rows that a
        batch touched.
    """

    reads_bags_alone = True

    def __init__(
        self,
        num_items: int,
        *,
        fields: Mapping[str, int] | None = None,
        popularity: Tensor | None = None,
        log_odds: bool = True,
        num_users: int = 0,
        target_share: float = 1.0,
        hidden_dims: Sequence[int] = (256,),
        code_dim: int = 256,
        decoder_dims: Sequence[int] | None = (),
        activation: Activation = "tanh",
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
        input_dropout: float = 0.5,
        beta: float | None = None,
        anneal_steps: int = 1000,
        init_std: float = 0.1,
        output_init_std: float = 0.01,
        quotient_remainder: Sequence[str] = (),
        table_backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_layers(hidden_dims, [activation])
        decoder_dims = [*reversed(hidden_dims)] if decoder_dims is None else decoder_dims
        _check(code_dim, decoder_dims, beta, anneal_steps)
        self.beta = _usual_beta(popularity, num_users) if beta is None else beta
        self.anneal_steps = anneal_steps
        self.alike_from = anneal_steps if self.beta else 0
        self.user_input = UserInput(
            num_items,
            hidden_dims[0],
            fields=fields,
            history_weighting=history_weighting,
            fade_days=fade_days,
            input_dropout=input_dropout,
            init_std=init_std,
            quotient_remainder=quotient_remainder,
            table_backend=table_backend,
        )
        self.layers = Layers(hidden_dims, activation, activation, 0.0, False)
        self.mean = nn.Linear(hidden_dims[-1], code_dim)
        self.log_variance = nn.Linear(hidden_dims[-1], code_dim)
        self.decoder = Decoder([code_dim, *decoder_dims], activation)
        width = [code_dim, *decoder_dims][-1]
        self.item_weight = nn.Parameter(torch.randn(num_items, width).mul_(output_init_std))
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
        return without_repeat(self.decoder(self.mean(self.layers(sum_BH))))

    def arrange(self, batch: Batch, draw: torch.Generator) -> Arranged:
        """Draws what is dropped of histories; see `Recommender.arrange`."""
        fields = self.user_input.dropped(self.user_input.of_batch(batch), draw)
        return Arranged(batch.num_users, fields, [asked_without_repeats(batch)])

    def tasks(self, arranged: Arranged) -> list[Task | Penalty]:
        """The target from a code that is drawn, and the divergence of what it is drawn from."""
        inner_BH = self.layers(self.user_input(arranged.fields))
        # float32 whatever the precision of products: a variance is an exponential
        mean_BZ, log_variance_BZ = self.mean(inner_BH).float(), self.log_variance(inner_BH).float()
        hidden_BD = self.decoder(drawn(mean_BZ, log_variance_BZ))
        encoded = without_repeat(hidden_BD)
        [asked] = arranged.asked
        return [
            Task(1.0, encoded, self.item_weight, self.item_bias, asked),
            Penalty(self.beta_at(arranged.step), divergence(mean_BZ, log_variance_BZ)),
        ]

    def beta_at(self, step: int) -> float:
        """The weight of the divergence in a step of the run, counted from 0."""
        if step >= self.anneal_steps:
            return self.beta
        return self.beta * step / self.anneal_steps

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, sharing the parameters of this model."""
        return ServingEncoder(self.user_input, self.layers, self.mean, self.decoder)


class ServingEncoder(nn.Module):
    """The encoder of a variational model in plain aten operations, for TorchScript.

    Args:
        user_input: whose tables it shares.
        layers: [B, H] -> what the mean is made of.
        mean: that -> [B, Z].
        decoder: [B, Z] -> [B, D].
    """

    def __init__(
        self, user_input: UserInput, layers: nn.Module, mean: nn.Module, decoder: nn.Module
    ) -> None:
        super().__init__()
        self.user_input = user_input.served()
        self.layers, self.mean, self.decoder = layers, mean, decoder

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """As `encode` of the model; attributes in the order of the model's fields."""
        sum_BH = self.user_input(items_N, offsets_B1, ages_N, attribute_values, attribute_offsets)
        return without_repeat(self.decoder(self.mean(self.layers(sum_BH))))


def drawn(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """float32 [B, Z]: a code of each user, from torch's own generator of the device."""
    return mean_BZ + torch.randn_like(mean_BZ) * (0.5 * log_variance_BZ).exp()


def divergence(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """float32 []: mean over users of the Kullback-Leibler divergence from the standard normal.

    Example:
        >>> divergence(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor(0.5000)
    """
    excess_BZ = mean_BZ.square() + log_variance_BZ.exp() - log_variance_BZ - 1.0
    return 0.5 * excess_BZ.sum(1).mean()


def _usual_beta(popularity_V: Tensor | None, num_users: int) -> float:
    if popularity_V is None or num_users == 0:
        return MOST_BETA
    return min(BETA_OF_ITEM * float(popularity_V.sum()) / num_users, MOST_BETA)


def _check(
    code_dim: int, decoder_dims: Sequence[int], beta: float | None, anneal_steps: int
) -> None:
    if code_dim < 1:
        raise ValueError(f"code_dim must be 1 or more, got {code_dim}")
    if any(width < 1 for width in decoder_dims):
        raise ValueError(f"decoder_dims must be positive numbers, got {list(decoder_dims)}")
    if beta is not None and not beta >= 0.0:
        raise ValueError(f"beta must be 0 or more, got {beta}")
    if anneal_steps < 0:
        raise ValueError(f"anneal_steps must be 0 or more, got {anneal_steps}")
