"""Whether one system beats another on the users of a holdout, said with what is known and what not.

Both systems answered the same users, so what is looked at is each user's difference: that takes out
what makes users differ from one another.

U users, M metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from deeprec.metric.interval import bootstrap_intervals

FloatArray = npt.NDArray[np.float64]

FEW_USERS = 12  # up to which all 2^U signs are tried
SIGNS, SIGNS_EACH, MOST_SIGNS = 10_000, 200, 200_000  # else drawn: by the number of comparisons
LEVEL, POWER = 0.05, 0.8
BLOCK_CELLS = 4_000_000  # signs held at once


@dataclass(frozen=True)
class Comparison:
    """The first system minus the second on one metric, over the same users.

    Args:
        low, high: 95 % interval of the mean difference.
        p: of the sign-flip test; how often differences this large arise where the two are alike.
        holm: the same, corrected for how many comparisons the report makes.
        effect: mean difference in standard deviations of the differences (Cohen's d of pairs).
        better, worse: share of users for whom the first scores higher, lower.
        detectable: the true difference that would be told apart, after correction, in at least four
            of five holdouts of so many users; None where none would.
    """

    metric: str
    mean: float
    low: float
    high: float
    p: float
    holm: float
    effect: float
    better: float
    worse: float
    detectable: float | None

    @property
    def told_apart(self) -> bool:
        """Whether the corrected test rules out that the two are alike."""
        return self.holm < LEVEL

    def words(self, first: str, second: str, family: int) -> str:
        """What may be said.

        Args:
            family: comparisons that `holm` corrects for.
        """
        alone = ", uncorrected" if family > 1 else ""
        interval = f"95 % interval {self.low:+.4f} to {self.high:+.4f}{alone}"
        corrected = f" after Holm's correction for {family} comparisons" if family > 1 else ""
        p = "p < .001" if self.holm < 0.001 else f"p {self.holm:.3f}".replace("0.", ".", 1)
        if self.told_apart:
            relation = "higher" if self.mean > 0 else "lower"
            said = f"{first} scores {relation} than {second} on {self.metric}, by "
            return f"{said}{abs(self.mean):.4f} ({interval}; {p}{corrected})"
        if not (self.better or self.worse):
            return f"{first} and {second} score the same for every user on {self.metric}"
        said = f"{first} and {second} cannot be told apart on {self.metric}"
        if self.low > 0 or self.high < 0:  # one test of several, which together find something
            said += f", as one of {family} comparisons"
        if self.detectable is None:
            power = "so few users or so many comparisons could show none"
        else:
            power = (
                f"a true difference of {self.detectable:.4f} would be told apart in four of five "
                "such holdouts"
            )
        return f"{said} ({interval}; {p}{corrected}; {power})"


def compare(
    first: Mapping[str, FloatArray],
    others: Sequence[Mapping[str, FloatArray]],
    samples: int = 1000,
    seed: int = 0,
) -> list[list[Comparison]]:
    """The first system against each other one on each of its metrics.

    Holm's correction is over all of them together: others x metrics.

    Args:
        first: per metric, float64 [U].
        others: the same metrics of the same users in the same order.
        samples: bootstrap draws behind each interval.
        seed: of bootstrap and signs.

    Returns:
        Per other system, a comparison for each metric.

    Example:
        >>> ours, theirs = np.arange(30.0), np.arange(30.0) - np.tile([1.0, 2.0, 0.0], 10)
        >>> ((one,),) = compare({"ndcg@20": ours}, [{"ndcg@20": theirs}])
        >>> one.mean, one.better, one.told_apart
        (1.0, 0.6666666666666666, True)
    """
    pairs = [(other, metric) for other in range(len(others)) for metric in first]
    if not pairs:
        return []
    differences_UM = np.stack([first[m] - others[other][m] for other, m in pairs], 1)
    intervals = bootstrap_intervals(differences_UM, samples, seed, symmetric=True).T.tolist()
    p_M = sign_flip_p(differences_UM, seed)
    found = zip(pairs, intervals, p_M, holm(p_M), differences_UM.T, strict=True)
    compared: list[list[Comparison]] = [[] for _ in others]
    for (other, metric), (mean, low, high), p, corrected, difference_U in found:
        compared[other].append(
            Comparison(
                metric,
                mean,
                low,
                high,
                p=float(p),
                holm=float(corrected),
                effect=effect(difference_U),
                better=float((difference_U > 0).mean()),
                worse=float((difference_U < 0).mean()),
                detectable=detectable(difference_U, len(pairs)),
            )
        )
    return compared


def sign_flip_p(differences_UM: FloatArray, seed: int = 0) -> FloatArray:
    """Two-sided p of each metric's mean difference, by flipping the signs of users.

    Where two systems are alike, each user's difference is as likely as its negative. All 2^U signs
    are tried for few users, else 10,000 are drawn, or 200 for each comparison up to 200,000, the
    same for all metrics, and the observed one counts as one of them, so that p is never 0.

    Returns:
        float64 [M].

    Example:
        Of the 8 signs of three users, two reach a mean difference as large as that of equal signs:

        >>> sign_flip_p(np.array([[1.0], [2.0], [3.0]])).tolist()
        [0.25]

    Reference:
        Fisher's randomisation test, as Smucker, Allan and Carterette, A Comparison of Statistical
        Significance Tests for Information Retrieval Evaluation, CIKM 2007, recommend it.
    """
    num_users, family = differences_UM.shape
    observed_M = np.abs(differences_UM.sum(0))
    reach_M = observed_M - 1e-6 * np.abs(differences_UM).sum(0)  # a tie may round below
    if num_users <= FEW_USERS:
        bits = np.arange(2**num_users)[:, None] >> np.arange(num_users)
        signs = 1.0 - 2.0 * (bits & 1)
        all_p_M: FloatArray = (np.abs(signs @ differences_UM) >= reach_M).mean(0)
        return all_p_M
    draw = np.random.default_rng(seed)
    reached_M, num_signs = np.zeros(family), signs_drawn(family)
    block = max(1, BLOCK_CELLS // num_users)
    for start in range(0, num_signs, block):
        shape = min(block, num_signs - start), num_users
        # the sum under flipped signs is the sum less twice what was flipped
        flipped = draw.integers(2, size=shape, dtype=np.int8).astype(np.float32)
        sums = differences_UM.sum(0) - 2 * (flipped @ differences_UM.astype(np.float32))
        reached_M += (np.abs(sums) >= reach_M).sum(0)
    p_M: FloatArray = (reached_M + 1) / (num_signs + 1)
    return p_M


def signs_drawn(family: int) -> int:
    """For so many comparisons, whose correction by Holm the smallest p must come through."""
    return max(SIGNS, min(MOST_SIGNS, SIGNS_EACH * family))


def smallest_p(num_users: int, family: int) -> float:
    """What `sign_flip_p` gives where all users agree: two of all signs, and one of those drawn.

    Example:
        >>> smallest_p(3, family=1), smallest_p(1000, family=1) < 0.0001
        (0.25, True)
    """
    of_users = 0.5 ** (num_users - 1)
    return of_users if num_users <= FEW_USERS else max(of_users, 1 / (signs_drawn(family) + 1))


def holm(p_M: FloatArray) -> FloatArray:
    """P values corrected for their number, by Holm's step-down procedure.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
        [0.03, 0.06, 0.06]

    Reference:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statistics 1979.
    """
    order = np.argsort(p_M, kind="stable")
    factors = np.arange(len(p_M), 0, -1)
    corrected = np.empty(len(p_M))
    corrected[order] = np.maximum.accumulate(factors * p_M[order]).clip(max=1)
    return corrected


def effect(difference_U: FloatArray) -> float:
    """Mean difference in standard deviations of the differences; 0 where nothing differs.

    Reference:
        Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988: d of matched pairs.
    """
    spread = difference_U.std(ddof=1) if len(difference_U) > 1 else 0.0
    return float(difference_U.mean() / spread) if spread > 0 else 0.0


def detectable(difference_U: FloatArray, family: int = 1) -> float | None:
    """The true mean difference that is told apart from none with at least 80 % power.

    (z of 1 - 2.5 % / family + z of 80 %) standard errors, about 2.8 for one comparison: Holm's
    correction rejects whatever Bonferroni's does, and of several more.

    Args:
        family: comparisons that are corrected for.

    Returns:
        None where no difference would be: the smallest p of so few users, or of so many
        comparisons, comes through no correction.

    Example:
        >>> differences = np.tile([-1.0, 1.0], 200)
        >>> round(detectable(differences), 3), round(detectable(differences, family=15), 3)
        (0.14, 0.189)
    """
    if smallest_p(len(difference_U), family) * family >= LEVEL:
        return None
    error = difference_U.std(ddof=1) / np.sqrt(len(difference_U))
    return float((stats.norm.ppf(1 - LEVEL / 2 / family) + stats.norm.ppf(POWER)) * error)
