"""Inputs of a network beside the history: what is given for them, by their data sets."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from deeprec.data.store import Prepared
from deeprec.dsstne.network import Network
from deeprec.dsstne.weights import Columns, columns_of, index_of
from deeprec.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Further:
    """An input beside the history: the feature index of its data set, and text samples of it."""

    index: Path
    samples: Path


def check_further(network: Network, given: Collection[str]) -> None:
    """Raises ConfigError unless all inputs beside the history are given, and no other."""
    wanted = [*network.further]
    for name in given:
        if name not in wanted:
            raise ConfigError(
                f"--input {name}: the network reads no such data set beside its history, "
                f"{network.history.data_set!r}; {did_you_mean(name, wanted)}"
            )
    if missing := [name for name in wanted if name not in given]:
        raise ConfigError(
            f"the network reads {', '.join(map(repr, missing))} too; give each as --input with the "
            "name of the data set and its files"
        )


def attribute_columns(network: Network, prepared: Prepared, name: str, path: Path) -> Columns:
    """The column of each value of a user attribute.

    Raises:
        ConfigError: its values are hashed.
        DataError: the index has none of them, or a column that the input does not have.
    """
    values, index = prepared.vocabularies[name], index_of(network.further[name], path)
    if isinstance(values, Mapping):
        raise ConfigError(
            f"{prepared.path} hashes the values of {name!r}, and columns have names; prepare it "
            f"without data.filters.hashed_attributes.{name}"
        )
    return columns_of(values, index, f"none of {len(values):,} values of {name!r} is in {path}")
