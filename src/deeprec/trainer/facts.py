"""What a model and a loss are built with besides their config, and how they are built with it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeprec.data.dataset import Batches
from deeprec.data.store import Prepared
from deeprec.loss.auto import Auto
from deeprec.part import find, instantiate_with
from deeprec.trainer import checkpoint
from deeprec.trainer.checkpoint import Checkpoint
from deeprec.trainer.module import Loss


@dataclass(frozen=True)
class Facts:
    """What a model is built with besides its config."""

    num_items: int
    num_users: int  # trained on
    fields: dict[str, int]  # user attribute -> size of its vocabulary
    target_share: float  # items in a target over items in a history
    repeats: bool  # whether a target may hold items of the history that is shown


def facts_of(prepared: Prepared, training: Batches, learns_next: bool) -> Facts:
    """Of the model of a run on these batches.

    Args:
        learns_next: whether it learns what comes next in the histories that it is shown.
    """
    return Facts(
        num_items=prepared.num_items,
        num_users=len(training.users),
        fields={name: len(prepared.vocabulary(name)) for name in prepared.vocabularies},
        target_share=_target_share(prepared, training),
        repeats=prepared.repeats and (learns_next or not training.target.shows_target),
    )


def _target_share(prepared: Prepared, training: Batches) -> float:
    """Items in a target over distinct items of a user, from the first step; 1 if it has none."""
    batches = [training.batch(0, 0, rank) for rank in range(training.world)]
    num_users = sum(batch.num_users for batch in batches)
    num_items = sum(len(batch.target.values) for batch in batches if batch.target is not None)
    owned = prepared.popularity.sum() / len(training.users)
    return float(num_items / num_users / owned) if num_users else 1.0


def build_model(
    part: Mapping[str, Any],
    facts: Facts,
    popularity: Tensor | None,
    *,
    log_odds: bool = True,
    compatibility: str = "none",
) -> torch.nn.Module:
    """The model of a config, new, told what it asks for of the data, the loss and the run."""
    model = instantiate_with(
        part,
        num_items=facts.num_items,
        num_users=facts.num_users,
        fields=facts.fields,
        target_share=facts.target_share,
        repeats=facts.repeats,
        popularity=popularity,
        log_odds=log_odds,
        compatibility=compatibility,
    )
    assert isinstance(model, torch.nn.Module)
    return model


def build_loss(
    part: Mapping[str, Any],
    facts: Facts,
    popularity: Tensor | None,
    *,
    width: int,
    batch_users: int,
    device: str,
    row_length: Tensor | None = None,
    hidden_bias: Tensor | None = None,
    linear: bool = False,
    unit_rows: bool = False,
    hidden_per_user: float = 1.0,
) -> Loss | Auto:
    """The loss of a config, told what it asks for of data, model, trainer and machine."""
    loss: Loss | Auto = instantiate_with(
        part,
        num_items=facts.num_items,
        num_users=facts.num_users,
        popularity=popularity,
        width=width,
        batch_users=batch_users,
        device=device,
        row_length=row_length,
        hidden_bias=hidden_bias,
        linear=linear,
        unit_rows=unit_rows,
        hidden_per_user=hidden_per_user,
    )
    return loss


def reads_log_odds(loss: Mapping[str, Any]) -> bool:
    """Whether the loss of a config reads scores as log odds: all do that do not say otherwise."""
    return bool(getattr(find(loss["_target_"]), "log_odds", True))


def learns_next(model: Mapping[str, Any]) -> bool:
    """Whether the model of a config learns what comes next in the histories that it is shown."""
    return bool(getattr(find(model["_target_"]), "learns_next", False))


def reads_attributes(model: Mapping[str, Any]) -> bool:
    """Whether the model of a config asks which user attributes there are."""
    return "fields" in inspect.signature(find(model["_target_"])).parameters


def trained_model(part: Mapping[str, Any], facts: Facts, found: Checkpoint) -> torch.nn.Module:
    """The model of a config with the weights of a checkpoint, which stay in its file."""
    with torch.device("meta"):  # to draw weights that are not used takes long
        model = build_model(part, facts, None)
    checkpoint.map_weights(found, model)
    if _has_holes(model):
        model = build_model(part, facts, None)
        checkpoint.map_weights(found, model)
    return model


def _has_holes(model: torch.nn.Module) -> bool:
    """Whether anything besides the weights was left without values on the meta device."""
    holders = [
        held
        for module in model.modules()
        for held in (module._parameters, module._buffers, vars(module))
    ]
    return any(
        isinstance(value, Tensor) and value.is_meta for held in holders for value in held.values()
    )
