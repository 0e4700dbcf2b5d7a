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
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from deeprec import folder
from deeprec.errors import ConfigError, IntegrityError, NonFiniteError
from deeprec.trainer.learner import Learner, Progress
from deeprec.trainer.sound import way_out

KIND = "checkpoint"
SAFE_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
AT_ONCE = 2**20  # numbers that are looked at at once: what is made of them takes 4 MiB
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
        """Of the validation just before it was saved; None: nothing was validated."""
        score: float | None = self.manifest["score"]
        return score

    def verify(self) -> None:
        """Raises IntegrityError, naming the file, if one is not what the manifest says."""
        folder.verify(self.path, KIND)


@dataclass(frozen=True)
class State:
    """All that a checkpoint holds of a run."""

    progress: Progress
    score: float | None
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """What it takes on a disk, but for a few kilobytes."""
        return _size(self.weights) + _size(self.optimizer)


def size_of(training: Learner) -> int:
    """What a checkpoint of a run takes on a disk, but for a few kilobytes."""
    return _size(training.model.state_dict()) + training.state_bytes()


def grows(training: Learner) -> bool:
    """Whether only a model that is solved knows what it will take."""
    return any(_has_open_length(buffer) for buffer in training.model.buffers())


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def state_of(training: Learner, score: float | None, *, copied: bool = False) -> State:
    """The state of a run as it is now.

    Args:
        training: the run.
        score: of the validation just before; None: there was none.
        copied: into memory of its own, so that training may go on while it is written.

    Raises:
        NonFiniteError: a weight is not finite.
    """
    training.check_finite()
    _check_finite_weights(training.model)
    weights, optimizer = training.model.state_dict(), training.whole_state()
    if copied:
        weights, optimizer = _copies(weights), _copies(optimizer)
    return State(replace(training.told_progress()), score, weights, optimizer)


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def save(
    checkpoints: Path, training: Learner, score: float | None, made_from: Mapping[str, Any]
) -> Path:
    """Writes a run as it is now; see `write`."""
    return write(checkpoints, state_of(training, score), made_from)


def write(checkpoints: Path, state: State, made_from: Mapping[str, Any]) -> Path:
    """Writes a state as a new checkpoint, reads it back, and only then drops old ones."""
    path = checkpoints / _name(state.progress.step)
    manifest = {"step": state.progress.step, "score": state.score, **made_from}
    with folder.writing(path, KIND, manifest, needed=state.num_bytes, parents=False) as draft:
        write_tensors(draft / "weights.safetensors", state.weights)
        folder.passing("weights written")
        write_tensors(draft / "optimizer.safetensors", state.optimizer)
        told = json.dumps(asdict(state.progress), indent=2)
        (draft / "progress.json").write_text(told + "\n")
    folder.verify(path, KIND)
    folder.passing("verified")
    _drop_old(checkpoints)
    folder.passing("old ones dropped")
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
    _refuse_nonfinite(checkpoint, training.model)
    state = training.state_to_read()
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
    _refuse_nonfinite(checkpoint, model)


def newest_valid(checkpoints: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose hashes match, and why each newer one was rejected."""
    rejected: list[str] = []
    for path in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            return _verified(path), rejected
        except folder.DamagedError as error:  # nobody can make it again, and nobody needs to
            rejected.append(error.what)
        except (IntegrityError, ConfigError) as error:  # of another kind, if it is no checkpoint
            rejected.append(str(error))
    return None, rejected


def set_newer_aside(checkpoints: Path, found: Checkpoint) -> None:
    """Renames what was rejected, so that the steps after `found` can be saved again.

    It is not removed: whether a disk or a person did this, somebody may want to look at it.
    """
    for path in checkpoints.glob("step-*"):
        if path.name > found.path.name:
            path.rename(checkpoints / f"rejected-{path.name}-{secrets.token_hex(4)}")


def _verified(path: Path) -> Checkpoint:
    found = Checkpoint(path, folder.verify(path, KIND))
    if path.name != _name(found.step):
        raise IntegrityError(f"{path}: is of step {found.step}; somebody renamed it")
    return found


def _name(step: int) -> str:
    return f"step-{step:08d}"


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
    if name := not_finite(model):
        raise NonFiniteError(
            f"{name} holds a value that is not finite; nothing of it is saved. {way_out(model)}"
        )


def _refuse_nonfinite(checkpoint: Checkpoint, model: nn.Module) -> None:
    if name := not_finite(model):
        raise IntegrityError(
            f"{checkpoint.path}: {name} holds a value that is not finite, which deeprec never saves"
        )


def not_finite(model: nn.Module) -> str | None:
    """The first tensor of a model that holds a value that is NaN or infinite, if one does."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            return name
    return None


def _is_finite(tensor: Tensor) -> bool:
    some_of = torch.split(tensor.reshape(-1), AT_ONCE)
    return all(bool(torch.isfinite(some).all()) for some in some_of)


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


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
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
