"""Our step: what `deeprec train` puts together, stepped through by hand instead of by Lightning."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deeprec.batch import Arranged
from deeprec.config import compose
from deeprec.console import console
from deeprec.data.packed import Packed
from deeprec.data.store import Prepared
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.sparse_input import HISTORY
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.loop import Loop
from deeprec.trainer.module import Training
from deeprec.verb import TrainConfig
from deeprec.work import Work

COMMON = (  # as the dense form and RecBole do it
    "model.history_weighting=binary",
    "optimizer.betas=[0.9,0.999]",
    "optimizer.warmup_steps=0",
    "optimizer.decay=0",
    "trainer.prefetch_batches=0",  # made in the step and counted in it
)
CPU = torch.device("cpu")


class Alone(Training):
    """A training module that needs no Trainer around it."""

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so


def work_of(
    prepared: Prepared, words: Sequence[str], group: Group | None = None
) -> tuple[Work, Training]:
    """What `deeprec train` puts together for these overrides, and of it what is stepped through."""
    config = compose("train", [f"prepared={prepared.path}", "output_dir=unused", *words])
    assert isinstance(config, TrainConfig)
    console.quiet = True  # no memory plan between the lines of a table
    work = Work(config, prepared, group)
    assert isinstance(work.learner, Training)
    work.learner.__class__ = Alone
    return work, work.learner


class OurSteps:
    """One step after another on shuffled users, the making of the batch included.

    Args:
        prepared: the users.
        words: overrides of `deeprec train`.
        narrow: products in bfloat16, as `trainer.precision=bfloat16` has them.
        device: where the model is.
        ahead: batches are made ahead as a run on this device has it; else: in the step.
        group: of processes that step together, this one among them; None: it is alone.
        makers: processes that make batches ahead; None: as many as a run on this device has.
    """

    def __init__(
        self,
        prepared: Prepared,
        words: Sequence[str],
        *,
        narrow: bool = False,
        device: torch.device = CPU,
        ahead: bool = False,
        group: Group | None = None,
        makers: int | None = None,
    ) -> None:
        words = [*words, f"trainer.device={device.type}"]
        self.work, self.training = work_of(prepared, words, group)
        self.training.to(device)
        if group is not None:
            self.work._share(self.training, group)
        if ahead:
            loop, training = Loop(), self.work.data.training
            training.prefetch = loop.prefetch_batches
            training.processes = loop.makers(device.type) if makers is None else makers
        self.narrow, self.device = narrow, device
        self.batches = self.endless()

    def endless(self) -> Iterator[Arranged | Packed]:
        while True:
            yield from self.work.data.training

    def step(self) -> float:
        """Returns its loss."""
        self.advance()
        return self.loss()

    def advance(self) -> None:
        """A step whose loss is not looked at, for which a GPU would be waited for."""
        self.take(self.ready())

    def ready(self) -> Arranged | Packed:
        """The next batch; a GPU fetches it in the step."""
        return next(self.batches)

    def take(self, batch: Arranged | Packed) -> None:
        """A step on this batch."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.narrow):
            self.training.training_step(batch, 0)

    def loss(self) -> float:
        """The mean over users since it was asked for last."""
        return self.training.mean_loss()

    def start(self) -> dict[str, Tensor]:
        """Copies of the weights, named as by `Dense`."""
        model = self.training.model
        assert isinstance(model, Autoencoder)
        pairs = [(model.sparse_input.tables[HISTORY].T, model.layers.bias)]
        hidden = [layer for layer in model.layers.layers if isinstance(layer, nn.Linear)]
        pairs += [(layer.weight, layer.bias) for layer in hidden]
        pairs.append((model.item_weight, model.item_bias))
        return {
            f"layers.{index}.{name}": tensor.detach().clone()
            for index, pair in enumerate(pairs)
            for name, tensor in zip(("weight", "bias"), pair)
        }


def arranged(batch: Arranged | Packed) -> Arranged:
    """A batch as it was arranged; of one that was filled up, with what fills it."""
    found: Arranged = batch.unpacked() if isinstance(batch, Packed) else batch
    return found
