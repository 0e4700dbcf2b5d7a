"""Whether a loss can train a model, asked before the first step."""

from collections.abc import Iterator

from torch import nn

from deeprec.errors import ConfigError
from deeprec.loss.cosine import Cosine
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.loss.kept_gram import KeptGram
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.trainer.module import Loss


def refuse_misfit(model: nn.Module, loss: Loss) -> None:
    """Raises ConfigError with every reason why this loss cannot train this model."""
    mistakes = [f"\n  - {mistake}" for mistake in _mistakes(model, loss)]
    if mistakes:
        raise ConfigError(f"this run cannot start:{''.join(mistakes)}")


def _mistakes(model: nn.Module, loss: Loss) -> Iterator[str]:
    if isinstance(loss, CosineContrastive) and not loss.fits:
        yield (
            "loss: cosine_contrastive needs a model whose scores are cosines; use "
            "model=autoencoder model.unit_vectors=true"
        )
    if isinstance(loss, Cosine) and loss.exclude_self and not isinstance(model, LinearAutoencoder):
        yield (
            "loss.exclude_self: takes out what an item of a history adds to its own score, which "
            "only model=linear_autoencoder says; set it to false, or use experiment=linear"
        )
    gram = getattr(loss, "gram", None)
    num_items = len(model.item_bias)  # type: ignore[arg-type]  # of a Recommender
    if isinstance(gram, KeptGram) and gram.draws.count >= num_items:
        yield (
            f"loss.gram_items: {gram.draws.count:,} of a catalog of {num_items:,} items; an "
            "estimate takes fewer than there are, null is exact"
        )
