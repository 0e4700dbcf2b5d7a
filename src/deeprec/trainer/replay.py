"""The step at which a loss stopped being finite: kept beside the run, and looked into again.

    RUN.replay/
        run/config.yaml run/prepared.json
                                    as in the run folder, of which nothing else may be left
        weights.safetensors         the model as it was before that step; no optimizer
        progress.json               which step it is; with the seed, all that it depends on
        users.json                  rows of users.parquet in its batch

On CUDA a loss is looked at each fiftieth step, so there the weights may be those of a later step.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

from deeprec import disk, folder
from deeprec.batch import Arranged
from deeprec.console import console
from deeprec.data.dataset import Batches
from deeprec.errors import IntegrityError, NonFiniteError, ResourceError
from deeprec.trainer.checkpoint import write_tensors
from deeprec.trainer.module import Training
from deeprec.trainer.run import RunFolder
from deeprec.trainer.sound import norm

KIND = "replay"


def place_of(run: Path) -> Path:
    """Where the step of a run is kept."""
    return run.with_name(run.name + ".replay")


def keep(run: RunFolder, training: Training, batches: Batches, why: str) -> Path:
    """Writes the step that a run failed at, beside the run.

    Raises:
        ResourceError: there is no room for it, or no process has all weights of that moment.
    """
    if training.shards is not None:
        raise ResourceError(
            "with trainer.shard_catalog=true or trainer.shard_inputs=true no process has all "
            "weights of that step; a run without them keeps it"
        )
    place, progress = place_of(run.path), training.progress
    users: list[int] = []
    if progress.batch < len(batches):  # else the weights were found so between two epochs
        users = batches.batch(progress.epoch, progress.batch).user_rows.tolist()
    weights = training.model.state_dict()
    with (
        disk.written(place, sum(tensor.nbytes for tensor in weights.values())),
        folder.writing(place, KIND, {"step": progress.step, "why": why}) as draft,
    ):
        (draft / "run").mkdir()
        for name in ("config.yaml", "prepared.json"):
            (draft / "run" / name).write_bytes((run.path / name).read_bytes())
        write_tensors(draft / "weights.safetensors", weights)
        (draft / "progress.json").write_text(json.dumps(asdict(progress)))
        (draft / "users.json").write_text(json.dumps(users))
    return place


def restore(place: Path, training: Training) -> None:
    """Makes a run just begun into the one that failed, just before that step."""
    saved = load_file(place / "weights.safetensors")
    own = training.model.state_dict()
    if unlike := sorted(saved.keys() ^ own.keys()):
        raise IntegrityError(f"{place}: not of this model; {', '.join(unlike)} is on one side only")
    for name, tensor in own.items():
        tensor.copy_(saved[name])
    told = json.loads((place / "progress.json").read_text())
    training.go_on_from({**told, "loss_sum": 0.0, "loss_users": 0})


def look_into(training: Training, batch: Arranged) -> None:
    """Takes the step again and shows what becomes infinite or NaN first.

    Raises:
        NonFiniteError: the loss or a gradient is not finite again.
    """
    bad_weights = [name for name, one in _floats(training.model.state_dict()) if not _finite(one)]
    largest = _largest(training.model)  # before the step: a table is updated in backward
    with _watched(training.model) as bad_outputs:
        loss = training.loss_of(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    grads = {name: one.grad for name, one in training.model.named_parameters()}
    bad_grads = [name for name, one in grads.items() if one is not None and not _finite(one)]
    table = Table(title=f"step {training.progress.step}", title_justify="left")
    for column in ("what", "found"):
        table.add_column(column)
    table.add_row("users", f"{batch.num_users:,}")
    table.add_row("weights not finite before it", ", ".join(bad_weights) or "none")
    table.add_row("layers whose output is not finite", ", ".join(bad_outputs) or "none")
    table.add_row("loss", f"{loss.item()}")
    table.add_row("gradients not finite", ", ".join(bad_grads) or "none")
    table.add_row("largest weight before it", f"{largest:.4g}")
    console.print(table)
    if bad_weights or bad_grads or not math.isfinite(loss.item()):
        first = [*bad_weights, *bad_outputs, *bad_grads, "the loss"][0]
        raise NonFiniteError(f"step {training.progress.step} is not finite again, first: {first}")


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """The layers that gave something not finite, in the order in which they did."""
    found: list[str] = []

    def watching(name: str) -> Any:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not _finite(output):
                found.append(name)

        return look

    hooks = [one.register_forward_hook(watching(name)) for name, one in model.named_modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _floats(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name, one) for name, one in tensors.items() if one.is_floating_point())


def _finite(tensor: Tensor) -> bool:
    """Whether all of it is, and its norm too."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return not values.is_floating_point() or math.isfinite(norm([values]))


def _largest(model: nn.Module) -> float:
    return max(float(one.abs().max()) for _, one in _floats(model.state_dict()) if one.numel())
