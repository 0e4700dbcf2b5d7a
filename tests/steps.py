"""Steps to be watched: batches, and every model, loss and optimizer that trains in steps."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from deeprec.batch import Batch, Jagged
from deeprec.loss.asymmetric import Asymmetric
from deeprec.loss.contrastive_divergence import ContrastiveDivergence
from deeprec.loss.cosine import Cosine
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.loss.hinge import Hinge
from deeprec.loss.marginal import Marginal
from deeprec.loss.regression import Regression
from deeprec.loss.sampled_binary import SampledBinary
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.loss.squared import Squared
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.model.rbm import Rbm
from deeprec.model.recvae import RecVae
from deeprec.model.sequence_encoder import SequenceEncoder
from deeprec.model.two_tower import TwoTower
from deeprec.model.variational import Variational
from deeprec.trainer.brake import Brake
from deeprec.trainer.constraints import Constraints
from deeprec.trainer.learner import Progress
from deeprec.trainer.module import Training
from deeprec.trainer.momentum import AdaDelta, Momentum
from deeprec.trainer.optimizer import Adagrad, Adam, Optimizer, RmsProp, RowwiseAdagrad, Sgd

ITEMS, USERS, AGES = 300, 12, 5


def new_batch(step: int) -> Batch:
    draw = torch.Generator().manual_seed(step)
    rows = [torch.randint(ITEMS, (7,), generator=draw) for _ in range(USERS)]
    history = Jagged(torch.cat(rows), torch.arange(USERS + 1) * 7)
    wanted = [torch.randperm(ITEMS, generator=draw)[:5].sort().values for _ in range(USERS)]
    ages = torch.rand(len(history.values), generator=draw)
    known = Jagged(torch.randint(AGES, (USERS,), generator=draw), torch.arange(USERS + 1))
    target = Jagged(torch.cat(wanted), torch.arange(USERS + 1) * 5)
    return Batch(torch.arange(USERS), history, ages, {"age": known}, target)


def uneven_batch(step: int, *, weighted: bool = False) -> Batch:
    """Histories and targets of different lengths; everybody has some of each."""
    batch = new_batch(step)
    assert batch.target is not None
    kept = torch.ones(len(batch.target.values), dtype=torch.bool)
    kept[[3 + step, 17, 40 - step]] = False
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])[batch.target.offsets]
    values = batch.target.values[kept]
    weights = torch.rand(len(values), generator=torch.Generator().manual_seed(step))
    return replace(batch, target=Jagged(values, offsets, weights if weighted else None))


POPULARITY = torch.arange(ITEMS)
SAMPLED = {"negatives": 40, "popularity": POPULARITY, "block_items": 64}
LOSSES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "softmax": lambda _: Softmax(block_items=64),
    "marginal": lambda _: Marginal(block_items=64, zero_target=0.1),
    "hinge": lambda _: Hinge(block_items=64),
    "regression": lambda _: Regression(block_items=64),
    "asymmetric": lambda _: Asymmetric(block_items=64, zero_shift=0.05),
    "sampled_softmax": lambda _: SampledSoftmax(ITEMS, **SAMPLED),
    "hard negatives": lambda _: SampledSoftmax(ITEMS, pool=80, **SAMPLED),
    "own targets": lambda _: SampledSoftmax(ITEMS, shared_targets=False, **SAMPLED),
    "sampled_binary": lambda _: SampledBinary(ITEMS, **SAMPLED),
    "squared": lambda _: Squared(ITEMS, popularity=POPULARITY, popularity_power=0.5),
    "cosine": lambda model: Cosine(
        ITEMS,
        row_length=getattr(model, "row_length_V", None),
        exclude_self=isinstance(model, LinearAutoencoder),
    ),
}
autoencoder = partial(
    Autoencoder,
    ITEMS,
    fields={"age": AGES},
    popularity=POPULARITY,
    num_users=500,
    hidden_dims=[8, 6, 8],
    dropout=0.1,
    table_backend="torch",
)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": autoencoder,
    "repeats": partial(autoencoder, repeats=True),
    "tied": partial(autoencoder, tied=True, pooling="mean"),
    "variational": partial(
        Variational, ITEMS, fields={"age": AGES}, hidden_dims=[8], code_dim=4, table_backend="torch"
    ),
    "recvae": partial(
        RecVae,
        ITEMS,
        fields={"age": AGES},
        width=8,
        code_dim=4,
        encoder_steps=1,  # the step that is watched renews what was said before
        decoder_steps=1,
        table_backend="torch",
    ),
    "layered": partial(
        Layered,
        ITEMS,
        fields={"age": AGES},
        layers=[
            Hidden(name="a", units=6, sparseness=0.2, sparseness_weight=1.0, batch_norm=True),
            Hidden(name="b", units=6, sources=["a", "input"], skips=["a"], dropout=0.1),
        ],
        output_sources=["a", "b"],
        input_dropout=0.2,
        table_backend="torch",
    ),
    "sequence": partial(
        SequenceEncoder, ITEMS, popularity=POPULARITY, width=8, max_events=5, repeats=True
    ),
    "untied sequence": partial(SequenceEncoder, ITEMS, width=8, tied=False, asks="event"),
}
OPTIMIZERS: list[Optimizer] = [
    Adam(clip_norm=1.0, table_clip_norm=1.0, weight_decay=0.1, table_weight_decay=0.1),
    RowwiseAdagrad(),
    Adagrad(),
    RmsProp(),
    Sgd(),
    Momentum(nesterov=True),
    AdaDelta(),
]
LIMITLESS = [Adam(), *OPTIMIZERS[1:]]  # limits that would be without effect are refused
HELD = Sgd(
    constraints=Constraints(
        l1_decay=0.1,
        table_l1_decay=0.1,
        unit_norm=1.0,
        item_norm=1.0,
        unit_slope_norm=1.0,
        score_slope_norm=1.0,
    )
)
linear = partial(LinearAutoencoder, ITEMS, popularity=POPULARITY, width=8)
boltzmann = partial(Rbm, ITEMS, popularity=POPULARITY, num_users=500, hidden_units=8)
COSINES: dict[str, Callable[[], nn.Module]] = {
    "autoencoder": partial(autoencoder, repeats=True, reconstruction=0.0, unit_vectors=True),
    "mean": partial(TwoTower, ITEMS, fields={"age": AGES}, width=8),
    "attention": partial(TwoTower, ITEMS, fields={"age": AGES}, width=8, pooling="attention"),
    "tied": partial(TwoTower, ITEMS, width=8, tied=True),
}


def margins(_: nn.Module) -> nn.Module:
    return Softmax(block_items=64, zero_target=0.01, zero_scale=2.0)


def cosine_contrastive(_: nn.Module) -> nn.Module:
    return CosineContrastive(ITEMS, margin=0.1, block_items=64)


def contrast(model: nn.Module, steps: int = 2) -> nn.Module:
    hidden_bias = model.hidden_bias
    assert isinstance(hidden_bias, Tensor)
    return ContrastiveDivergence(hidden_bias=hidden_bias, steps=steps, block_items=64)


def training_of(
    model: nn.Module, loss: nn.Module, optimizer: Optimizer, brake: Brake | None = None
) -> Training:
    """Steps that need no Trainer around them."""
    training = Training(
        model,  # type: ignore[arg-type]
        loss,
        optimizer,
        seed=0,
        total_steps=10,
        progress=Progress(),
        brake=brake,
    )
    training.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    return training
