"""Text samples to a data set of DSSTNE, with the index files that give features their columns."""

from array import array
from collections.abc import Mapping, MutableSequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Literal

from deeprec import folder
from deeprec.console import console
from deeprec.dsstne.data_set import DataSet, aligned, sparse, write_data_sets
from deeprec.dsstne.text import Samples, labels_of, read_index, read_samples, write_index
from deeprec.errors import ConfigError, DataError

Kind = Literal["indicator", "analog"]
Row = tuple[list[int], MutableSequence[float]]  # columns and values


@dataclass
class Indexed:
    """Samples as rows of columns, and the indices that made them so."""

    data_set: DataSet
    features: dict[str, int]
    samples: dict[str, int]
    num_unknown: int  # features left out, because the index does not have them
    num_without_line: int  # samples of the index that are not among those read


def generate(
    *,
    name: str,
    samples: Path,
    output: Path,
    feature_index: Path,
    sample_index: Path,
    grow: Literal["no", "create", "merge"] = "no",
    kind: Kind = "indicator",
) -> None:
    """Writes a data set file, and the index files where they grew.

    Args:
        name: of the data set.
        samples: a text file, or a folder of them.
        output: the NetCDF file.
        feature_index: made with `create`, read and extended with `merge`, read otherwise.
        sample_index: read and extended if it is there, made otherwise; each of its samples gets
            a row.
        grow: what becomes of features that the index does not have; `no` leaves them out.
        kind: indicators, or analog values.

    Raises:
        ConfigError: there is no feature index and none is to be made, or two files are one.
        DataError: a file is not what it must be.
        ResourceError: a file cannot be written; then none of them was changed.
    """
    _check_places(samples, output, feature_index, sample_index)
    if grow != "create" and not feature_index.is_file():
        raise ConfigError(f"{feature_index}: there is no feature index; say -c to create it")
    features = {} if grow == "create" else read_index(feature_index)
    known_samples = read_index(sample_index) if sample_index.is_file() else {}
    labels_of(known_samples, str(sample_index))
    if grow == "merge":
        labels_of(features, str(feature_index))  # a new one gets the number after these
    read = read_samples(samples)
    if not read.rows:
        raise DataError(f"{samples}: holds no samples")
    told = indexed(
        read, name=name, features=features, samples=known_samples, grows=grow != "no", kind=kind
    )
    for remark in (*read.remarks(), *_remarks(told, read, kind)):
        console.print(f"[yellow]note[/yellow] {remark}", soft_wrap=True)
    grown = {}
    if grow == "create" or len(told.features) > len(features):
        grown[feature_index] = told.features
    if len(told.samples) > len(known_samples):
        grown[sample_index] = told.samples
    was_there = output.exists(), grow == "create" and feature_index.exists()
    _write(output, told.data_set, grown)
    _tell(told, output)
    _tell_what_is_gone(output, feature_index, *was_there)


def _check_places(samples: Path, *written: Path) -> None:
    """No file stands for two, and what is read is not written over."""
    places = [path.resolve() for path in (samples, *written)]
    for path, place in zip((samples, *written), places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"-i, -o, -f and -s must be four files, got {path} twice")
        if place.parent == places[0]:
            raise ConfigError(f"{path} lies in {samples}, all of which is read as samples")


def _write(output: Path, data_set: DataSet, indices: Mapping[Path, Mapping[str, int]]) -> None:
    """Puts all in place or nothing: first the indices, which may say more than a data set needs."""
    with ExitStack() as stack:  # what is entered last is put in place first
        write_data_sets(stack.enter_context(folder.writing_file(output)), [data_set])
        for path, index in indices.items():
            write_index(stack.enter_context(folder.writing_file(path)), index)


def indexed(
    read: Samples,
    *,
    name: str,
    features: Mapping[str, int],
    samples: Mapping[str, int],
    grows: bool,
    kind: Kind,
) -> Indexed:
    """A row for each sample of the index, in its order, and then for each new one.

    Data sets are paired by place, so a sample that is not among those read has an empty row.

    Raises:
        DataError: nothing is left.
    """
    columns, numbers = dict(features), dict(samples)
    rows: dict[int, Row] = {i: ([], array("d")) for i in numbers.values()}
    num_unknown = 0
    for sample, (labels, values) in read.rows.items():
        row, held = rows.setdefault(numbers.setdefault(sample, len(numbers)), ([], array("d")))
        for label, value in zip(labels, values, strict=True):
            if grows:
                columns.setdefault(label, len(columns))
            if label in columns:
                row.append(columns[label])
                held.append(0.0 if isnan(value) else value)
            else:
                num_unknown += 1
    if not any(row for row, _ in rows.values()):
        raise DataError(f"no feature of {len(read.rows):,} samples is in the feature index")
    ordered = [rows[number] for number in sorted(rows)]
    analog = [held for _, held in ordered] if kind == "analog" else None
    width = aligned(max(columns.values()) + 1)
    data_set = sparse(name, width, [row for row, _ in ordered], analog)
    return Indexed(data_set, columns, numbers, num_unknown, len(numbers) - len(read.rows))


def _remarks(told: Indexed, read: Samples, kind: Kind) -> list[str]:
    found = []
    if told.num_without_line:
        found.append(
            f"{told.num_without_line:,} of {len(told.samples):,} samples of the index have no line "
            "and got an empty row, so that rows stay beside those of other data sets made with it"
        )
    if told.num_unknown:
        found.append(
            f"{told.num_unknown:,} features that are not in the index were left out; -m extends it"
        )
    if kind == "analog" and read.num_without_value:
        found.append(
            f"{read.num_without_value:,} features stand without a value and are stored as 0, as "
            "DSSTNE does; write feature,1 to mean 1"
        )
    return found


def _tell(told: Indexed, output: Path) -> None:
    data_set = told.data_set
    assert data_set.indices is not None
    console.print(
        f"{output}: data set {data_set.name!r}, {data_set.num_examples:,} samples, "
        f"{len(data_set.indices):,} features of {len(told.features):,}, width {data_set.width:,}",
        soft_wrap=True,
    )


def _tell_what_is_gone(output: Path, feature_index: Path, data_set: bool, index: bool) -> None:
    """DSSTNE replaces both without a word."""
    if data_set:
        console.print(f"[yellow]note[/yellow] replaced {output}, which was there", soft_wrap=True)
    if index:
        console.print(
            f"[yellow]note[/yellow] replaced {feature_index}, which was there; where it had other "
            "numbers, data sets and networks made with it do not fit the new one",
            soft_wrap=True,
        )
