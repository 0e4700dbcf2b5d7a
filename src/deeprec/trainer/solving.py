"""What is kept of a model while it is solved, and the passes in which that happens."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from deeprec.batch import Batch
from deeprec.model.base import Solvable
from deeprec.trainer.callback import Keeper
from deeprec.trainer.learner import Progress


class Solving:
    """A model that is solved in passes over all histories; to a checkpoint as `Training` is.

    Args:
        model: a solvable recommender.
        seed: of whatever it draws.
        progress: where it begins; passes advance it.
    """

    def __init__(self, model: Solvable, *, seed: int, progress: Progress) -> None:
        assert isinstance(model, nn.Module)
        self.model: nn.Module = model
        self.seed, self.progress = seed, progress
        self.built: list[torch.optim.Optimizer] = []

    @property
    def recommender(self) -> Solvable:
        return cast(Solvable, self.model)

    @property
    def device(self) -> torch.device:
        return self.recommender.item_weight.device

    def fit(self, users: Batch, keeper: Keeper) -> None:
        """Goes over the histories until the model is solved or the keeper has enough.

        Args:
            users: everybody who may be trained on.
            keeper: validates and saves after each pass, and says when it is enough.
        """
        done = self.progress.epoch
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + done)
        with torch.no_grad():
            keeper.begin_epoch()
            for loss in self.recommender.solve(users, done, draw):
                self.progress.loss_sum = loss * users.num_users
                self.progress.loss_users = users.num_users
                self.progress.step += 1
                keeper.users_done(users.num_users)
                if keeper.end_epoch(self):
                    break
                keeper.begin_epoch()

    def mean_loss(self) -> float:
        """Of the last pass; NaN where it has none."""
        if self.progress.loss_users == 0:
            return math.nan
        mean = self.progress.loss_sum / self.progress.loss_users
        self.progress.loss_sum, self.progress.loss_users = 0.0, 0
        return mean

    def check_finite(self) -> None:
        """Weights are looked at before they are saved; there is no other state."""

    def make_whole(self) -> None:
        """One process solves it, and has all of it."""

    def whole_state(self) -> dict[str, Tensor]:
        """It has no optimizers."""
        return {}

    def state_to_read(self) -> dict[str, Tensor]:
        """See `whole_state`."""
        return {}

    def state_bytes(self) -> int:
        """See `whole_state`."""
        return 0

    def told_progress(self) -> Progress:
        return self.progress

    def go_on_from(self, told: Mapping[str, Any]) -> None:
        """Takes over the progress that another life of the run told."""
        for name, value in told.items():
            if name != "braking":  # of models that learn in steps
                setattr(self.progress, name, value)
