"""DSSTNE's text samples and index files.

    samples    sample TAB feature,value:feature,value:...
    index      label TAB number

A sample is a user here and a feature an item; the file formats keep their own words.
"""

import math
from array import array
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from deeprec import folder
from deeprec.errors import DataError


@dataclass
class Samples:
    """What text samples say, and what of them was passed over.

    Args:
        rows: sample -> its features and their values, float64; NaN of a feature without one.
    """

    rows: dict[str, tuple[list[str], Sequence[float]]] = field(default_factory=dict)
    num_without_tab: int = 0  # lines
    num_replaced: int = 0  # lines of a sample that a later line replaced

    @property
    def num_without_value(self) -> int:
        """Features that stand without a value."""
        every = chain.from_iterable(values for _, values in self.rows.values())
        return sum(map(math.isnan, every))

    @property
    def num_features(self) -> int:
        """Of all samples together."""
        return sum(len(features) for features, _ in self.rows.values())

    def unknown(self, index: Container[str]) -> Counter[str]:
        """How often each feature stands there that an index does not have."""
        every = chain.from_iterable(features for features, _ in self.rows.values())
        return Counter(feature for feature in every if feature not in index)

    def remarks(self) -> Iterator[str]:
        """What a person should know of the lines that count for nothing."""
        if self.num_without_tab:
            yield f"{self.num_without_tab:,} lines without a tab were left out"
        if self.num_replaced:
            yield f"{self.num_replaced:,} lines were replaced by a later line of the same sample"


def read_samples(path: Path) -> Samples:
    """Reads a file of samples, or the files of a folder in the order of their names.

    As in DSSTNE, empty features and blank lines are skipped, a line without a tab is left out, the
    first tab divides, and a later line of a sample replaces the earlier one. A carriage return at
    the end of a line is no part of it.

    Raises:
        DataError: there is no such file, it is not text, or a value is not a number.

    Reference:
        DSSTNE, `utils/NetCDFhelper.cpp`. Differs: an absent value is NaN, and not 0.
    """
    samples = Samples()
    labels: dict[str, str] = {}
    for file in _files(path):
        for number, line in enumerate(_lines(file), 1):
            if not line:
                continue
            sample, tab, data = line.partition("\t")
            if not tab:
                samples.num_without_tab += 1
                continue
            samples.num_replaced += sample in samples.rows
            samples.rows[sample] = _features(data, f"{file}: line {number}", labels)
    return samples


def read_index(path: Path) -> dict[str, int]:
    """Label -> number, in the order of the lines.

    Raises:
        DataError: a line has not exactly a label and a number, or one of them stands there twice.
    """
    index: dict[str, int] = {}
    numbers: set[int] = set()
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}: line {number}"
        fields = line.split("\t")
        if len(fields) != 2 or not fields[0] or not fields[1].strip().isdecimal():
            raise DataError(f"{where}: expected a label, one tab and a number, got {line[:80]!r}")
        if fields[0] in index:
            raise DataError(f"{where}: label {fields[0]!r} stands there twice; keep one of them")
        index[fields[0]] = int(fields[1])
        if index[fields[0]] in numbers:
            raise DataError(
                f"{where}: number {fields[1]} stands there twice; was it put together from two "
                "index files?"
            )
        numbers.add(index[fields[0]])
    return index


def write_index(path: Path, index: Mapping[str, int]) -> None:
    """Writes an index in the order of its numbers, whole or not at all."""
    with folder.writing_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        for label, number in sorted(index.items(), key=lambda entry: entry[1]):
            file.write(f"{label}\t{number}\n")


def looks_like_index(samples: Samples) -> bool:
    """Whether these lines are those of an index file: beside each label one of 0, 1, ..., once."""
    numbers = []
    for features, values in samples.rows.values():
        if len(features) != 1 or not math.isnan(values[0]) or not features[0].isdecimal():
            return False
        numbers.append(int(features[0]))
    return sorted(numbers) == list(range(len(numbers))) and len(numbers) > 1


def names_columns(index: Mapping[str, int]) -> bool:
    """Whether every label is its own number, as in an index of columns that nobody has named."""
    return all(label == str(number) for label, number in index.items())


def labels_of(index: Mapping[str, int], source: str) -> list[str]:
    """The labels by number.

    Raises:
        DataError: the numbers are not 0, 1, ... without a gap.
    """
    labels = sorted(index, key=index.__getitem__)
    if [index[label] for label in labels] != list(range(len(labels))):
        raise DataError(
            f"{source}: the numbers must be 0 to {len(labels) - 1}, each once; was it put together "
            "from two index files?"
        )
    return labels


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file())
    if not files:
        raise DataError(f"{path}: there is no file in this folder")
    return files


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                yield line.rstrip("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _features(data: str, where: str, labels: dict[str, str]) -> tuple[list[str], Sequence[float]]:
    """One line's features and values.

    Args:
        labels: every label met so far; a feature is one of these, and no text of its own each time.
    """
    features: list[str] = []
    values = array("d")
    for one in data.split(":"):
        if one:
            feature, *rest = one.split(",")
            features.append(labels.setdefault(feature, feature))
            values.append(_value(rest[0], where) if rest and rest[0] else math.nan)
    return features, values


def _value(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: expected a number after the comma, got {text[:80]!r}")
    return value
