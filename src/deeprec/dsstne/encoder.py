"""The one file that DSSTNE's `encoder` is told: train, predict or validate, a network and data."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deeprec.console import console
from deeprec.dsstne.definition import COMMENT
from deeprec.dsstne.network_file import read_network
from deeprec.dsstne.remark import Remark, refuse, show
from deeprec.dsstne.train_data import (
    examples_of,
    input_weights,
    rows_of_examples,
    say_what_is_lost_of_inputs,
)
from deeprec.dsstne.train_network import Steps, train_network
from deeprec.dsstne.validate import validate
from deeprec.dsstne.weights import all_columns, new_model
from deeprec.errors import DataError, did_you_mean
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import ndcg, precision, recall
from deeprec.model.topk import top_k

COMMANDS = ("train", "predict", "validate")
CUTOFFS = range(1, 11)
SAYS = {
    "minibatch": "DSSTNE documents this and refuses it; its batch is 1024",
    "shuffleindices": "DSSTNE documents this here and refuses it; it is of the network",
    "predictionparameters": "DSSTNE documents this and refuses it",
}
OURS = {
    "checkpointinterval": "the run keeps its newest and its best checkpoint",
    "checkpointname": "the run keeps its newest and its best checkpoint",
}


@dataclass
class Told:
    """What such a file says; the defaults are those of DSSTNE."""

    command: str = ""
    network: str = ""
    data: tuple[str, ...] = ()
    seed: int = 1  # DSSTNE takes the time
    epochs: int = 0
    alpha: float = 0.1
    mu: float = 0.9
    decay: float = 0.001
    interval: int = 0
    multiplier: float = 0.5
    optimizer: str = "sgd"
    results: str = "network.nc"
    remarks: list[Remark] = field(default_factory=list)
    spelt: dict[str, str] = field(default_factory=dict)  # keys of the file, by their small letters


def encoder(path: Path, *, as_dsstne: bool = False) -> None:
    """Does what the file says; names in it are relative to where the command is called.

    Args:
        path: of the file.
        as_dsstne: with the conventions of DSSTNE where ours are others.

    Raises:
        ConfigError: the file has a key that DSSTNE refuses, or lacks one.
        DataError: it is no JSON.
    """
    told = read_told(path)
    show(told.remarks)
    refuse(path, told.remarks)
    network, data = Path(told.network), [Path(name) for name in told.data]
    if told.command == "predict":
        judge(network, data, ideal_of_all=as_dsstne)
    elif told.command == "validate":
        validate(definition=network, inputs=data, outputs=data)
    else:
        train_network(
            definition=network,
            inputs=data,
            outputs=data,
            network_file=Path(told.results),
            steps=Steps(
                epochs=told.epochs,
                alpha=told.alpha,
                decay=told.decay,
                interval=told.interval,
                multiplier=told.multiplier,
                mu=told.mu,
                optimizer="nesterov" if told.optimizer == "nesterov" else "sgd",
                seed=told.seed,
                as_dsstne=as_dsstne,
            ),
        )


def read_told(path: Path) -> Told:
    """The file, and what of it is refused or not carried.

    Raises:
        DataError: it is no JSON.
    """
    try:
        values = json.loads(COMMENT.sub(lambda found: found[1] or "", path.read_text("utf-8")))
        keys = dict(values.items())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a JSON object ({error})") from error
    told = Told()
    steps: Any = {}
    for key in [key for key in keys if key.lower() == "trainingparameters"]:
        steps = keys.pop(key)
        if not isinstance(steps, dict):
            told.remarks.append(Remark(key, "refused", f"must be an object, got {steps!r}"))
            steps = {}
    _take(told, keys, {"network": "network", "command": "command", "randomseed": "seed",
                       "data": "data", "version": ""})  # fmt: skip
    _take(told, steps,
          {"epochs": "epochs", "alpha": "alpha", "mu": "mu", "lambda": "decay",
           "alphainterval": "interval", "alphamultiplier": "multiplier",
           "optimizer": "optimizer", "results": "results"})  # fmt: skip
    told.command, told.optimizer = told.command.lower(), told.optimizer.lower()
    _check(told)
    return told


def _take(told: Told, keys: Mapping[str, Any], known: Mapping[str, str]) -> None:
    for key, value in keys.items():
        name = key.lower()
        told.spelt[name] = key
        if name in known:
            if known[name]:
                _take_one(told, key, value, known[name])
        elif name in OURS:
            told.remarks.append(Remark(key, "not carried", OURS[name]))
        else:
            unknown = f"DSSTNE knows no such key; {did_you_mean(name, known)}"
            told.remarks.append(Remark(key, "refused", SAYS.get(name, unknown)))


def _take_one(told: Told, key: str, value: Any, name: str) -> None:
    rule, read = KINDS[type(getattr(told, name))]
    try:
        setattr(told, name, read(value))
    except (TypeError, ValueError, OverflowError):
        told.remarks.append(Remark(key, "refused", f"must be {rule}, got {value!r}"))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    found = tuple(_text(one) for one in (value if isinstance(value, list) else [value]))
    return tuple(one for one in found if one)


def _whole(value: Any) -> int:
    found = int(value)
    if isinstance(value, bool) or found != float(value) or abs(found) >= 2**63:
        raise ValueError
    return found


def _real(value: Any) -> float:
    found = float(value)
    if isinstance(value, bool) or not math.isfinite(found):
        raise ValueError
    return found


KINDS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    str: ("a text", _text),
    tuple: ("a file, or a list of files", _texts),
    int: ("a whole number of 64 bits", _whole),
    float: ("a finite number", _real),
}


def _check(told: Told) -> None:
    known = {one.where.lower() for one in told.remarks}

    def refused(where: str, says: str) -> None:
        if where.lower() not in known:
            key = told.spelt.get(where.lower(), where)
            told.remarks.append(Remark(key, "refused", says))

    if told.command not in COMMANDS:
        refused("Command", f"expected one of {', '.join(COMMANDS)}, got {told.command!r}")
    if told.optimizer not in ("sgd", "nesterov"):
        refused(
            "Optimizer", f"sgd or nesterov, got {told.optimizer!r}; deeprec dsstne train has all"
        )
    if told.command == "train" and told.epochs < 1:
        refused("Epochs", "must be given, 1 or more")
    for name in ("network", "data"):
        if not getattr(told, name):
            refused(name.capitalize(), "must be given")


def judge(network_file: Path, data: Sequence[Path], *, ideal_of_all: bool = False) -> None:
    """Prints k, precision, recall and ndcg at k of 1 to 10, of all examples with an output.

    Data sets are those that the network reads, and their weights count as in training; in DSSTNE
    they must be called input and output. What an example has as input may be in its list. The ideal
    of ndcg is the best that a list of k can reach, or with `ideal_of_all` that of a list of all
    outputs, as in DSSTNE, which is lower.
    """
    network = read_network(network_file)
    model = new_model(network, all_columns(network), network_file)
    examples = examples_of(network, data, data)
    say_what_is_lost_of_inputs(examples)
    offsets, columns, _ = examples.history.rows()
    wanted_offsets, wanted, _ = examples.output.rows()
    history, ends = torch.from_numpy(columns), torch.from_numpy(offsets)
    attributes = {name: rows_of_examples(one) for name, one in examples.attributes.items()}
    weights = {name: torch.from_numpy(one) for name, one in input_weights(examples).items()}
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(len(offsets), dtype=torch.int64)
    with torch.no_grad():
        encoded = model.encode(history, ends, torch.zeros(0), attributes, weights)
        items, _ = top_k(encoded, model.item_weight, model.item_bias, max(CUTOFFS), *none)
    places, counts = [], []
    for row, having in zip(items.tolist(), np.split(wanted, wanted_offsets[1:-1])):
        relevant = {*having.tolist()}
        places.append([place for place, item in enumerate(row, 1) if item in relevant])
        counts.append(len(relevant))
    hits = Hits.at(places, num_relevant=counts)
    console.print("k,precision,recall,ndcg")
    for k in CUTOFFS:
        found = [metric(hits, k) for metric in (precision, recall, ndcg)]
        if ideal_of_all:
            found[2] = found[2] * _ideal(np.minimum(counts, k)) / _ideal(np.array(counts))
        means = [float(np.nanmean(each)) for each in found]
        console.print(f"{k}," + ",".join(f"{mean:6.4f}" for mean in means))


def _ideal(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The discounted gain of a list that begins with so many hits; NaN of none."""
    discounts = 1.0 / np.log2(np.arange(2, 2 + counts.max(initial=0)))
    gains = np.concatenate([[np.nan], np.cumsum(discounts)])
    found: npt.NDArray[np.float64] = gains[counts]
    return found
