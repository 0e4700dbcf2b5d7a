"""Checkpoints: whole or absent, verified before they are used, never overwritten.

    checkpoints/step-00000640/
        manifest.json           step, score, what the run was made from, SHA-256 of each file
        weights.safetensors     the model
        optimizer.safetensors   what its optimizers remember
        progress.json           how far the run was

A checkpoint is a new folder put in place by one rename (deeprec/folder.py). Which one is the last
or the best is computed from the manifests and stored nowhere. Random draws and batches are a pure
function of the seed and of `progress.json`, so there is no other state.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deeprec import folder
from deeprec.errors import IntegrityError, NonFiniteError
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import state_tensors

KIND = "checkpoint"
KEPT = 2  # the newest so many are kept, and the best


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest was read; its hashes are compared when it is loaded."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def score(self) -> float | None:
        """ndcg@100 of the validation just before it was saved; None: nothing was validated."""
        score: float | None = self.manifest["score"]
        return score

    def verify(self) -> None:
        """Raises IntegrityError, naming the file, if one is not what the manifest says."""
        folder.verify(self.path, KIND)


def save(
    checkpoints: Path, training: Training, score: float | None, made_from: Mapping[str, Any]
) -> Path:
    """Writes the state of a run as a new checkpoint, reads it back, and drops old ones.

    Raises:
        NonFiniteError: a weight is not finite; nothing is written.
    """
    training.check_finite()
    _check_finite_weights(training.model)
    progress = training.told_progress()
    path = checkpoints / f"step-{progress.step:08d}"
    manifest = {"step": progress.step, "score": score, **made_from}
    with folder.writing(path, KIND, manifest) as draft:
        save_file(_own_memory(training.model.state_dict()), draft / "weights.safetensors")
        remembered = _own_memory(state_tensors(training.built))
        save_file(remembered, draft / "optimizer.safetensors")
        (draft / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")
    folder.verify(path, KIND)
    _drop_old(checkpoints)
    return path


def load(checkpoint: Checkpoint, training: Training) -> None:
    """Makes a run just begun into the one that was saved.

    Raises:
        IntegrityError: the checkpoint is damaged, or of another model.
    """
    checkpoint.verify()
    load_weights(checkpoint, training.model)
    saved = load_file(checkpoint.path / "optimizer.safetensors")
    tensors = state_tensors(training.built)
    _check_same_shapes(checkpoint.path / "optimizer.safetensors", saved, tensors)
    for name, tensor in tensors.items():
        tensor.copy_(saved[name])
    training.go_on_from(json.loads((checkpoint.path / "progress.json").read_text()))


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Copies the weights into a model of the same shapes; `verify` comes first."""
    path = checkpoint.path / "weights.safetensors"
    saved = load_file(path)
    _check_same_shapes(path, saved, model.state_dict())
    model.load_state_dict(saved)


def newest_valid(checkpoints: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose hashes match, and why each newer one was rejected."""
    rejected: list[str] = []
    for path in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            return Checkpoint(path, folder.verify(path, KIND)), rejected
        except IntegrityError as error:
            rejected.append(str(error))
    return None, rejected


def best(checkpoints: Path) -> Checkpoint | None:
    """The checkpoint of the highest score, the earlier of two; the last one where none has any."""
    found = list(_readable(checkpoints))
    scored = [one for one in found if one.score is not None]
    if scored:
        return max(scored, key=lambda one: (one.score or 0.0, -one.step))
    return found[-1] if found else None


def _readable(checkpoints: Path) -> Iterator[Checkpoint]:
    """Finished checkpoints, oldest first."""
    for path in sorted(checkpoints.glob("step-*")):
        if (path / folder.MANIFEST).is_file():
            yield Checkpoint(path, folder.read_manifest(path, KIND))


def _drop_old(checkpoints: Path) -> None:
    found = list(_readable(checkpoints))
    kept = {one.path for one in found[-KEPT:]}
    if top := best(checkpoints):
        kept.add(top.path)
    for one in found:
        if one.path not in kept:
            folder.remove(one.path)


def _check_finite_weights(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{name} holds a value that is not finite; nothing of it is saved. Lower the "
                "learning rates (optimizer.lr, optimizer.table_lr) or give optimizer.warmup_steps"
            )


def _check_same_shapes(
    path: Path, saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    if unlike := sorted(saved.keys() ^ expected.keys()):
        raise IntegrityError(f"{path}: not of this model; {', '.join(unlike)} is only on one side")
    for name, tensor in expected.items():
        if saved[name].shape != tensor.shape:
            raise IntegrityError(
                f"{path}: {name} has shape {list(saved[name].shape)}, the model has "
                f"{list(tensor.shape)}"
            )


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, each tensor alone in its memory, as safetensors wants them."""
    own = {}
    for name, tensor in tensors.items():
        on_cpu = tensor.detach().cpu().contiguous()
        alone = on_cpu.untyped_storage().nbytes() == on_cpu.nbytes
        own[name] = on_cpu if alone else on_cpu.clone()
    return own
