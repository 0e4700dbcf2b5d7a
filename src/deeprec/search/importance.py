"""Which of the searched settings told good trials from bad ones."""

import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from deeprec.search.distribution import distribution, parameter
from deeprec.search.space import Range
from deeprec.search.trial import Trial

FEWEST = 12  # trials from which anything is said
BEST_SHARE = 0.25  # of the trials, told from all of them


def importances(trials: Sequence[Trial], ranges: Mapping[str, Range]) -> dict[str, float]:
    """How far the best quarter of the trials keeps to a part of each setting's range.

    Shares that add up to 1, the largest first; empty where there are too few trials. A setting
    that only some trials tried is left out.

    Reference:
        Watanabe, Bansal, Hutter: PED-ANOVA (IJCAI 2023), as Optuna has it, for the best quarter
        in place of the best tenth, which would be two or three trials.
    """
    scored = [one for one in trials if one.state in ("whole", "short")]
    tried = {key: one for key, one in ranges.items() if _tried_by_most(key, scored)}
    known = [one for one in scored if tried.keys() <= one.values.keys()]
    if len(known) < FEWEST or not tried:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study = optuna.create_study(direction="maximize")
        for one in known:
            study.add_trial(
                optuna.trial.create_trial(
                    params={key: parameter(one.values[key], tried[key]) for key in tried},
                    distributions={key: distribution(ranges[key]) for key in tried},
                    value=one.score,
                )
            )
        return get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
        )


def _tried_by_most(key: str, trials: Sequence[Trial]) -> bool:
    return sum(key in one.values for one in trials) >= len(trials) - 1  # the defaults may lack it
