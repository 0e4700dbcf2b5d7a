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


def metrics(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
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
    }
