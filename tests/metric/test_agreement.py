"""Two other libraries give the same figures for the same lists, where they mean the same.

docs/evaluation.md says where they, and others, do not.
"""

import os

import ir_measures
import numpy as np
import pytest
import torch

from deeprec.batch import Jagged
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import METRICS

os.environ["NUMBA_DISABLE_JIT"] = "1"  # to compile ranx takes a minute, to interpret it a second
import ranx

USERS, ITEMS, LENGTH = 40, 60, 25
CUTOFFS = (1, 5, 20, 25)

# ours -> theirs
RANX = {
    "precision": "precision@{k}",
    "recall": "recall@{k}",
    "hit": "hit_rate@{k}",
    "ndcg": "ndcg@{k}",
    "mrr": "mrr@{k}",
}
IR = {
    "precision": "P@{k}",
    "recall": "R@{k}",
    "hit": "Success@{k}",
    "ndcg": "nDCG@{k}",
    "mrr": "RR@{k}",
}


@pytest.fixture(scope="module")
def case() -> tuple[list[list[int]], list[set[int]]]:
    """Lists of 25 or fewer, and users who took one item to forty."""
    draw = np.random.default_rng(4)
    lists = [draw.permutation(ITEMS)[: draw.integers(1, LENGTH + 1)].tolist() for _ in range(USERS)]
    taken = [
        set(draw.choice(ITEMS, draw.integers(1, 41), replace=False).tolist()) for _ in range(USERS)
    ]
    return lists, taken


def ours(case: tuple[list[list[int]], list[set[int]]], name: str, k: int) -> np.ndarray:
    lists, taken = case
    padded = torch.tensor([items + [-1] * (LENGTH - len(items)) for items in lists])
    values = torch.tensor([item for items in taken for item in sorted(items)])
    target = Jagged(values, torch.tensor(np.cumsum([0, *map(len, taken)])))
    return METRICS[name](Hits.of(padded, target), k)


def judged(case: tuple[list[list[int]], list[set[int]]]) -> tuple[dict, dict]:
    """As relevance judgements and runs of documents, whose scores fall with their place."""
    lists, taken = case
    qrels = {f"u{u:02}": {str(item): 1 for item in items} for u, items in enumerate(taken)}
    run = {
        f"u{u:02}": {str(item): float(LENGTH - place) for place, item in enumerate(items)}
        for u, items in enumerate(lists)
    }
    return qrels, run


def test_ranx_agrees(case: tuple[list[list[int]], list[set[int]]]) -> None:
    qrels, run = judged(case)
    wanted = {(name, k): theirs.format(k=k) for name, theirs in RANX.items() for k in CUTOFFS}
    wanted |= {("r_precision", LENGTH): "r-precision", ("map", LENGTH): f"map@{LENGTH}"}
    run_of_ranx = ranx.Run(run)
    found = ranx.evaluate(
        ranx.Qrels(qrels), run_of_ranx, list(wanted.values()), return_mean=False, threads=1
    )
    for (name, k), theirs in wanted.items():
        mine = ours(case, name, k)
        if name == "map":  # theirs is over h, ours over min(k, h)
            h = np.array([len(items) for items in case[1]])
            mine = mine * np.minimum(k, h) / h
        assert np.abs(mine - found[theirs]).max() < 1e-9, theirs


def test_ir_measures_agrees(case: tuple[list[list[int]], list[set[int]]]) -> None:
    qrels, run = judged(case)
    wanted = {(name, k): theirs.format(k=k) for name, theirs in IR.items() for k in CUTOFFS}
    wanted[("r_precision", LENGTH)] = "Rprec"
    measures = {asked: ir_measures.parse_measure(theirs) for asked, theirs in wanted.items()}
    found: dict[str, dict[str, float]] = {}
    for one in ir_measures.iter_calc(list(measures.values()), qrels, run):
        found.setdefault(str(one.measure), {})[one.query_id] = one.value
    for (name, k), measure in measures.items():
        theirs = np.array([found[str(measure)][user] for user in sorted(found[str(measure)])])
        assert np.abs(ours(case, name, k) - theirs).max() < 1e-9, measure
