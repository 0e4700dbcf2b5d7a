"""What other libraries find and take for given lists, run by a Python that has them.

    PYTHON benchmarks/peers/evaluators.py NAME FOLDER

NAME is ranx, ir_measures, torchmetrics or implicit. Reads FOLDER/case.npz, writes FOLDER/NAME.npz
(values of each user) and prints the seconds of each part as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Case = Any  # lists [U, K], values [N], offsets [U + 1]
Spent = tuple[float, float]  # CPU and wall seconds
MEASURES = ("recall@20", "ndcg@20", "ndcg@100")


def timed(work: Callable[[], Any]) -> tuple[Any, Spent]:
    cpu, wall = time.process_time(), time.perf_counter()
    return work(), (time.process_time() - cpu, time.perf_counter() - wall)


def dictionaries(case: Case) -> tuple[Any, Any]:
    """As relevance judgements and runs of documents."""
    lists, values, offsets = case["lists"], case["values"], case["offsets"]
    width = lists.shape[1]
    scores = [float(width - place) for place in range(width)]
    names = [f"{u:06}" for u in range(len(lists))]
    qrels = {
        name: dict.fromkeys(map(str, values[offsets[u] : offsets[u + 1]].tolist()), 1)
        for u, name in enumerate(names)
    }
    run = {
        name: dict(zip(map(str, items), scores, strict=True))
        for name, items in zip(names, lists.tolist(), strict=True)
    }
    return qrels, run


def ranx(case: Case) -> tuple[dict[str, Any], dict[str, Spent]]:
    import ranx as library

    def prepare() -> Any:
        qrels, run = dictionaries(case)
        return library.Qrels(qrels), library.Run(run)

    (qrels, run), preparing = timed(prepare)

    def evaluate() -> Any:
        return library.evaluate(qrels, run, list(MEASURES), return_mean=False, threads=1)

    _, first = timed(evaluate)  # compiles itself
    found, evaluating = timed(evaluate)
    return found, {"prepare": preparing, "first": first, "evaluate": evaluating}


def ir_measures(case: Case) -> tuple[dict[str, Any], dict[str, Spent]]:
    import ir_measures as library

    names = {"R@20": "recall@20", "nDCG@20": "ndcg@20", "nDCG@100": "ndcg@100"}
    measures = [library.parse_measure(name) for name in names]
    (qrels, run), preparing = timed(lambda: dictionaries(case))
    rows, evaluating = timed(lambda: list(library.iter_calc(measures, qrels, run)))
    found = {name: np.zeros(len(case["lists"])) for name in MEASURES}
    for row in rows:
        found[names[str(row.measure)]][int(row.query_id)] = row.value
    return found, {"prepare": preparing, "evaluate": evaluating}


def torchmetrics(case: Case) -> tuple[dict[str, Any], dict[str, Spent]]:
    import torch
    from torchmetrics.retrieval import RetrievalNormalizedDCG, RetrievalRecall

    torch.set_num_threads(1)

    def prepare() -> Any:
        """Lists and what they miss, which counts only where it is there, with the least score."""
        lists, values, offsets = case["lists"], case["values"], case["offsets"]
        width = lists.shape[1]
        scores, hits, users = [], [], []
        for user, items in enumerate(lists):
            wanted = values[offsets[user] : offsets[user + 1]]
            missed = np.setdiff1d(wanted, items)
            scores.append(np.concatenate([np.arange(width, 0, -1), np.zeros(len(missed))]))
            hits.append(np.concatenate([np.isin(items, wanted), np.ones(len(missed), bool)]))
            users.append(np.full(len(scores[-1]), user))
        as_tensor = [torch.from_numpy(np.concatenate(part)) for part in (scores, hits, users)]
        return as_tensor[0].float(), as_tensor[1], as_tensor[2].long()

    (scores, hits, users), preparing = timed(prepare)

    def evaluate() -> Any:
        metrics = [RetrievalRecall(top_k=20, aggregation=whole)]
        metrics += [RetrievalNormalizedDCG(top_k=k, aggregation=whole) for k in (20, 100)]
        return [metric(scores, hits, indexes=users) for metric in metrics]

    found, evaluating = timed(evaluate)
    named = dict(zip(MEASURES, (values.numpy() for values in found), strict=True))
    return named, {"prepare": preparing, "evaluate": evaluating}


def whole(values: Any, dim: int | None = None) -> Any:
    """Instead of a mean: the value of each user."""
    return values


def implicit(case: Case) -> tuple[dict[str, Any], dict[str, Spent]]:
    """Not the metrics: the lists of its own ranking, of given factors."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy import sparse

    users, items = case["users"], case["items"]
    seen = sparse.csr_matrix(
        (np.ones(len(case["seen"]), np.float32), case["seen"], case["seen_offsets"]),
        shape=(len(users), len(items)),
    )
    model = AlternatingLeastSquares(factors=users.shape[1], num_threads=1)
    model.user_factors, model.item_factors = users, items
    k = int(case["k"])

    def recommend() -> Any:
        rows = np.arange(len(users))
        return model.recommend(rows, seen, N=k, filter_already_liked_items=True)

    recommend()
    seconds = [timed(recommend) for _ in range(3)]
    (lists, _), _ = seconds[0]
    return {"lists": lists}, {"evaluate": sorted(taken for _, taken in seconds)[1]}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    found, seconds = {
        "ranx": ranx,
        "ir_measures": ir_measures,
        "torchmetrics": torchmetrics,
        "implicit": implicit,
    }[name](np.load(folder / "case.npz"))
    np.savez(folder / f"{name}.npz", **found)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
