"""What lists show and to how many: of one list, and of the catalog over all lists.

Shapes: U users, K places of a list, V items of the catalog.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DEFINITIONS = {
    "popularity@k": "mean over the list of the share of training users who had the item",
    "novelty@k": "mean over the list of -log2((users who had the item + 1) / (training users + "
    "1)), in bits",
    "repeats@k": "share of the list that is in the user's own history",
    "revenue@k": "sum of the mean prices paid in training for the hits: what the list would have "
    "sold; the mean over users is the expected revenue",
    "diversity.ATTRIBUTE@k": "share of the pairs of the list whose values of the attribute differ; "
    "an unknown value differs from every other; 0 for a list of one",
    "diversity.embedding@k": "mean over the pairs of the list of 1 - cosine of their rows in the "
    "catalog table of the first run that is no blend; 0 for a list of one",
    "coverage@k": "share of the catalog that is in at least one judged user's list",
    "gini@k": "inequality of how often the items of the catalog are in a list: 0 all as often, "
    "near 1 few have all places",
    "head_1@k": "share of all places that go to the most popular 1 % of the items that anybody had "
    "in training",
    "head_10@k": "the same for the most popular 10 % of them",
    "overlap@k": "mean over pairs of users of the items both lists hold, divided by k",
}


def means_at(
    worth_UK: FloatArray, held_UK: npt.NDArray[np.bool_], cutoffs: list[int]
) -> FloatArray:
    """The mean worth of the items in the first k places, at each cutoff; 0 for an empty list.

    Args:
        worth_UK: float64 [U, K].
        held_UK: bool [U, K], whether the place holds an item of the catalog.

    Returns:
        float64 [U, cutoffs].

    Example:
        >>> held = np.array([[True, True, False]])
        >>> means_at(np.array([[1.0, 2.0, 9.0]]), held, [1, 3]).tolist()
        [[1.0, 1.5]]
    """
    last = np.array(cutoffs).clip(max=worth_UK.shape[1]) - 1
    sums = np.where(held_UK, worth_UK, 0).cumsum(1)[:, last]
    counts = held_UK.cumsum(1)[:, last]
    means = np.zeros_like(sums)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def diversity_by_attribute(codes_UK: IntArray, cutoffs: list[int]) -> FloatArray:
    """Share of the pairs of a list whose codes differ, float64 [U, cutoffs].

    Args:
        codes_UK: int64 [U, K]; -1 is unknown and differs from everything; -2 is an empty place.

    Example:
        >>> diversity_by_attribute(np.array([[7, 7, 5, -1]]), [1, 2, 3, 4]).round(3).tolist()
        [[0.0, 0.0, 0.667, 0.833]]
    """
    num_users, length = codes_UK.shape
    rows = np.repeat(np.arange(num_users), length)
    codes = codes_UK.ravel()
    order = np.lexsort((codes, rows))  # stable: places ascend inside a code
    same = (np.diff(rows[order], prepend=-1) == 0) & (np.diff(codes[order], prepend=-3) == 0)
    starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    equal_before = np.zeros(len(order), np.int64)
    equal_before[order] = np.arange(len(order)) - starts  # earlier places of the list with the code
    equal_before[codes < 0] = 0
    last = np.array(cutoffs).clip(max=length) - 1
    equal = equal_before.reshape(codes_UK.shape).cumsum(1)[:, last]
    held = (codes_UK >= -1).cumsum(1)[:, last]
    pairs = held * (held - 1) // 2
    alike = np.ones(pairs.shape)
    np.divide(equal, pairs, out=alike, where=pairs > 0)
    return 1 - alike


def diversity_by_embedding(
    items_UK: IntArray, embedding_VD: npt.NDArray[np.float32], cutoffs: list[int]
) -> FloatArray:
    """Mean over the pairs of a list of 1 - cosine of their embeddings, float64 [U, cutoffs].

    The cosines of all pairs add up to (|sum of unit vectors|^2 - length) / 2, so no pair is made.

    Args:
        items_UK: int64 [U, K]; -1 is an empty place.
        embedding_VD: float32 [V, D]; a row of zeros is orthogonal to everything.

    Example:
        >>> embedding = np.array([[2, 0], [0, 1], [-1, 0]], np.float32)
        >>> diversity_by_embedding(np.array([[0, 1, 2]]), embedding, [1, 2, 3]).round(3).tolist()
        [[0.0, 1.0, 1.333]]
    """
    found = np.zeros((len(items_UK), len(cutoffs)))
    total_UD = np.zeros((len(items_UK), embedding_VD.shape[1]))
    squares_U, held_U, start = np.zeros(len(items_UK)), np.zeros(len(items_UK)), 0
    for at, k in enumerate(cutoffs):
        piece = items_UK[:, start:k]
        rows = np.where((piece >= 0)[:, :, None], embedding_VD[piece.clip(0)], 0)
        lengths = np.linalg.norm(rows, axis=2, keepdims=True)
        rows = rows / np.where(lengths > 0, lengths, 1)
        total_UD += rows.sum(1, dtype=np.float64)
        squares_U += np.square(rows, dtype=np.float64).sum((1, 2))
        held_U += (piece >= 0).sum(1)
        pairs_U = held_U * (held_U - 1)
        cosines_U = np.square(total_UD).sum(1) - squares_U
        found[:, at] = 1 - np.divide(
            cosines_U, pairs_U, out=np.ones(len(pairs_U)), where=pairs_U > 0
        )
        start = k
    return found


def coverage(counts_V: IntArray) -> float:
    """Share of the catalog that was in anybody's list.

    Example:
        >>> coverage(np.array([3, 0, 1, 0]))
        0.5
    """
    return float((counts_V > 0).mean())


def gini(counts_V: IntArray) -> float:
    """How unequally places go to the items of the catalog: 0 evenly, 1 - 1 / V all to one.

    Example:
        >>> gini(np.array([2, 2])), gini(np.array([0, 4]))
        (0.0, 0.5)

    Reference:
        Gini coefficient as half the relative mean absolute difference.
    """
    total = counts_V.sum()
    if not total:
        return 0.0
    size = len(counts_V)
    rising = np.sort(counts_V).astype(np.float64)
    return float(2 * (np.arange(1, size + 1) @ rising) / (size * total) - (size + 1) / size)


def head(counts_V: IntArray, order_W: IntArray, share: float) -> float:
    """Share of all places that the most popular items have.

    Args:
        order_W: int64 [W], indices of the items that anybody had, the most popular first.
        share: of these that is their head, rounded up to whole items.

    Example:
        >>> head(np.array([1, 0, 3, 0]), order_W=np.array([1, 2, 0]), share=0.5)
        0.75
    """
    most = order_W[: int(np.ceil(share * len(order_W)))]
    return float(counts_V[most].sum() / max(1, counts_V.sum()))


def overlap(counts_V: IntArray, num_users: int, k: int) -> float:
    """Mean over pairs of users of the items that both lists hold, divided by k.

    An item in c lists is common to c (c - 1) / 2 pairs, so no pair is made.

    Example:
        >>> overlap(np.array([2, 1, 1]), num_users=2, k=2)
        0.5
    """
    if num_users < 2:
        return 0.0
    counts = counts_V.astype(np.float64)
    return float((counts @ (counts - 1)) / (num_users * (num_users - 1) * k))
