"""What learning rates are multiplied with over a run, on top of warm-up and decay of the optimizer.

A part of the group `rate` is a pure function of the step, so that resuming needs no state of it.
"""

from typing import Protocol


class Rate(Protocol):
    """The contract of a config part in the group `rate`."""

    def __call__(self, step: int, epoch_steps: int) -> float:
        """What the learning rates of a step, counted from 0, are multiplied with.

        Args:
            step: of the run.
            epoch_steps: of an epoch.
        """
        ...


class ByEpochs:
    """The learning rate falls by a factor every so many epochs.

    Args:
        every_epochs: 1 or more.
        factor: above 0.

    Raises:
        ValueError: an argument lies outside its range.

    Reference:
        DSSTNE, `utils/main.cpp`, AlphaInterval and AlphaMultiplier.

    Example:
        >>> rate = ByEpochs(every_epochs=2, factor=0.5)
        >>> [rate(step, 10) for step in (0, 19, 20, 40)]
        [1.0, 1.0, 0.5, 0.25]
    """

    def __init__(self, *, every_epochs: int = 20, factor: float = 0.5) -> None:
        if every_epochs < 1:
            raise ValueError(f"every_epochs must be 1 or more, got {every_epochs}")
        if not 0.0 < factor < float("inf"):
            raise ValueError(f"factor must be above 0 and finite, got {factor}")
        self.every_epochs, self.factor = every_epochs, factor

    def __call__(self, step: int, epoch_steps: int) -> float:
        epoch: int = step // max(epoch_steps, 1)
        return float(self.factor ** (epoch // self.every_epochs))


class Inverse:
    """The learning rate falls as 1 / (1 + decay * steps done).

    Args:
        decay: 0 or more.

    Raises:
        ValueError: decay is below 0.

    Reference:
        DSSTNE, `engine/NNNetwork.cpp`, `decay` of a network.

    Example:
        >>> Inverse(decay=0.5)(2, 10)
        0.5
    """

    def __init__(self, *, decay: float = 1e-4) -> None:
        if not 0.0 <= decay < float("inf"):
            raise ValueError(f"decay must be 0 or more and finite, got {decay}")
        self.decay = decay

    def __call__(self, step: int, epoch_steps: int) -> float:
        return 1.0 / (1.0 + self.decay * step)
