"""A brake on a run whose loss leaps: a step left out, and some that are small."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Braking:
    """How far a brake is pulled; part of the progress of a run."""

    mean: float = 0.0  # of the loss, running
    steps: int = 0  # looked at since it was last released
    left: int = 0  # steps that it still holds


RELEASED = Braking()


class Brake:
    """Pulled by a loss far above its running mean; then a step is left out and others are small.

    The loss must be known before anything changes by it, so that the gradient of catalog rows is
    kept until then, of the whole table unless a loss draws; on CUDA every step waits for its loss.

    Args:
        times: of the running mean, above which a loss pulls it.
        smoothing: share of the running mean that stays at a step, in [0, 1).
        after_steps: of an epoch, before which it is not pulled.
        hold_steps: small steps after the one that is left out.
        factor: of the learning rates in these.

    Raises:
        ValueError: an argument lies outside its range.

    Reference:
        DSSTNE, `engine/NNNetwork.cpp`. Differs: a loss is compared with the mean of those before
        it, and the mean begins at the first of them, not at 0.
    """

    def __init__(
        self,
        *,
        times: float = 2.0,
        smoothing: float = 0.9,
        after_steps: int = 100,
        hold_steps: int = 24,
        factor: float = 0.1,
    ) -> None:
        if not times > 1.0:
            raise ValueError(f"times must be above 1, got {times}")
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        for name, value in (("after_steps", after_steps), ("hold_steps", hold_steps)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        if not 0.0 < factor < 1.0:
            raise ValueError(f"factor must be between 0 and 1, got {factor}")
        self.times, self.smoothing, self.after_steps = times, smoothing, after_steps
        self.hold_steps, self.factor = hold_steps, factor

    def held(self, loss: Tensor, braking: Braking, batch: int) -> tuple[float, Braking]:
        """What learning rates are multiplied with, 0: the step is left out; and how it is after it.

        Args:
            loss: of the step.
            braking: before it.
            batch: of the epoch, counted from 0.
        """
        value, was = float(loss.detach()), braking if batch else RELEASED
        share = self.smoothing if was.steps else 0.0
        mean = share * was.mean + (1.0 - share) * value
        if was.steps >= self.after_steps and value > self.times * was.mean:
            return 0.0, Braking(mean, was.steps + 1, self.hold_steps)
        factor = self.factor if was.left else 1.0
        return factor, Braking(mean, was.steps + 1, max(was.left - 1, 0))
