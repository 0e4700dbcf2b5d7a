"""What a run keeps while it learns, and how far it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deeprec.model.base import Recommender
from deeprec.trainer.brake import RELEASED, Braking


@dataclass
class Progress:
    """How far a run is; with the seed, all that the next step depends on besides the weights.

    The loss so far is in it too, so that metrics.csv tells of whole epochs after a resume.
    """

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches done of the epoch at hand
    loss_sum: float = 0.0  # over users of these batches, as of the last `told_progress`
    loss_users: int = 0  # users of these batches
    step: int = 0  # optimizer steps done
    best_score: float | None = None  # of the best validation so far
    best_step: int | None = None
    validations_since_best: int = 0
    first_loss: float | None = None  # of the first step, where it was looked at
    last_loss: float | None = None  # mean of the last epoch
    last_score: float | None = None  # of the last validation
    gradient_norm: float = 0.0  # of what the optimizers are given, at the last step looked at
    braking: Braking = RELEASED


class Learner(Protocol):
    """What a run keeps while it learns: a `Training` in steps, or a `Solving` in passes."""

    model: nn.Module
    progress: Progress
    built: list[torch.optim.Optimizer]

    @property
    def recommender(self) -> Recommender: ...

    @property
    def device(self) -> torch.device: ...

    def mean_loss(self) -> float:
        """Over the users since the last call."""
        ...

    def check_finite(self) -> None: ...

    def make_whole(self) -> None:
        """Has here what other processes trained; those wait where a step begins."""
        ...

    def whole_state(self) -> Mapping[str, Tensor]:
        """What the optimizers remember, by the names of a checkpoint; likewise."""
        ...

    def state_to_read(self) -> Mapping[str, Tensor]:
        """Tensors of the same names, into which a checkpoint is read."""
        ...

    def state_bytes(self) -> int:
        """What these take."""
        ...

    def told_progress(self) -> Progress: ...

    def go_on_from(self, told: Mapping[str, Any]) -> None: ...
