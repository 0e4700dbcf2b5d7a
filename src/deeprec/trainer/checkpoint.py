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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from deeprec import folder
from deeprec.errors import IntegrityError, NonFiniteError
from deeprec.trainer.module import Learner
from deeprec.trainer.optimizer import state_tensors

KIND = "checkpoint"
SAFE_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
ROWS = 2**20  # of a table that are looked at at once
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
    checkpoints: Path, training: Learner, score: float | None, made_from: Mapping[str, Any]
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
        _write(draft / "weights.safetensors", training.model.state_dict())
        _write(draft / "optimizer.safetensors", state_tensors(training.built))
        (draft / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n")
    folder.verify(path, KIND)
    _drop_old(checkpoints)
    return path


def load(checkpoint: Checkpoint, training: Learner) -> None:
    """Makes a run just begun into the one that was saved.

    Raises:
        IntegrityError: the checkpoint is damaged, or of another model.
    """
    checkpoint.verify()
    with _opened(checkpoint.path / "weights.safetensors", training.model.state_dict()) as saved:
        _open_up(training.model, saved)
        _copy(saved, training.model.state_dict())
    state = state_tensors(training.built)
    with _opened(checkpoint.path / "optimizer.safetensors", state) as saved:
        _copy(saved, state)
    training.go_on_from(json.loads((checkpoint.path / "progress.json").read_text()))


def map_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Gives a model that is only asked its weights, which stay in the file; `verify` comes first.

    What is used of them is read when it is used, and memory that is needed otherwise is given back.
    """
    with _opened(checkpoint.path / "weights.safetensors", model.state_dict()) as saved:
        mapped = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118  # no dict
        _open_up(model, saved)
        model.load_state_dict(mapped, assign=True)


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
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise NonFiniteError(
                f"{name} holds a value that is not finite; nothing of it is saved. Lower the "
                "learning rates (optimizer.lr, optimizer.table_lr) or give optimizer.warmup_steps"
            )


def _is_finite(tensor: Tensor) -> bool:
    rows = torch.split(tensor, ROWS) if tensor.dim() else [tensor]
    return all(bool(torch.isfinite(some).all()) for some in rows)


def _copy(saved: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copies an opened file into these tensors, one after the other."""
    for name, tensor in tensors.items():
        tensor.copy_(saved.get_tensor(name))


@contextmanager
def _opened(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """A file of tensors of these names and shapes.

    Raises:
        IntegrityError: it holds other tensors.
    """
    with safe_open(path, "pt") as saved:
        if unlike := sorted(set(saved.keys()) ^ tensors.keys()):
            raise IntegrityError(
                f"{path}: not of this model; {', '.join(unlike)} is only on one side"
            )
        for name, tensor in tensors.items():
            shape = saved.get_slice(name).get_shape()
            fixed = 1 if _has_open_length(tensor) else 0
            if shape[fixed:] != list(tensor.shape)[fixed:]:
                raise IntegrityError(
                    f"{path}: {name} has shape {shape}, the model has {list(tensor.shape)}"
                )
        yield saved


def _open_up(model: nn.Module, saved: Any) -> None:
    """Gives tables of open length the length that they have in an opened file."""
    for name, buffer in model.named_buffers():
        if _has_open_length(buffer):
            buffer.resize_(saved.get_slice(name).get_shape())


def _has_open_length(tensor: Tensor) -> bool:
    """Whether only a solved model knows how many rows this table has: before, it has none."""
    return tensor.dim() > 0 and tensor.shape[0] == 0


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file tensor by tensor, so that no second copy of a table is made.

    Reference: the format of safetensors, whose own writer first turns all tensors into bytes.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header, end = {}, 0
    for name, tensor in on_cpu.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": SAFE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)  # numbers begin where processors like to read them
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for tensor in on_cpu.values():
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
