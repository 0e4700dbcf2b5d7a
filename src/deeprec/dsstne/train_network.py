"""Trains a network definition on data sets, as DSSTNE's `train` does, with any optimizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from deeprec import config, folder
from deeprec.console import console
from deeprec.data import store
from deeprec.dsstne.definition import read_definition
from deeprec.dsstne.mapped import Mapped
from deeprec.dsstne.mapping import mapped
from deeprec.dsstne.network import LayerKind, Network
from deeprec.dsstne.network_file import write_network
from deeprec.dsstne.remark import refuse, show
from deeprec.dsstne.target_values import read_values
from deeprec.dsstne.train_data import choice_of, examples_of, prepare_data
from deeprec.dsstne.weights import all_columns, take
from deeprec.errors import ConfigError
from deeprec.model.layered import Layered
from deeprec.train import train
from deeprec.trainer.constraints import Constraints
from deeprec.trainer.rate import ByEpochs, Inverse
from deeprec.trainer.run import open_run
from deeprec.verb import TrainConfig

OptimizerName = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam"]
OPTIMIZERS = get_args(OptimizerName)


@dataclass(frozen=True)
class Steps:
    """How a network is trained; the defaults are those of `train`."""

    epochs: int = 40
    batch: int = 1024
    alpha: float = 0.025  # learning rate
    decay: float = 0.0001  # lambda: share of weights lost at a step, times alpha
    l1_decay: float = 0.0  # lambda1: what a weight moves towards 0 at a step, times alpha
    interval: int = 0  # AlphaInterval: epochs after which alpha changes; 0: it stays
    multiplier: float = 0.5  # AlphaMultiplier: what it is multiplied with then
    mu: float = 0.5  # momentum, smoothing, or the first beta of Adam
    mu1: float = 0.0  # second beta of Adam
    optimizer: OptimizerName = "sgd"
    seed: int = 12134
    as_dsstne: bool = False  # with its conventions, where ours are others

    def part(
        self, of_network: Mapping[str, float] = MappingProxyType({}), *, between: bool = True
    ) -> dict[str, Any]:
        """The config part of the optimizer.

        Args:
            of_network: constraints that its definition says.
            between: whether it has weights from one hidden layer to another.
        """
        rate = {"lr": self.alpha}
        own: dict[str, dict[str, Any]] = {
            "sgd": rate,
            "momentum": {**rate, "momentum": self.mu},
            "nesterov": {**rate, "momentum": self.mu},
            "adagrad": rate,
            "rmsprop": {**rate, "smoothing": self.mu},
            "adadelta": {"smoothing": self.mu},
            "adam": {**rate, "betas": [self.mu, self.mu1]},
        }
        shrunk = {
            "weight_decay": self.decay if between else 0.0,
            "table_weight_decay": self.decay,
        }
        found: dict[str, Any] = {**own[self.optimizer], **shrunk, "warmup_steps": 0, "decay": 0.0}
        if constraints := self._constraints(of_network, between=between):
            found["constraints"] = constraints
        return found if self.optimizer == "adadelta" else {**found, "table_lr": None}

    def _constraints(
        self, of_network: Mapping[str, float], *, between: bool
    ) -> dict[str, Any] | None:
        told = dict(of_network)
        if self.l1_decay:
            told["table_l1_decay"] = self.l1_decay
            told |= {"l1_decay": self.l1_decay} if between else {}
        return {"_target_": _path(Constraints), **told} if told else None

    def rates(self, decay: float) -> dict[str, Any] | None:
        """The config part of how learning rates change.

        Args:
            decay: of the network.

        Raises:
            ConfigError: both say so.
        """
        if not self.interval:
            return {"_target_": _path(Inverse), "decay": decay} if decay else None
        if decay:
            raise ConfigError(
                f"AlphaInterval={self.interval} and decay={decay:g} of the network both change the "
                "learning rate; leave one of them out"
            )
        told = {"every_epochs": self.interval, "factor": self.multiplier}
        return {"_target_": _path(ByEpochs), **told}


def _path(part: type) -> str:
    return f"{part.__module__}.{part.__qualname__}"


def train_network(
    *,
    definition: Path,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    network_file: Path,
    steps: Steps,
) -> None:
    """Writes the trained network, and keeps beside it the run and the data that it was trained on.

    Until the network is there, the same command goes on with the run, however it was stopped.

    Args:
        definition: JSON.
        inputs: data set files, which have the data sets of the input layers.
        outputs: likewise of the output layer.
        network_file: a new file; NAME.run and NAME.prepared are put beside it.
        steps: how.

    Raises:
        ConfigError: the network file is there already, a run of other settings or data is, there
            would be no step, or something of the network is refused.
        DataError: the data sets do not fit together.
    """
    for flag, count in (("-e", steps.epochs), ("-b", steps.batch)):
        if count < 1:
            raise ConfigError(f"{flag} must be 1 or more, got {count}")
    if network_file.exists():
        raise ConfigError(
            f"{network_file} is there already; name another network, or move it and the run that "
            f"made it, {network_file.with_suffix('.run')}, away"
        )
    network, to = _read(definition)
    examples = examples_of(network, inputs, outputs)
    prepared, run = (network_file.with_suffix(end) for end in (".prepared", ".run"))
    [output] = network.of_kind(LayerKind.OUTPUT)
    weigh = read_values(to, network, output, examples.output)
    data_sets = [folder.sha256(path) for path in (*inputs, *outputs)]
    if run.exists():
        choice = _choice_of(run, prepared, data_sets)
    else:
        choice = prepare_data(prepared, examples, weigh=weigh, data_sets=data_sets)
    target = [f"target={choice}", *(["target.weigh=true"] if weigh else [])]
    told = _config(to, steps, target, prepared, run)
    train(replace(told, resume="auto"), says_next=False)
    _write(network, run, network_file)


def _choice_of(run: Path, prepared: Path, data_sets: Sequence[str]) -> str:
    """The choice of `target` that a run was begun with.

    Raises:
        ConfigError: it was begun with other data sets.
    """
    manifest = folder.read_manifest(prepared, store.KIND)
    if manifest.get("data_sets") != data_sets:
        raise ConfigError(
            f"{run} was trained on other data sets; give those, name another network, or move "
            f"{run} and {prepared} away"
        )
    return choice_of(manifest)


def _read(definition: Path) -> tuple[Network, Mapped]:
    """The network and its parts, after what differs from DSSTNE was said."""
    network, remarks = read_definition(definition)
    to = Mapped() if any(one.outcome == "refused" for one in remarks) else mapped(network)
    remarks = [*remarks, *to.remarks]
    show(one for one in remarks if one.outcome not in ("mapped", "ignored by DSSTNE"))
    refuse(definition, remarks)
    return network, to


def _config(to: Mapped, steps: Steps, target: list[str], prepared: Path, run: Path) -> TrainConfig:
    choices = {**to.choices, "optimizer": steps.optimizer}
    choices.pop("rate", None)  # a step says it too
    words = [*target, *(f"{group}={choice}" for group, choice in choices.items())]
    words += [f"prepared={prepared}", f"output_dir={run}", "logger.wandb=off"]
    words += [f"trainer.max_epochs={steps.epochs}", f"trainer.batch_users={steps.batch}"]
    words += ["trainer.save_every_epochs=10", f"seed={steps.seed}"]
    words += ["compatibility=dsstne", "brake=leaps"] if steps.as_dsstne else []
    told = cast(TrainConfig, config.compose("train", words))
    assert told.loss is not None
    assert told.optimizer is not None
    return replace(
        told,
        model={**told.model, **to.model},
        loss={**told.loss, **to.loss},
        optimizer={
            **told.optimizer,
            **steps.part(to.constraints, between=_between(to.model["layers"])),
        },
        rate=steps.rates(to.rate.get("decay", 0.0)),
    )


def _between(layers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are weights from one hidden layer to another."""
    names = {layer["name"] for layer in layers}
    weighing = [layer for layer in layers if layer.get("pooling", "none") == "none"]
    return any(names & {*layer["sources"]} for layer in weighing)


def _write(network: Network, run: Path, network_file: Path) -> None:
    model = open_run(run, "last").model
    assert isinstance(model, Layered)
    take(network, all_columns(network), model)
    write_network(network_file, network)
    console.print(
        f"network: {network_file}\n"
        f"next: deeprec dsstne predict -n {network_file} ... for lists, or import-weights for a "
        "run over the items of a prepared folder, which evaluates, exports and serves",
        soft_wrap=True,
    )
