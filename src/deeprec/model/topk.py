"""Exact top-k over the catalog in blocks: the one ranking of evaluation, serving and baselines.

An item excluded for a user, and an item whose score is minus infinity, is never in the list; a list
with fewer than k candidates is padded with item -1 and score -inf. Equal scores rank by lower item
index. A NaN score is an error. Everything here is plain aten and can be scripted.

Score and item are packed into one int64 key whose order is that of the ranking, so that choosing
and ordering are one `topk` of keys that never tie. Few scores become keys: once a user has k items,
only a score above the k-th best can matter, and the maxima of groups tell where those are.

Shapes (legend in deeprec/batch.py): S columns of a block, in G groups of W scores; O groups that
hold a candidate; X candidates.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deeprec.batch import Encoded

BLOCK_ITEMS = 16_384  # on a CPU: 16 MiB of scores for 256 users in float32
CUDA_SCORES = 2**25  # of a block: 128 MiB, for small ones wait for the launches of their kernels


class Allowed(NamedTuple):
    """The items that may be recommended."""

    items_A: Tensor  # int64 [A], repeats are fine, and so are items that are not in the catalog
    offsets: Tensor  # int64 [B + 1], user b may get `items[offsets[b]:offsets[b + 1]]`; or [2], all


def top_k(
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    k: int,
    exclude_items_N: Tensor,
    exclude_offsets_B1: Tensor,
    block_items: int = 0,
    allowed: Allowed | None = None,
) -> tuple[Tensor, Tensor]:
    """The k items of highest score for each user, best first.

    Peak memory is O(B * (block_items + k)), whatever the size of the catalog.

    Args:
        encoded: what a model said of the users.
        item_weight_VD: float32 [V, D]; the last V of hidden vectors of D + V floats are scores.
            Where it lies on another device, its blocks go to that of the hidden vectors.
        item_bias_V: float32 [V], likewise.
        k: at least 1.
        exclude_items_N: int64 [N], items that user b must not get; repeats are fine, and so are
            items that are not in the catalog.
        exclude_offsets_B1: int64 [B + 1], user b owns `exclude_items[offsets[b]:offsets[b + 1]]`.
        block_items: items scored at once; 0: as many as suit the device.
        allowed: the only items that may be in a list; None: all. Blocks that hold none of them are
            not scored.

    Returns:
        items int64 [B, k], padded with -1, and scores float32 [B, k], padded with -inf.

    Raises:
        RuntimeError: a score is NaN, or k is below 1.

    Example:
        >>> one_user = Encoded(torch.tensor([[1.0]]), torch.tensor([0]), torch.tensor([0, 1]),
        ...                    torch.tensor([9.0]))
        >>> weight, bias = torch.tensor([[1.0], [5.0], [5.0]]), torch.zeros(3)
        >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
        >>> top_k(one_user, weight, bias, 2, *none)
        (tensor([[0, 1]]), tensor([[9., 5.]]))
    """
    hidden_BD, num_items = encoded.hidden_BD, item_weight_VD.shape[0]
    best_BK = no_keys(hidden_BD.shape[0], k, hidden_BD)
    if block_items == 0:
        block_items = suited(hidden_BD)
    rules = rules_of(encoded, exclude_items_N, exclude_offsets_B1, num_items, block_items, allowed)
    for block in range(rules.num_blocks):
        if is_skipped(rules, block):
            continue
        start = block * block_items
        stop = min(start + block_items, num_items)
        weight_CD = item_weight_VD[start:stop].to(hidden_BD.device)
        bias_C = item_bias_V[start:stop].to(hidden_BD.device)
        scores_BC = block_scores(hidden_BD, weight_CD, bias_C, start)
        best_BK = improve(best_BK, ruled(scores_BC, rules, block, start), start)
    return lists(best_BK)


def suited(hidden_BD: Tensor, on_cpu: int = BLOCK_ITEMS, scores_on_cuda: int = CUDA_SCORES) -> int:
    """Items that are best scored at once for these users, where they are."""
    return max(1, scores_on_cuda // max(hidden_BD.shape[0], 1)) if hidden_BD.is_cuda else on_cpu


def block_scores(hidden: Tensor, weight_CD: Tensor, bias_C: Tensor, start: int) -> Tensor:
    """Float32 [B, C] of the items from `start` on: product and bias, and what hidden has of it."""
    width, stop = weight_CD.shape[1], start + weight_CD.shape[0]
    if width == 0:
        return (hidden[:, start:stop] + bias_C).float()
    scores_BC = torch.addmm(bias_C, hidden[:, :width], weight_CD.t()).float()
    if hidden.shape[1] > width:
        scores_BC += hidden[:, width + start : width + stop]
    return scores_BC


class Pairs(NamedTuple):
    """(user, item) pairs in the order of items, so that a block of items owns one slice."""

    items_N: Tensor  # int64 [N], ascending
    users_N: Tensor  # int64 [N]
    order_N: Tensor  # int64 [N], where each pair stood before
    bounds: list[int]  # block i owns [bounds[i], bounds[i + 1])


class Rules(NamedTuple):
    """What of a request changes scores, cut into blocks of the catalog."""

    num_blocks: int
    exclude: Pairs
    repeat: Pairs
    repeat_scores_M: Tensor  # float32 [M], in the order of `repeat`
    allow: Pairs
    allow_rows: int  # B, or 1 for what holds for all; 0: everything is allowed


def rules_of(
    encoded: Encoded,
    exclude_items_N: Tensor,
    exclude_offsets_B1: Tensor,
    num_items: int,
    block_items: int,
    allowed: Allowed | None,
) -> Rules:
    exclude = by_item(exclude_items_N, exclude_offsets_B1, num_items, block_items)
    repeat = by_item(encoded.repeat_items_M, encoded.repeat_offsets_B1, num_items, block_items)
    allow, rows = exclude, 0
    if allowed is not None:
        rows = allowed.offsets.shape[0] - 1
        allow = by_item(allowed.items_A, allowed.offsets, num_items, block_items)
    scores_M = encoded.repeat_scores_M[repeat.order_N].float()
    return Rules(len(exclude.bounds) - 1, exclude, repeat, scores_M, allow, rows)


def is_skipped(rules: Rules, block: int) -> bool:
    """Whether nobody may get an item of this block."""
    return rules.allow_rows > 0 and rules.allow.bounds[block] == rules.allow.bounds[block + 1]


def ruled(scores_BC: Tensor, rules: Rules, block: int, start: int) -> Tensor:
    """Products as scores: repeat scores in their place, minus infinity for what is left out."""
    repeat = rules.repeat
    first, last = repeat.bounds[block], repeat.bounds[block + 1]
    users, columns = repeat.users_N[first:last], repeat.items_N[first:last] - start
    scores_BC[users, columns] = rules.repeat_scores_M[first:last]
    drop(scores_BC, rules.exclude, block, start)
    if rules.allow_rows > 0:
        return only(scores_BC, rules.allow, rules.allow_rows, block, start)
    return scores_BC


def with_repeats(scores_BR: Tensor, items_BR: Tensor, encoded: Encoded) -> Tensor:
    """The scores, repeat scores in their place."""
    if encoded.repeat_items_M.shape[0] == 0:
        return scores_BR
    users = torch.arange(items_BR.shape[0], device=items_BR.device)
    owners_M = torch.repeat_interleave(users, encoded.repeat_offsets_B1.diff())
    span = max(int(items_BR.max()), int(encoded.repeat_items_M.max())) + 1
    pairs_M = owners_M * span + encoded.repeat_items_M  # ascending
    pairs_BR = users.unsqueeze(1) * span + items_BR
    place_BR = torch.searchsorted(pairs_M, pairs_BR).clamp(max=pairs_M.shape[0] - 1)
    repeats_BR = encoded.repeat_scores_M.float()[place_BR]
    return torch.where(pairs_M[place_BR] == pairs_BR, repeats_BR, scores_BR)


def top_k_of_blocks(
    score_block: Callable[[int, int], Tensor],
    num_items: int,
    num_users: int,
    k: int,
    exclude_items_N: Tensor,
    exclude_offsets_B1: Tensor,
    block_items: int = BLOCK_ITEMS,
) -> tuple[Tensor, Tensor]:
    """As `top_k`, for whoever scores items in another way.

    Args:
        score_block: (start, stop) -> float32 [B, stop - start], scores of these items; may be
            overwritten.
    """
    best_BK = no_keys(num_users, k, exclude_items_N)
    exclude = by_item(exclude_items_N, exclude_offsets_B1, num_items, block_items)
    for block in range(len(exclude.bounds) - 1):
        start = block * block_items
        scores_BC = score_block(start, min(start + block_items, num_items)).float()
        drop(scores_BC, exclude, block, start)
        best_BK = improve(best_BK, scores_BC, start)
    return lists(best_BK)


def by_item(items_N: Tensor, offsets_B1: Tensor, num_items: int, block_items: int) -> Pairs:
    """Sorts the pairs of a jagged tensor by item."""
    users_N = torch.repeat_interleave(offsets_B1[1:] - offsets_B1[:-1])
    sorted_N, order_N = torch.sort(items_N, stable=True)
    edges = torch.arange(0, num_items + block_items, block_items, device=items_N.device)
    bounds: list[int] = torch.searchsorted(sorted_N, edges.clamp(max=num_items)).tolist()
    return Pairs(sorted_N, users_N[order_N], order_N, bounds)


def drop(scores_BC: Tensor, exclude: Pairs, block: int, start: int) -> None:
    """Writes minus infinity over what is excluded."""
    first, last = exclude.bounds[block], exclude.bounds[block + 1]
    users, columns = exclude.users_N[first:last], exclude.items_N[first:last] - start
    refuse_nan(scores_BC[users, columns])
    scores_BC[users, columns] = torch.tensor(float("-inf"), device=scores_BC.device)


def only(scores_BC: Tensor, allow: Pairs, num_rows: int, block: int, start: int) -> Tensor:
    """The scores, minus infinity where an item is not allowed; one row of `allow` is for all."""
    refuse_nan(scores_BC)
    first, last = allow.bounds[block], allow.bounds[block + 1]
    mask = torch.zeros([num_rows, scores_BC.shape[1]], dtype=torch.bool, device=scores_BC.device)
    mask[allow.users_N[first:last], allow.items_N[first:last] - start] = True
    return scores_BC.masked_fill(mask.logical_not(), float("-inf"))


def refuse_nan(scores: Tensor) -> None:
    if bool(torch.isnan(scores).any()):
        raise RuntimeError("a score is NaN; a list cannot be made from it")


def no_keys(num_users: int, k: int, like: Tensor) -> Tensor:
    """Lists with nothing in them yet, on the device of `like`: int64 [B, K]."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return torch.full([num_users, k], no_key(), dtype=torch.int64, device=like.device)


def no_key() -> int:
    """Below the key of any score."""
    return -9223372036854775807


def keys_of(scores: Tensor, items: Tensor) -> Tensor:
    """One int64 for score and item: higher for a higher score, then for a lower item.

    Example:
        >>> keys = keys_of(torch.tensor([-2.0, 3.5, 3.5, 0.0, -0.0]), torch.tensor([0, 1, 2, 4, 3]))
        >>> keys.argsort(descending=True).tolist()
        [1, 2, 4, 3, 0]
    """
    # + 0.0 makes -0.0 a 0.0; view_copy, because TorchScript does not call view with a dtype
    bits = torch.view_copy(scores + 0.0, dtype=torch.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the bits of negative numbers fall as they rise
    return (rising.long() << 32) | (0xFFFFFFFF - items)


def score_of(keys: Tensor) -> Tensor:
    """The float32 score in each key, -inf where there is none."""
    rising = (keys >> 32).to(torch.int32)
    bits = rising ^ ((rising >> 31) & 0x7FFFFFFF)
    scores = torch.view_copy(bits, dtype=torch.float32)
    return scores.masked_fill(keys == no_key(), float("-inf"))


def lists(best_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Items and scores of keys."""
    items_BK = 0xFFFFFFFF - (best_BK & 0xFFFFFFFF)
    return items_BK.masked_fill(best_BK == no_key(), -1), score_of(best_BK)


def improve(best_BK: Tensor, scores_BC: Tensor, start: int) -> Tensor:
    """The best keys of the lists so far and of one more block, whose first item is `start`."""
    if start > 0:
        return improve_by_few(best_BK, scores_BC, start)
    # the first columns are ranked whole, so that where scores tie the rest need not be
    num_users, k = best_BK.shape[0], best_BK.shape[1]
    head = max(512, 2 * k, 32768 // max(num_users, 1))
    best_BK = improve_by_all(best_BK, scores_BC[:, :head], 0)
    if head >= scores_BC.shape[1]:
        return best_BK
    return improve_by_few(best_BK, scores_BC[:, head:], head)


def improve_by_all(best_BK: Tensor, scores_BS: Tensor, start: int) -> Tensor:
    """As `improve`; every score becomes a key."""
    refuse_nan(scores_BS)
    items_S = torch.arange(start, start + scores_BS.shape[1], device=scores_BS.device)
    keys_BS = keys_of(scores_BS, items_S).masked_fill(scores_BS == float("-inf"), no_key())
    return torch.topk(torch.cat([best_BK, keys_BS], 1), best_BK.shape[1], dim=1)[0]


def improve_by_few(best_BK: Tensor, scores_BS: Tensor, start: int) -> Tensor:
    """As `improve`; only scores that may enter a list become keys."""
    num_users, width, k = scores_BS.shape[0], scores_BS.shape[1], best_BK.shape[1]
    size = max(1, min(16, width // (2 * k)))
    num_groups = width // size
    # group g is the columns g, g + G, g + 2G, ...: maxima of far columns are one pass of a
    # processor's vectors, those of neighbours are not
    scores_BWG = scores_BS[:, : size * num_groups].view(num_users, size, num_groups)
    scores_BGW = scores_BWG.transpose(1, 2)
    highest_BG = scores_BGW.amax(2)
    least_B1 = least(best_BK, highest_BG, start)
    # not (x < least) instead of x >= least, so that a NaN comes through and is found
    users_O, groups_O = pairs((highest_BG < least_B1).logical_not())
    scores_OW = scores_BGW[users_O, groups_O]
    opened_X, within_X = pairs((scores_OW < least_B1[users_O]).logical_not())
    items_X = start + groups_O[opened_X] + within_X * num_groups
    best_BK = merge(best_BK, users_O[opened_X], scores_OW[opened_X, within_X], items_X)
    rest = size * num_groups
    if rest == width:
        return best_BK
    return improve_by_all(best_BK, scores_BS[:, rest:], start + rest)


def least(best_BK: Tensor, highest_BG: Tensor, start: int) -> Tensor:
    """Float32 [B, 1]: what a score must reach to have a chance in a user's list.

    More than the k-th best so far: a score equal to that is of a higher item and has no place.
    Where little was seen before, also the k-th highest group: k scores reach that one.
    """
    num_groups, k = highest_BG.shape[1], best_BK.shape[1]
    kth_B1 = score_of(best_BK[:, k - 1 :])
    least_B1 = torch.nextafter(kth_B1, torch.full_like(kth_B1, float("inf")))
    if num_groups < k or start > 16 * num_groups:
        return least_B1
    return torch.maximum(least_B1, torch.topk(highest_BG, k, dim=1)[0][:, k - 1 :])


def pairs(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each True, row after row."""
    places = torch.nonzero(mask)
    return places[:, 0], places[:, 1]


def merge(best_BK: Tensor, users_X: Tensor, scores_X: Tensor, items_X: Tensor) -> Tensor:
    """The best keys of the lists so far and of candidates, which come user after user."""
    refuse_nan(scores_X)
    num_users, k = best_BK.shape[0], best_BK.shape[1]
    lengths_B = torch.bincount(users_X, minlength=num_users)
    begins_B = lengths_B.cumsum(0) - lengths_B
    if users_X.shape[0] == 0:
        return best_BK
    keys = torch.full([num_users, k + int(lengths_B.max())], no_key(), device=best_BK.device)
    keys[:, :k] = best_BK
    place_X = torch.arange(users_X.shape[0], device=users_X.device) - begins_B[users_X]
    keys[users_X, k + place_X] = keys_of(scores_X, items_X)
    return torch.topk(keys, k, dim=1)[0]
