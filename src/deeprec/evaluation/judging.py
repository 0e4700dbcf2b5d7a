"""Goes over the judged users batch by batch and collects what each system's lists are worth.

Batches may be shared among processes: whoever takes a batch asks the same of it, and what comes
back is put in the order of the users, so one process and many give the same figures to the bit.

Shapes (legend in deeprec/batch.py): U judged users, G bands of a slice.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deeprec.batch import Batch
from deeprec.console import progress
from deeprec.data.judge import distinct
from deeprec.errors import DataError
from deeprec.evaluation.question import Question
from deeprec.evaluation.report import headline
from deeprec.evaluation.slices import IntArray, Slice
from deeprec.evaluation.system import System
from deeprec.metric import ranking
from deeprec.metric.hits import Hits
from deeprec.metric.tally import Tally

FloatArray = npt.NDArray[np.float64]
SLICED = {"ndcg": ranking.ndcg, "recall": ranking.recall}  # of slices and curves


@dataclass(frozen=True)
class Asked:
    """Who is asked what: all that a process needs to judge its share of the users."""

    question: Question
    systems: Sequence[System]
    slices: Sequence[Slice]
    cutoffs: Sequence[int]  # at which all systems have figures
    tally: Callable[[], Tally]  # a new one

    @property
    def headline(self) -> int:
        """The cutoff at which systems are compared, and slices judged."""
        return headline(self.cutoffs)


@dataclass
class Answers:
    """What one system's lists are worth.

    Args:
        tally: its metrics.
        banded: per slice of targets and metric, float64 [U, G]; NaN where a user took none of it.
        recommended: per slice of items, how many places of the lists went to each band, int64 [G].
        curve: ndcg and recall at each k of `curve_cutoffs`, float64 [U, cutoffs].
        found: what was met on the way, counted.
    """

    tally: Tally
    banded: dict[str, dict[str, list[FloatArray]]] = field(default_factory=dict)
    recommended: dict[str, IntArray] = field(default_factory=dict)
    curve: dict[str, list[FloatArray]] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)


@dataclass
class Judgement:
    """What a process found of its share of the users, in the order it asked about them.

    Args:
        user_rows: int64 [U].
        user_bands: per slice of users, the band of each, int64 [U].
        num_targets: per slice of targets, what users took of each band, int64 [G].
        answers: one per system.
    """

    user_rows: list[IntArray]
    user_bands: dict[str, list[IntArray]]
    num_targets: dict[str, IntArray]
    answers: list[Answers]

    @cached_property
    def order(self) -> IntArray:
        """What puts the users into the order of their rows, once all are there."""
        return np.argsort(np.concatenate(self.user_rows), kind="stable")

    def curve(self, answers: Answers) -> dict[str, list[float]]:
        """Mean ndcg and recall over all users at each k of `curve_cutoffs`."""
        return {
            name: np.concatenate(parts)[self.order].mean(0).tolist()
            for name, parts in answers.curve.items()
        }


def judge(asked: Asked, first: int = 0, step: int = 1) -> Judgement:
    """Asks every system for the lists of every batch, or of each `step`-th one.

    Raises:
        NonFiniteError: a system scores an item NaN.
    """
    question = asked.question
    found = Judgement([], {}, {}, [Answers(asked.tally()) for _ in asked.systems])
    before = [Counter(system.found) for system in asked.systems]
    share = f" ({step} processes)" if step > 1 else ""
    num_users = len(question.users) if first == 0 else 0  # the first process shows them all
    with progress(f"ranking for the {question.part}{share}", num_users, "users") as advance:
        for looked_at, batch in question.batches(first, step):
            if batch.num_users:
                _judge_batch(asked, batch, found)
            if first == 0:
                advance(min(looked_at * step, num_users))
    for answers, system, start in zip(found.answers, asked.systems, before, strict=True):
        answers.found = Counter(system.found)
        answers.found.subtract(start)
    return found


def judge_together(opened: Callable[[Any], Asked], config: Any, processes: int) -> Judgement:
    """As `judge`, the batches shared among processes, each of which opens the systems itself.

    Args:
        opened: a function of a module, so that another process finds it.
        config: what it is called with; can be pickled.
    """
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        shares = [
            pool.submit(_judge_share, opened, config, first, processes)
            for first in range(processes)
        ]
        return joined([share.result() for share in shares])


def joined(shares: Sequence[Judgement]) -> Judgement:
    """What several processes found, as if one had."""
    whole, *rest = shares
    for other in rest:
        whole.user_rows += other.user_rows
        for name, codes in other.user_bands.items():
            whole.user_bands.setdefault(name, []).extend(codes)
        _add(whole.num_targets, other.num_targets)
        for mine, theirs in zip(whole.answers, other.answers, strict=True):
            mine.tally.join(theirs.tally)
            mine.found.update(theirs.found)
            _add(mine.recommended, theirs.recommended)
            for name, parts in theirs.curve.items():
                mine.curve.setdefault(name, []).extend(parts)
            for name, metrics in theirs.banded.items():
                for metric, values in metrics.items():
                    mine.banded.setdefault(name, {}).setdefault(metric, []).extend(values)
    return whole


def refuse_empty(found: Judgement, question: Question) -> None:
    """Raises DataError where nobody could be judged."""
    if not found.user_rows:
        raise DataError(
            f"{question.prepared.path}: no user has anything in the {question.part} part to be "
            "judged on; prepare the events with a split that leaves something there, and with "
            "train_on=train or validation"
        )


def _judge_share(
    opened: Callable[[Any], Asked], config: Any, first: int, processes: int
) -> Judgement:
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    return judge(opened(config), first, processes)


def _judge_batch(asked: Asked, batch: Batch, found: Judgement) -> None:
    assert batch.target is not None
    found.user_rows.append(batch.user_rows.numpy())
    bands: dict[str, tuple[IntArray, int]] = {}
    for one in asked.slices:
        codes = one.codes(batch)
        if one.of == "users":
            found.user_bands.setdefault(one.name, []).append(codes)
            continue
        bands[one.name] = codes, len(one.bands)
        _add(found.num_targets, {one.name: np.bincount(codes, minlength=len(one.bands))})
    history = distinct(batch.history)
    num_candidates_B = asked.question.num_candidates(history)
    for system, answers in zip(asked.systems, found.answers, strict=True):
        items_BK = system.lists(batch, asked.question.k)
        hits = answers.tally.add(items_BK, batch.target, history, num_candidates_B)
        for name, values in _curve(hits, system.up_to(asked.question.k)).items():
            answers.curve.setdefault(name, []).append(values)
        _add(answers.recommended, _by_item_band(items_BK[:, : asked.headline], asked.slices))
        for name, (codes_N, num_bands) in bands.items():
            of_slice = answers.banded.setdefault(name, {})
            by_band = _by_band(hits, codes_N, num_bands, asked.headline)
            for metric, values_BG in by_band.items():
                of_slice.setdefault(metric, []).append(values_BG)


def curve_cutoffs(k: int) -> list[int]:
    """The k at which curves are drawn: evenly on a log scale, up to the longest list.

    Example:
        >>> curve_cutoffs(20)
        [1, 2, 3, 4, 5, 7, 10, 14, 20]
    """
    steps = 1 + round(2 * np.log2(k))
    return sorted({round(cutoff) for cutoff in np.geomspace(1, k, max(2, steps))})


def _curve(hits: Hits, longest: int) -> dict[str, FloatArray]:
    return {
        name: np.stack([metric(hits, k) for k in curve_cutoffs(longest)], 1)
        for name, metric in SLICED.items()
    }


def _by_item_band(items_BC: Tensor, slices: Sequence[Slice]) -> dict[str, IntArray]:
    """Per slice of items, how many places of the lists went to each band."""
    items_M = items_BC[items_BC >= 0].numpy()
    return {
        one.name: np.bincount(one.band_V[items_M], minlength=len(one.bands))
        for one in slices
        if one.band_V is not None
    }


def _add(sums: dict[str, IntArray], more: Mapping[str, IntArray]) -> None:
    for name, counts in more.items():
        sums[name] = sums[name] + counts if name in sums else counts


def _by_band(hits: Hits, codes_N: IntArray, num_bands: int, cutoff: int) -> dict[str, FloatArray]:
    """Ndcg and recall of each user where only what is in a band is relevant: [B, G]."""
    users_N = np.repeat(np.arange(hits.num_users), hits.num_relevant_U)
    num_relevant_BG = np.zeros((hits.num_users, num_bands), np.int64)
    np.add.at(num_relevant_BG, (users_N, codes_N), 1)
    codes_H = codes_N[hits.targets_H]
    of_bands = [hits.only(codes_H == g, num_relevant_BG[:, g]) for g in range(num_bands)]
    return {
        name: np.stack([metric(of_band, cutoff) for of_band in of_bands], 1)
        for name, metric in SLICED.items()
    }
