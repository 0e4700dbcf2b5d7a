"""Lists of a network file for text samples, in the lines that DSSTNE's `predict` writes."""

import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from rich.markup import escape
from torch import Tensor

from deeprec import folder
from deeprec.console import console, progress
from deeprec.dsstne.further import Further, check_further
from deeprec.dsstne.network import Activation, LayerKind, Network
from deeprec.dsstne.network_file import read_network
from deeprec.dsstne.output import activated
from deeprec.dsstne.text import Samples, looks_like_index, read_samples
from deeprec.dsstne.weights import all_columns, index_of, new_model, rows_by_label
from deeprec.errors import ConfigError, DataError
from deeprec.model.layered import Layered
from deeprec.model.topk import BLOCK_ITEMS, top_k_of_blocks
from deeprec.serve import jagged

FilterMode = Literal["exclude", "multiply"]
LOOKS_LIKE_TIME = 1e8  # seconds since 1970 are above it from 1973 on
OUTPUT = "Output"


@dataclass(frozen=True)
class Some:
    """Some samples, in the indices of the model."""

    names: Sequence[str]
    items: Tensor  # int64 [N], what the samples have
    offsets: Tensor  # int64 [B + 1]
    attributes: Mapping[str, tuple[Tensor, Tensor]]  # what they have of further inputs
    filtered: Tensor  # int64 [F], what the filter names
    filtered_offsets: Tensor  # int64 [B + 1]
    factors: Tensor  # float32 [F]


class Answers:
    """A network that answers: activated scores of the features of its output index.

    Args:
        network: with its weights.
        inputs: feature index of the input.
        outputs: feature index of the output; a column that it does not name is not listed.
        attributes: by data set, feature index of each further input.
        source: where the network is from, for errors.
    """

    def __init__(
        self,
        network: Network,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        attributes: Mapping[str, Mapping[str, int]],
        source: Path,
    ) -> None:
        self.labels = sorted(outputs, key=outputs.__getitem__)
        more = [label for label in inputs if label not in outputs]  # read, never recommended
        self.known = {label: i for i, label in enumerate([*self.labels, *more])}
        further = {name: all_columns(network).attributes[name] for name in attributes}
        rows = rows_by_label(list(self.known), inputs, outputs, further)
        self.model: Layered = new_model(network, rows, source)
        self.inputs, self.attributes = inputs, attributes
        [self.output] = network.of_kind(LayerKind.OUTPUT)

    @torch.no_grad()
    def best(self, some: Some, k: int, mode: FilterMode) -> tuple[Tensor, Tensor]:
        """Items int64 [B, K] of the output, -1 where a list ends, and scores float32 [B, K]."""
        told = some.items, some.offsets, torch.zeros(0), some.attributes
        hidden_BD = self.model.encode(*told).hidden_BD
        if mode == "multiply":
            excluded, offsets = some.filtered[:0], torch.zeros_like(some.filtered_offsets)
        else:
            excluded, offsets = some.filtered, some.filtered_offsets
        normaliser_B1 = self._normaliser(hidden_BD)
        users_F = torch.repeat_interleave(some.filtered_offsets.diff())

        def score_block(start: int, stop: int) -> Tensor:
            scores_BC = self._scores(hidden_BD, start, stop)
            if mode == "exclude":
                return scores_BC  # the order is that of the activated ones, which saturate
            scores_BC = self._activated(scores_BC, normaliser_B1)
            here = (some.filtered >= start) & (some.filtered < stop)
            places = users_F[here], some.filtered[here] - start
            scores_BC[places] *= some.factors[here]
            return scores_BC

        num_items = len(self.labels)
        k = min(k, num_items)
        found = top_k_of_blocks(
            score_block, num_items, len(some.names), k, excluded, offsets, BLOCK_ITEMS
        )
        if mode == "multiply":
            return found
        return found[0], self._activated(found[1], normaliser_B1)

    def _scores(self, hidden_BD: Tensor, start: int, stop: int) -> Tensor:
        weight_CD = self.model.item_weight[start:stop]
        return torch.addmm(self.model.item_bias[start:stop], hidden_BD, weight_CD.T)

    def _normaliser(self, hidden_BD: Tensor) -> Tensor:
        """float32 [B, 1]: of a softmax over the features of the index."""
        if self.output.activation != Activation.SOFT_MAX:
            return hidden_BD.new_zeros(1, 1)
        starts = range(0, len(self.labels), BLOCK_ITEMS)
        blocks = [
            self._scores(hidden_BD, start, min(start + BLOCK_ITEMS, len(self.labels)))
            for start in starts
        ]
        return torch.stack([block.logsumexp(1) for block in blocks]).logsumexp(0)[:, None]

    def _activated(self, scores: Tensor, normaliser_B1: Tensor) -> Tensor:
        if self.output.activation == Activation.SOFT_MAX:
            return (scores - normaliser_B1).exp()
        return activated(self.output)(scores)


@dataclass(frozen=True)
class Question:
    """The text that is answered: samples, what they have of further inputs, and a filter."""

    asked: Samples
    beside: Mapping[str, Samples]  # by data set
    filtered: Samples

    def remarks(self, answers: Answers) -> Iterator[str]:
        """What a person should know of what counts for nothing."""
        yield from self.asked.remarks()
        unknown = self.asked.unknown(answers.inputs)
        if count := sum(unknown.values()):
            yield (
                f"{count:,} of {self.asked.num_features:,} features of the samples, "
                f"{len(unknown):,} different ones such as {next(iter(unknown))!r}, are not in the "
                "input index and count for nothing"
            )
        for name, beside in self.beside.items():
            yield from (f"{name}: {one}" for one in beside.remarks())
            if without := sum(sample not in beside.rows for sample in self.asked.rows):
                of_all = f"{without:,} of {len(self.asked.rows):,}"
                yield f"{name}: {of_all} samples have no line there"
            # no example: what is said of people may tell who they are
            if count := sum(beside.unknown(answers.attributes[name]).values()):
                yield (
                    f"{name}: {count:,} of {beside.num_features:,} features are not in its index "
                    "and count for nothing"
                )

    def batches(self, answers: Answers, size: int) -> Iterator[Some]:
        """The samples in their order, so many at once."""
        names = list(self.asked.rows)
        for start in range(0, len(names), size):
            yield self._some(names[start : start + size], answers)

    def _some(self, names: Sequence[str], answers: Answers) -> Some:
        known, inputs = answers.known, answers.inputs
        having = [
            [known[feature] for feature in self.asked.rows[name][0] if feature in inputs]
            for name in names
        ]
        filtered: list[list[int]] = []
        factors: list[float] = []
        for name in names:
            features, values = self.filtered.rows.get(name, ([], []))
            # the last of a repeated feature counts, as in DSSTNE's map
            named = {
                known[feature]: 0.0 if math.isnan(value) else value
                for feature, value in zip(features, values, strict=True)
                if feature in known and known[feature] < len(answers.labels)
            }
            filtered.append(list(named))
            factors.extend(named.values())
        attributes = {
            name: jagged([_values(self.beside[name], sample, index) for sample in names])
            for name, index in answers.attributes.items()
        }
        return Some(names, *jagged(having), attributes, *jagged(filtered), torch.tensor(factors))


def _values(samples: Samples, sample: str, index: Mapping[str, int]) -> list[int]:
    """The columns that a sample has of a further input, each once."""
    features, _ = samples.rows.get(sample, ([], []))
    return sorted({index[feature] for feature in features if feature in index})


def predict(
    *,
    name: str,
    network_file: Path,
    input_index: Path,
    output_index: Path,
    samples: Path,
    output: Path,
    further: Mapping[str, Further] | None = None,
    filters: Path | None = None,
    filter_mode: FilterMode = "exclude",
    batch: int = 1024,
    k: int = 100,
    score_format: str = "4.3f",
    layer: str = OUTPUT,
) -> None:
    """Writes the k best features of every sample, best first.

    Args:
        name: of the data set; DSSTNE needs the network's input to be called NAME_input.
        network_file: the network.
        input_index: feature index of the samples.
        output_index: feature index of what is recommended.
        samples: text, or a folder of it.
        output: the lists.
        further: by data set, what the network reads beside the samples, of samples of their names.
        filters: text in the form of samples: features that a sample should not be given.
        filter_mode: `exclude` leaves them out; `multiply` multiplies their scores by the value
            beside each, 0 where there is none, as DSSTNE does.
        batch: samples answered at once.
        k: features for each sample; as many as there are, if that is fewer.
        score_format: of printf, without the percent sign.
        layer: that is asked.

    Raises:
        ConfigError: a flag has no meaning, an input is missing, the lists would replace what is
            read, samples or filter are an index file, or the network is not one of ours.
        DataError: a file is not what it must be.
    """
    _check(k, batch, score_format)
    more = further or {}
    read = [path for one in more.values() for path in (one.index, one.samples)]
    _check_output(output, network_file, input_index, output_index, samples, filters, *read)
    answers = _opened(name, network_file, input_index, output_index, more, layer)
    told = Question(
        _samples("-r", samples),
        {name: _samples(f"--input {name}", one.samples) for name, one in more.items()},
        Samples() if filters is None else _samples("-f", filters),
    )
    for remark in chain(told.remarks(answers), _of_filter(told.filtered, filter_mode)):
        console.print(f"[yellow]note[/yellow] {escape(remark)}", soft_wrap=True)
    if not told.asked.rows:
        raise DataError(f"{samples}: holds no samples")
    lists = (
        _lines(answers, some, k, filter_mode, score_format) for some in told.batches(answers, batch)
    )
    count = len(told.asked.rows)
    _write(output, lists, count)
    console.print(f"{output}: {count:,} lists of up to {k} features", soft_wrap=True)


def _write(output: Path, lists: Iterable[list[str]], total: int) -> None:
    """The lines of some samples after those of others, whole or not at all."""
    with (
        folder.writing_file(output) as draft,
        draft.open("w", encoding="utf-8") as file,
        progress("recommending", total, "samples") as advance,
    ):
        for lines in lists:
            file.writelines(lines)
            advance(len(lines))


def _opened(
    name: str,
    network_file: Path,
    input_index: Path,
    output_index: Path,
    further: Mapping[str, Further],
    layer: str,
) -> Answers:
    """The network with its index files, which were found to fit it."""
    network = read_network(network_file)
    _check_names(network, name, layer)
    check_further(network, further)
    indices = {name: index_of(network.further[name], one.index) for name, one in further.items()}
    known = index_of(network.history, input_index), index_of(network.layer(layer), output_index)
    return Answers(network, *known, indices, network_file)


def _check_output(output: Path, *read: Path | None) -> None:
    """What is read is not written over."""
    for path in read:
        if path is not None and output.resolve() == path.resolve():
            raise ConfigError(
                f"-s must be a file of its own, {path} is read; name another for lists"
            )
        if path is not None and output.resolve().parent == path.resolve():
            raise ConfigError(f"-s {output} lies in {path}, all of which is read as samples")


def _samples(flag: str, path: Path) -> Samples:
    found = read_samples(path)
    if looks_like_index(found):
        raise ConfigError(
            f"{flag} must be text samples, `sample TAB feature,value:feature,value:...`, and "
            f"{path} reads as an index file: {len(found.rows):,} labels and the numbers from 0 on. "
            "Give the text that the index was made of; if these are samples, write `,0` behind "
            "each feature"
        )
    return found


def _lines(answers: Answers, some: Some, k: int, mode: FilterMode, score_format: str) -> list[str]:
    items_BK, scores_BK = answers.best(some, k, mode)
    form, lines = f"%{score_format}", []
    for name, items, scores in zip(some.names, items_BK.tolist(), scores_BK.tolist(), strict=True):
        told = "".join(
            f"{answers.labels[item]},{form % score}:"
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        )
        lines.append(f"{name}\t{told}\n")
    return lines


def _of_filter(told: Samples, mode: FilterMode) -> Iterator[str]:
    every = chain.from_iterable(row for _, row in told.rows.values())
    values = array("d", (value for value in every if not math.isnan(value)))
    highest = max(values, default=-math.inf)
    if mode == "multiply" and highest > LOOKS_LIKE_TIME:
        yield (
            f"values of the filter reach {highest:.0f} and look like timestamps; multiplied with "
            "them, these features come first in every list. --filter-mode exclude leaves them out"
        )
    elif mode == "exclude" and any(0.0 < value < LOOKS_LIKE_TIME for value in values):
        yield (
            "values of the filter are not read: what it names is left out. --filter-mode multiply "
            "multiplies scores by them, as DSSTNE does"
        )


def _check(k: int, batch: int, score_format: str) -> None:
    for name, value in (("-k", k), ("-b", batch)):
        if value < 1:
            raise ConfigError(f"{name} must be 1 or more, got {value}")
    if re.search(r"\d{4}", score_format):
        raise ConfigError(f"-p must give a score 999 places or fewer, got {score_format!r}")
    try:
        f"%{score_format}" % 0.5  # noqa: B018  # asks whether it is a format
    except (TypeError, ValueError) as error:
        raise ConfigError(f"-p must be a format such as 4.3f, got {score_format!r}") from error


def _check_names(network: Network, name: str, layer: str) -> None:
    outputs = [one.name for one in network.of_kind(LayerKind.OUTPUT)]
    if layer not in outputs:
        raise ConfigError(f"-l must be the output layer, {', '.join(outputs)}, got {layer!r}")
    wanted = network.history.data_set
    if wanted != f"{name}_input":
        console.print(
            f"[yellow]note[/yellow] the network reads data set {wanted!r}, not {name}_input, which "
            "DSSTNE would refuse; here the input index says what the columns are",
            soft_wrap=True,
        )
