"""A system's entry in report.json: each metric with its interval, its exposure, its slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprec.evaluation.judging import SLICED, Answers, Judgement, curve_cutoffs
from deeprec.evaluation.reach import within
from deeprec.evaluation.report import Values, intervals
from deeprec.evaluation.slices import Slice
from deeprec.evaluation.system import System

FloatArray = npt.NDArray[np.float64]


def entry(
    system: System,
    name: str,
    values: Values,
    answers: Answers,
    found: Judgement,
    slices: Sequence[Slice],
    headline: int,
    longest: int,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """What report.json says of one system.

    Args:
        values: per metric, of each user, in the order of their rows.
        answers: what else was found of the system.
        found: which users and targets the slices hold.
        headline: the cutoff at which slices were judged.
        longest: the largest cutoff at which the system is judged, or its longest list before it.
    """
    told = {"name": name, "kind": system.kind, **system.source}
    if system.training:
        told["training"] = system.training
    if system.reach is not None:
        told["reach"] = system.reach
    if system.found:
        told["lists"] = dict(system.found)
    return {
        **told,
        "metrics": intervals(values, samples, seed),
        "exposure": within(answers.tally.shares(), longest),
        "curve": {"k": curve_cutoffs(longest), **found.curve(answers)},
        "slices": {
            one.name: _users(one, values, found, headline, samples, seed)
            if one.of == "users"
            else _targets(one, answers, found, samples, seed)
            for one in slices
        },
        "recommended": {name: counts.tolist() for name, counts in answers.recommended.items()},
    }


def bands(slices: Sequence[Slice], found: Judgement) -> list[dict[str, Any]]:
    """What the slices of a report divide, and how much is in each band."""
    return [
        {"name": one.name, "of": one.of, "says": one.says, "bands": list(one.bands)}
        | {"sizes": _sizes(one, found).tolist()}
        for one in slices
    ]


def _sizes(one: Slice, found: Judgement) -> npt.NDArray[np.int64]:
    if one.of == "users":
        return np.bincount(np.concatenate(found.user_bands[one.name]), minlength=len(one.bands))
    return found.num_targets[one.name]


def _users(
    one: Slice, values: Values, found: Judgement, headline: int, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Per band, the metrics of its users; None where there is none."""
    bands_U = np.concatenate(found.user_bands[one.name])[found.order]
    kept = {name: values[f"{name}@{headline}"] for name in SLICED}
    return [
        _band({name: values_U[bands_U == band] for name, values_U in kept.items()}, samples, seed)
        for band in range(len(one.bands))
    ]


def _targets(
    one: Slice, answers: Answers, found: Judgement, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Per band, how much of it was found, over the users who took any of it."""
    of_slice = answers.banded[one.name]
    banded = {name: np.concatenate(parts)[found.order] for name, parts in of_slice.items()}
    return [
        _band(
            {name: values[~np.isnan(values[:, band]), band] for name, values in banded.items()},
            samples,
            seed,
        )
        for band in range(len(one.bands))
    ]


def _band(values: Mapping[str, FloatArray], samples: int, seed: int) -> dict[str, Any]:
    num_users = len(next(iter(values.values())))
    found = intervals(values, samples, seed) if num_users else dict.fromkeys(values)
    return {"users": num_users, **found}
