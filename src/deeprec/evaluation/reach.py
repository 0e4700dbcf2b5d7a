"""How far the lists of a file reach: it has no figure at a cutoff that none of them fills.

Judged at 100, a list of 20 would lose to one of 100 whatever it holds. The longest list of a file
decides; single lists that end before it, as where a filter left a user fewer items, are judged as
they are.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from deeprec.data.judge import distinct
from deeprec.errors import ConfigError
from deeprec.evaluation.question import Question
from deeprec.evaluation.report import headline

T = TypeVar("T")


def reach_of(longest: int, question: Question) -> int | None:
    """The longest list of a file where it is too short for a cutoff; None where it is not.

    It is not where no user could have got more, as in a catalog of fewer items than the cutoff.
    """
    if longest >= question.k:
        return None
    batches = (batch for _, batch in question.batches() if batch.num_users)
    candidates = (question.num_candidates(distinct(batch.history)) for batch in batches)
    return longest if any((found_B > longest).any() for found_B in candidates) else None


def within(values: Mapping[str, T], k: int) -> dict[str, T]:
    """Of what is told per metric@k, what is told at cutoffs up to this one.

    Example:
        >>> within({"ndcg@10": 0.5, "ndcg@100": 0.4}, 20)
        {'ndcg@10': 0.5}
    """
    return {name: one for name, one in values.items() if int(name.rpartition("@")[2]) <= k}


def cutoffs_of_all(cutoffs: Sequence[int], reaches: Mapping[str, int]) -> list[int]:
    """The cutoffs at which every system has figures.

    Args:
        cutoffs: that were asked for.
        reaches: of the files that are too short for one, by their path.

    Raises:
        ConfigError: a file has figures at none.

    Example:
        >>> cutoffs_of_all([10, 20, 50], {"lists.parquet": 20})
        [10, 20]
    """
    for where, reach in reaches.items():
        if reach < min(cutoffs):
            shorter = f", or cutoffs=[{reach}]" if reach else ""
            raise ConfigError(
                f"{where} holds {reach} items at most, so it can be judged at none of the cutoffs "
                f"{list(cutoffs)}; give lists of {max(cutoffs)}{shorter}"
            )
    return [k for k in cutoffs if all(k <= reach for reach in reaches.values())]


def too_short(report: Mapping[str, Any]) -> Iterator[str]:
    """A line for each file whose lists are too short for a cutoff.

    Args:
        report: what report.json says.
    """
    cutoffs, k = report["protocol"]["cutoffs"], report["headline"]
    for system in report["systems"]:
        reach = system.get("reach")
        without = [str(cutoff) for cutoff in cutoffs if reach is not None and cutoff > reach]
        if without:
            kept = ",".join(str(cutoff) for cutoff in cutoffs if cutoff <= reach)
            moved = f", so all are compared at {k}" if k != headline(cutoffs) else ""
            yield (
                f"{Path(system['recommendations']).name} holds {reach} items at most: no figures "
                f"at {_and(without)}{moved}; give lists of {cutoffs[-1]} (recommend "
                f"k={cutoffs[-1]}), or cutoffs=[{kept}]"
            )


def _and(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
