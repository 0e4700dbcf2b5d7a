"""The run folder: what training writes, resumes from, and hands to evaluation and export.

    config.yaml        what the run was told, composed; enough to run it again
    environment.json   software, processor, device
    prepared.json      path and identity of the prepared folder, what a model is built with, and
                       which run's weights it began with, if any
    metrics.csv        one row an epoch
    members.json       of a blend alone: what trains each of its members again
    checkpoints/       see trainer/checkpoint.py
    status.json        running, interrupted, failed or finished; how to go on
    manifest.json      written when training is finished: the hash of every file above
    wandb/             what wandb keeps, where it tracks; in no manifest

Whatever else lies there, as the report of an evaluation does, is in no manifest either.
While a run trains it holds a lock on its folder, which the system drops if the process dies.
"""

import json
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # no stubs; OmegaConf brings it

from deeprec import __version__, disk, folder
from deeprec import config as configs
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, IntegrityError, ResourceError
from deeprec.model.base import Recommender
from deeprec.trainer import checkpoint
from deeprec.trainer.checkpoint import Checkpoint
from deeprec.trainer.environment import environment, versions
from deeprec.trainer.facts import Facts, trained_model
from deeprec.verb import TrainConfig

KIND = "run"
MEMBERS = "members.json"
SEALED = ("config.yaml", "environment.json", "prepared.json", "metrics.csv", "status.json")


@dataclass
class Run:
    """A run opened for evaluation or export."""

    path: Path
    model: Recommender  # in evaluation mode, on the CPU
    config: TrainConfig
    prepared: Path
    prepared_identity: str
    facts: Facts
    checkpoint: Checkpoint

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return (self.path / folder.MANIFEST).is_file()


class RunFolder:
    """A run folder that this process may write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._held: tuple[int, int] | None = None  # device and inode, while it is locked
        self._descriptor: int | None = None  # likewise

    @classmethod
    @contextmanager
    def begun(
        cls,
        path: Path,
        config: TrainConfig,
        prepared: Prepared,
        facts: Facts,
        *,
        from_data: bool = True,
        started_from: Mapping[str, Any] | None = None,
        members: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> Iterator["RunFolder"]:
        """A new run, with everything that is known before its first step, held by this process.

        One that ends in an error before its first checkpoint is taken away, so that the corrected
        command can be given again.

        Args:
            from_data: whether it begins with what this says, and not with weights from elsewhere,
                without which it cannot begin again.
            started_from: the run whose weights it begins with.
            members: of a blend, the config of each one's training; None for one that was not
                trained.

        Raises:
            ConfigError: something is in the way.
            ResourceError: nothing can be written there.
        """
        run = cls(path)
        with disk.written(path), folder.drafting(path.absolute()) as draft:
            (draft / "checkpoints").mkdir()
            _write_json(draft / "environment.json", environment())
            origin = {"path": str(prepared.path.absolute()), "identity": prepared.identity}
            told = {} if started_from is None else {"start_from": started_from}
            _write_json(draft / "prepared.json", {**origin, **vars(facts), **told})
            known = {"id": secrets.token_hex(4), "from_data": from_data}
            _write_json(draft / "status.json", run._told("running", known))
            if members is not None:
                _write_json(draft / MEMBERS, {"members": members})
            with folder.writing_file(draft / "config.yaml") as file:
                file.write_text(configs.to_yaml(config))
            folder.place(draft, path)
        with run.locked():
            try:
                yield run
            except disk.DiskHangsError:  # nothing more is asked of that disk
                raise
            except BaseException:
                run.remove_if_empty()
                raise

    @property
    def config(self) -> TrainConfig:
        """What the run was told.

        Raises:
            ConfigError: there is no run here, or this deeprec does not know its keys.
            IntegrityError: config.yaml is damaged.
        """
        self.check_is_run()
        values = _read_yaml(self.path / "config.yaml")
        if found := configs.find_mistakes(values, "train"):
            lines = "\n".join(f"  - {mistake}" for mistake in found)
            raise ConfigError(f"{self.path / 'config.yaml'} cannot be used:\n{lines}")
        return cast(TrainConfig, configs.typed(values, "train"))

    @property
    def members(self) -> list[dict[str, Any] | None] | None:
        """The config of each member's training; None: it is no blend, or an old one."""
        if not (self.path / MEMBERS).is_file():
            return None
        members: list[dict[str, Any] | None]
        members = _read_json(self.path / MEMBERS, ["members"])["members"]
        return members

    @property
    def origin(self) -> dict[str, Any]:
        """Path and identity of the prepared folder, and the facts."""
        keys = ("path", "identity", *Facts.__dataclass_fields__)
        return _read_json(self.path / "prepared.json", keys)

    @property
    def status(self) -> dict[str, Any]:
        return _read_json(self.path / "status.json", ("id", "state", "pid", "host"))

    @property
    def finished(self) -> bool:
        return (self.path / folder.MANIFEST).is_file()

    def check_is_run(self) -> None:
        """Raises ConfigError if there is no run here."""
        if not (self.path / "config.yaml").is_file():
            raise ConfigError(f"{self.path}: no config.yaml, so there is no run here")

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on with, or that cannot be told."""
        try:
            return any(self.checkpoints.glob("step-*"))
        except OSError:  # no file can be opened any more, for one
            return True

    def remove_if_empty(self) -> None:
        """Takes the folder away if there is nothing to go on with, so that its place is free."""
        if self._found() == self._held and not self.has_checkpoint:
            folder.remove(self.path)

    def set_status(
        self, state: str, *, look_into: Path | None = None, goes_on: bool = True, **more: Any
    ) -> None:
        """Says how the run stands, for people and for whoever restarts it.

        Args:
            look_into: a step kept for a replay, at which going on would fail again.
            goes_on: whether a resume has something to begin from.
        """
        told = self._told(state, {**self.status, **more})
        if not goes_on:
            told |= {"resumable": False, "next": None}
        if look_into is not None:
            told |= {"resumable": False, "next": f"deeprec train replay={look_into}"}
        _write_json(self.path / "status.json", told)

    def _told(self, state: str, known: Mapping[str, Any]) -> dict[str, Any]:
        resumable = state != "finished"
        line = f"deeprec train resume={self.path}" if resumable else None
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        return {**known, "state": state, "resumable": resumable, "next": line, **holder}

    def made_from(self) -> dict[str, Any]:
        """What every checkpoint of this run says of its origin."""
        return {
            "config": folder.sha256(self.path / "config.yaml"),
            "prepared": self.origin["identity"],
            "versions": versions(),
        }

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to this run.

        Raises:
            ConfigError: another process does; it is named.
        """
        with folder.locked(self.path, self.held) as self._descriptor:
            self._held = self._found()
            yield

    def _found(self) -> tuple[int, int] | None:
        """Which folder is at the place of this one."""
        try:
            here = self.path.stat()
        except OSError:
            return None
        return here.st_dev, here.st_ino

    def refuse_moved(self) -> None:
        """Nothing may be written where this run is no more: somebody else may be there.

        Raises:
            ResourceError: the folder that this process holds is not at its place.
        """
        if self._held is None or self._found() != self._held:
            where = self.moved_to()
            command = f"deeprec train resume={where or ''}"
            way = f"`{command}`" if where else f"`{command}` and its new place, if it is elsewhere"
            raise ResourceError(
                f"{self.path} is not there any more: it was moved or removed while it trained. Go "
                f"on with {way}"
            )

    def moved_to(self) -> Path | None:
        """Where the folder that this process holds was moved to; None: nowhere, or it is gone."""
        if self._descriptor is None or self._found() == self._held:
            return None
        return folder.place_of(self._descriptor)

    def held(self) -> str:
        """What to say to whoever wants it while another process writes to it."""
        status = self.status
        return (
            f"{self.path} is being written by process {status['pid']} on {status['host']}; "
            "wait for it, or give another output_dir"
        )

    def take_over(self) -> None:
        """Goes on where an earlier life stopped, and takes away what it left half-written."""
        status = self.status
        if status["state"] == "running":
            console.print(
                f"process {status['pid']} on {status['host']} ended without a status for "
                f"{self.path}; this one takes over"
            )
        self.set_status(status["state"])  # it may have been moved, and what fails is told here
        folder.clear_drafts(self.checkpoints)
        folder.clear_drafts(self.path, [*SEALED, MEMBERS, folder.MANIFEST])

    def drop_checkpoints(self, reason: str) -> None:
        """Keeps what the run was told and what it scored, without its weights.

        Such a run is no finished one: resumed, it trains again from its first step.
        """
        (self.path / folder.MANIFEST).unlink(missing_ok=True)
        self.set_status("interrupted", reason=reason)
        for one in self.checkpoints.iterdir():
            folder.remove(one)

    def finish(self, warning: str | None = None) -> None:
        """Seals the folder: from now on its manifest tells whether a file of the run was changed.

        What others put there is not hashed: a report, or what wandb keeps and may still write.

        Args:
            warning: why it is worth little; None: nothing tells that it is.
        """
        self.set_status("finished", warning=warning)
        top = checkpoint.best(self.checkpoints)
        about = {"versions": {"deeprec": __version__}, "best": top.path.name if top else None}
        about["made_from"] = self.made_from()
        own = [self.path / name for name in SEALED]
        own += [path for path in (self.path / MEMBERS,) if path.is_file()]
        folder.seal(self.path, KIND, about, [*own, *self.checkpoints.glob("step-*/*")])


def take_away_unmade(path: Path) -> None:
    """Takes away a run of weights from elsewhere that was killed before they were in it.

    Nobody can go on with it, and the command that began it makes it anew.

    Raises:
        ConfigError: another process is writing it.
    """
    run = RunFolder(path)
    is_run = all((path / name).is_file() for name in ("config.yaml", "status.json"))
    if is_run and not run.finished and not run.status.get("from_data", True):
        with run.locked():
            run.remove_if_empty()


def open_run(path: Path | str, which: Literal["best", "last"] = "best") -> Run:
    """A trained run: its model with the weights of a checkpoint, verified first.

    Of a finished run every file that its manifest names is verified. An unfinished run can be
    opened too, as soon as it has a checkpoint; then that checkpoint is. One that still trains may
    drop an old checkpoint while it is read; then a newer one is taken.

    Raises:
        ConfigError: there is no run, or it has no checkpoint yet.
        IntegrityError: a file of it was changed or is damaged; it is named.
    """
    try:
        return _open(Path(path), which)
    except (ConfigError, IntegrityError, FileNotFoundError):
        if not Path(path).is_dir() or not folder.is_locked(Path(path)):
            raise
    return _open(Path(path), which)


def _open(path: Path, which: Literal["best", "last"]) -> Run:
    run = RunFolder(path)
    run.check_is_run()
    if run.finished:
        folder.verify_named(run.path, KIND)  # reports lie there too
    origin = run.origin
    facts = Facts(**{name: origin[name] for name in Facts.__dataclass_fields__})
    found = (
        checkpoint.best(run.checkpoints)
        if which == "best"
        else checkpoint.newest_valid(run.checkpoints)[0]
    )
    if found is None:
        raise ConfigError(f"{path}: the run has no checkpoint yet; let it train for an epoch")
    if not run.finished:  # else its files are among those just verified
        found.verify()
    refuse_foreign(found, run)  # before config.yaml is read: damage may leave it readable
    config = run.config
    model = trained_model(config.model, facts, found)
    return Run(
        path=path,
        model=cast(Recommender, model.eval()),
        config=config,
        prepared=Path(origin["path"]),
        prepared_identity=origin["identity"],
        facts=facts,
        checkpoint=found,
    )


def refuse_to_overwrite(path: Path) -> None:
    """A new run needs a new or empty folder.

    Raises:
        ConfigError: something is in the way.
    """
    folder.refuse_inside(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if RunFolder(path).finished and (path / "config.yaml").is_file():
        raise ConfigError(f"{path} holds a finished run; give another output_dir")
    if (path / "config.yaml").is_file() and (path / "status.json").is_file():
        if folder.is_locked(path):
            raise ConfigError(RunFolder(path).held())
        raise ConfigError(
            f"{path} holds a run; go on with it by `deeprec train resume={path}`, or give "
            "another output_dir"
        )
    raise ConfigError(f"{path} is in the way; output_dir must be new or empty")


def refuse_foreign(found: Checkpoint, run: RunFolder) -> None:
    """A checkpoint of another config or other data is not one of this run.

    Raises:
        IntegrityError: naming what differs.
    """
    for name, value in run.made_from().items():
        if name != "versions" and found.manifest.get(name) != value:
            raise IntegrityError(
                f"{found.path}: was made with another {name} than {run.path} says now; "
                "restore the run's files, or train it again"
            )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with folder.writing_file(path) as draft:
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _read_json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not readable as JSON ({error})") from error
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise IntegrityError(f"{path}: is damaged, it lacks {', '.join(missing)}")
    return value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        where = " ".join(str(error).split())
        raise IntegrityError(f"{path}: not readable as YAML ({where})") from error
    if not isinstance(values, dict):
        raise IntegrityError(f"{path}: is damaged, it holds no keys")
    return cast(dict[str, Any], values)
