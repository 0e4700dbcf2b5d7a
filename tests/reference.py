"""Slow, obvious truth: what the fast code must equal, in plain loops over plain lists."""

import itertools
import math

import torch
from torch import Tensor


def rows(values: Tensor, offsets: Tensor) -> list[list[float]]:
    """The rows of a jagged tensor, as lists."""
    ends = offsets.tolist()
    return [values[a:b].tolist() for a, b in itertools.pairwise(ends)]


def dense_scores(encoded: object, item_weight: Tensor, item_bias: Tensor) -> Tensor:
    """[B, V]: every score, repeat scores in their place one by one; differentiable."""
    hidden, items, offsets, repeats = encoded  # type: ignore[misc]
    scores = hidden @ item_weight.T + item_bias
    for user in range(hidden.shape[0]):
        for at in range(int(offsets[user]), int(offsets[user + 1])):
            one = torch.zeros_like(scores)
            one[user, int(items[at])] = 1
            scores = scores * (1 - one) + one * repeats[at]
    return scores


def top_k(
    scores: list[list[float]], k: int, excluded: list[list[int]]
) -> tuple[list[list[int]], list[list[float]]]:
    """Best first, equal scores by lower index, padded with -1 and -inf."""
    lists, values = [], []
    for row, banned in zip(scores, excluded, strict=True):
        forbidden = set(banned)
        allowed = [j for j in range(len(row)) if j not in forbidden and row[j] != -math.inf]
        best = sorted(allowed, key=lambda j: (-row[j], j))[:k]
        lists.append(best + [-1] * (k - len(best)))
        values.append([row[j] for j in best] + [-math.inf] * (k - len(best)))
    return lists, values


def metrics(ranked: list[int], relevant: set[int], k: int, candidates: int) -> dict[str, float]:
    """Every ranking metric of one list at cutoff k, as the glossary defines them."""
    top = ranked[:k]
    gains = [1.0 if item in relevant else 0.0 for item in top] + [0.0] * (k - len(top))
    best = min(k, len(relevant))
    precisions = [sum(gains[: p + 1]) / (p + 1) for p in range(k) if gains[p]]
    first = next((p + 1 for p in range(k) if gains[p]), None)
    return {
        "precision": sum(gains) / k,
        "recall": sum(gains) / len(relevant),
        "recall_capped": sum(gains) / best,
        "hit": float(any(gains)),
        "ndcg": sum(g / math.log2(p + 2) for p, g in enumerate(gains))
        / sum(1 / math.log2(p + 2) for p in range(best)),
        "map": sum(precisions) / best,
        "mrr": 1 / first if first else 0.0,
        "r_precision": sum(gains[: len(relevant)]) / len(relevant),
        "auc": auc(ranked, relevant, k, candidates),
    }


def auc(ranked: list[int], relevant: set[int], k: int, candidates: int) -> float:
    """Pairs of a relevant and another candidate in the right order, a tied pair one half.

    Places of unknown items push what follows down, as long as there are others to stand there.
    """
    while ranked and ranked[-1] == -1:
        ranked = ranked[:-1]
    top = ranked[:k]
    others = candidates - len(relevant)
    if not others:
        return 1.0
    above, right = 0, 0.0
    for item in top:
        if item in relevant:
            right += max(0, others - above)
        else:
            above += 1
    unlisted = len(relevant - set(top))
    return (right + unlisted * max(0, others - above) / 2) / (len(relevant) * others)


def exposure(
    lists: list[list[int]],
    histories: list[set[int]],
    popularity: list[int],
    num_users: int,
    codes: list[int],
    vectors: list[list[float]],
    k: int,
) -> dict[str, object]:
    """What lists show: per user, and over the catalog, at cutoff k; -1 is an empty place."""
    shown = [[item for item in items[:k] if item >= 0] for items in lists]
    counts = [sum(item in items for items in shown) for item in range(len(popularity))]
    ranked = sorted(range(len(popularity)), key=lambda i: (-popularity[i], i))
    total = max(1, sum(counts))

    def mean(worth: list[float]) -> float:
        return sum(worth) / len(worth) if worth else 0.0

    def pairs(items: list[int]) -> list[tuple[int, int]]:
        return list(itertools.combinations(items, 2))

    def differ(a: int, b: int) -> float:
        return float(codes[a] == -1 or codes[b] == -1 or codes[a] != codes[b])

    def distance(a: int, b: int) -> float:
        dot = sum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))
        return 1 - dot / math.hypot(*vectors[a]) / math.hypot(*vectors[b])

    def head(share: float) -> float:
        warm = [i for i in ranked if popularity[i]]
        return sum(counts[i] for i in warm[: math.ceil(share * len(warm))]) / total

    size = len(popularity)
    gaps = sum(abs(a - b) for a in counts for b in counts)
    users = list(itertools.combinations(shown, 2))
    return {
        "popularity": [mean([popularity[i] / num_users for i in items]) for items in shown],
        "novelty": [
            mean([-math.log2((popularity[i] + 1) / (num_users + 1)) for i in items])
            for items in shown
        ],
        "repeats": [
            mean([float(i in had) for i in items])
            for items, had in zip(shown, histories, strict=True)
        ],
        "diversity.kind": [mean([differ(a, b) for a, b in pairs(items)]) for items in shown],
        "diversity.embedding": [mean([distance(a, b) for a, b in pairs(items)]) for items in shown],
        "coverage": sum(c > 0 for c in counts) / size,
        "gini": gaps / (2 * size * sum(counts)) if sum(counts) else 0.0,
        "head_1": head(0.01),
        "head_10": head(0.1),
        "overlap": mean([len(set(a) & set(b)) / k for a, b in users]),
    }


def propensity_weights(popularity: list[int], power: float, smallest: float) -> list[float]:
    """Of each item one over its propensity, such that interactions weigh 1 on average."""
    weights = []
    for count in popularity:
        propensity = (max(count, 1) / max(popularity)) ** power
        weights.append(1 / max(propensity, smallest))
    total = sum(weight * count for weight, count in zip(weights, popularity, strict=True))
    return [weight * sum(popularity) / total for weight in weights]


def adjusted_scores(
    scores: Tensor, popularity: list[int], temperature: float, adjustment: float
) -> Tensor:
    """[B, V] scores as a softmax is trained on them."""
    shares = [max(count, 1) / sum(max(one, 1) for one in popularity) for count in popularity]
    more = [adjustment * math.log(share) for share in shares]
    return scores / temperature + torch.tensor(more, dtype=scores.dtype)


OUTPUTS = {  # by name: of scores, an elu's alpha 1.5, a selu's scale 1.2, a leaky slope of .2
    "identity": lambda s: s,
    "sigmoid": lambda s: 1 / (1 + torch.exp(-s)),
    "tanh": lambda s: (torch.exp(s) - torch.exp(-s)) / (torch.exp(s) + torch.exp(-s)),
    "relu": lambda s: torch.where(s > 0, s, 0 * s),
    "leaky_relu": lambda s: torch.where(s > 0, s, 0.2 * s),
    "elu": lambda s: torch.where(s > 0, s, 1.5 * (torch.exp(s) - 1)),
    "selu": lambda s: 1.2 * torch.where(s > 0, s, 1.5 * (torch.exp(s) - 1)),
    "softplus": lambda s: torch.log(1 + torch.exp(s)),
    "softsign": lambda s: s / (1 + abs(s)),
}


def costs(
    error: str,
    scores: Tensor,
    wanted: Tensor,
    stored: Tensor,
    *,
    output: str = "sigmoid",
    boosts: tuple[float, float] = (1.0, 1.0),
    one_target: float = 1.0,
    zero_target: float = 0.0,
) -> Tensor:
    """[B, V]: what each cell costs by the errors of DSSTNE, whose slope is that of the value.

    Args:
        error: l1, l2, l2hinge, hinge, cross entropy, scaled marginal or data scaled marginal.
        scores: before the activation.
        wanted: what each cell should be; 0 where nothing is stored.
        stored: bool, the cells of a sparse target.
        output: the activation.
        boosts: of stored cells and of the others; 0 for the others ignores zeros.
        one_target: stored cells cost below it alone.
        zero_target: the others cost above it alone.
    """
    a, t = OUTPUTS[output](scores), wanted
    zero, log = 0 * a, torch.log
    of = {
        "l1": lambda: abs(a - t),
        "l2": lambda: (a - t) ** 2 / 2,
        "l2hinge": lambda: (
            torch.where(t > 0, torch.minimum(zero, a - abs(t)), torch.maximum(zero, a - abs(t)))
            ** 2
            / 2
        ),
        "hinge": lambda: torch.where(stored, torch.maximum(zero, 1 - t * a), zero),
        "cross entropy": lambda: -t * log(a) - (1 - t) * log(1 - a),
        "scaled marginal": lambda: torch.where(stored, -log(a), -log(1 - a)),
        "data scaled marginal": lambda: torch.where(stored, -t * log(a), -log(1 - a)),
    }[error]()
    if "marginal" in error:
        of = torch.where(torch.where(stored, a < one_target, a > zero_target), of, zero)
    return of * torch.where(stored, boosts[0], boosts[1])


def multinomial_costs(
    scores: Tensor,
    weights: Tensor,
    *,
    one_target: float = 1.0,
    zero_target: float = 0.0,
    one_scale: float = 1.0,
    zero_scale: float = 1.0,
) -> Tensor:
    """[B]: what each user costs by a softmax over its targets and whoever competes with them."""
    found = []
    for row, mine in zip(scores, weights, strict=True):
        p = torch.exp(row) / torch.exp(row).sum()
        counts = [1.0 if w > 0 else zero_scale * float(q > zero_target) for w, q in zip(mine, p)]
        against = sum(n * torch.exp(s) for n, s in zip(counts, row, strict=True))
        cost = 0 * row.sum()
        for w, q, s in zip(mine, p, row, strict=True):
            if w > 0 and q < one_target:
                cost = cost - one_scale * w * torch.log(torch.exp(s) / against)
        found.append(cost)
    return torch.stack(found)
