"""Catalog tables in fewer bytes, and exact top-k that reads one byte a number.

A row of int8 is `codes * scale`, with a scale of its own. Where few users are asked for, what takes
time is to read the table, so a scan reads its int8 codes and gives each item a bound that its score
cannot exceed; the best of these are scored again in float32, and the rest need not be, unless a
bound is above what is left of the list. Then, and for many users, every item is scored.

Scriptable and of plain aten operations. Shapes (legend in deeprec/batch.py): E columns of the
codes; R candidates of a user.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Encoded
from deeprec.model.topk import (
    Allowed,
    improve,
    is_skipped,
    keys_of,
    lists,
    no_key,
    no_keys,
    ruled,
    rules_of,
    suited,
    top_k,
    with_repeats,
)

Precision = Literal["float32", "bfloat16", "int8"]
FEW_USERS = 16  # above, products take longer than reading the table
CANDIDATES = 128  # scored again, besides k
CODE_COLUMNS = 32  # the kernel of the scan reads past the end of rows of other widths
BLOCK_ITEMS = 4_096  # 2 MiB of a table of 128 columns once it is float32: it stays in the cache
SCORES_AT_ONCE = 2**22  # 16 MiB: all of a catalog of millions for one user, 16,384 items for 256
SCANNED_AT_ONCE = 2**20  # the same of bounds
ROUNDING = 2.0**-7  # of |hidden| * |row|: bfloat16 of hidden, scale and score, with some to spare


class PlainCatalog(nn.Module):
    """The table as it was trained.

    Args:
        item_weight_VD: float32 [V, D].
        scores_at_once: of all users.
    """

    def __init__(self, item_weight_VD: Tensor, scores_at_once: int = SCORES_AT_ONCE) -> None:
        super().__init__()
        self.item_weight, self.scores_at_once = item_weight_VD, scores_at_once

    def forward(
        self,
        encoded: Encoded,
        item_bias_V: Tensor,
        k: int,
        excluded_N: Tensor,
        offsets_B1: Tensor,
        allowed: Allowed | None,
    ) -> tuple[Tensor, Tensor]:
        """See `top_k`."""
        on_cpu = block_of(encoded.hidden_BD.shape[0], self.scores_at_once)
        return top_k(
            encoded,
            self.item_weight,
            item_bias_V,
            k,
            excluded_N,
            offsets_B1,
            suited(encoded.hidden_BD, on_cpu),
            allowed,
        )


class CompactCatalog(nn.Module):
    """The table in another precision, or with codes to scan beside it, or both.

    Args:
        item_weight_VD: float32 [V, D].
        precision: of the rows that scores are made of. What is answered is what `rounded` rows
            would be answered with.
        scan: whether int8 codes are scanned first; those of int8 rows always are.
        block_items: items scored at once where none is scanned.
    """

    rows_VD: Tensor
    scale_V: Tensor
    codes_VE: Tensor
    code_scale_V: Tensor
    slack_V: Tensor

    def __init__(
        self,
        item_weight_VD: Tensor,
        *,
        precision: Precision,
        scan: bool,
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__()
        self.block_items = block_items
        self.width = item_weight_VD.shape[1]
        self.scores_at_once = SCANNED_AT_ONCE
        self.few_users, self.candidates = FEW_USERS, CANDIDATES
        exact_VD = rounded(item_weight_VD, precision)
        codes_VD, scale_V = quantized(item_weight_VD)
        self.scans = scan or precision == "int8"
        self.is_int8 = precision == "int8"
        codes_VE = F.pad(codes_VD, (0, -self.width % CODE_COLUMNS))
        none = torch.zeros(0)
        self.register_buffer("codes_VE", codes_VE if self.scans else none.to(torch.int8))
        rows_VD = exact_VD.bfloat16() if precision == "bfloat16" else item_weight_VD
        self.register_buffer("rows_VD", none if self.is_int8 else rows_VD.detach())
        self.register_buffer("scale_V", scale_V if self.is_int8 else none)
        self.register_buffer("code_scale_V", scale_V.bfloat16() if self.scans else none)
        slack_V = slack(exact_VD, codes_VD, scale_V) if self.scans else none
        self.register_buffer("slack_V", slack_V)

    def forward(
        self,
        encoded: Encoded,
        item_bias_V: Tensor,
        k: int,
        excluded_N: Tensor,
        offsets_B1: Tensor,
        allowed: Allowed | None,
    ) -> tuple[Tensor, Tensor]:
        """See `top_k`; the answers are those of `top_k` on the rounded table."""
        hidden_BD = encoded.hidden_BD
        if self.scans and hidden_BD.shape[0] <= self.few_users and not hidden_BD.is_cuda:
            best_BK, is_sure = self.scanned(
                encoded, item_bias_V, k, excluded_N, offsets_B1, allowed
            )
            if is_sure:
                return lists(best_BK)
        return lists(self.best(encoded, item_bias_V, k, excluded_N, offsets_B1, allowed, False))

    def best(
        self,
        encoded: Encoded,
        item_bias_V: Tensor,
        k: int,
        excluded_N: Tensor,
        offsets_B1: Tensor,
        allowed: Allowed | None,
        scan: bool,
    ) -> Tensor:
        """int64 [B, K]: the best keys, of scores or of their bounds."""
        hidden_BD, num_items = encoded.hidden_BD, item_bias_V.shape[0]
        best_BK = no_keys(hidden_BD.shape[0], k, hidden_BD)
        block_items = suited(hidden_BD, self.block_items)
        if scan:
            block_items = block_of(hidden_BD.shape[0], self.scores_at_once)
        rules = rules_of(encoded, excluded_N, offsets_B1, num_items, block_items, allowed)
        for block in range(rules.num_blocks):
            if is_skipped(rules, block):
                continue
            start = block * block_items
            stop = min(start + block_items, num_items)
            if scan:
                scores_BC = self.bounds(hidden_BD, start, stop) + item_bias_V[start:stop]
            else:
                scores_BC = self.products(hidden_BD, start, stop) + item_bias_V[start:stop]
            if hidden_BD.shape[1] > self.width:  # the others are scores
                scores_BC += hidden_BD[:, self.width + start : self.width + stop]
            best_BK = improve(best_BK, ruled(scores_BC, rules, block, start), start)
        return best_BK

    def products(self, hidden_BD: Tensor, start: int, stop: int) -> Tensor:
        """float32 [B, C]."""
        items = torch.arange(start, stop, device=hidden_BD.device)
        rows_CD = self.rows(items) if self.is_int8 else self.rows_VD[start:stop].float()
        return torch.mm(hidden_BD[:, : self.width], rows_CD.t())

    def rows(self, items: Tensor) -> Tensor:
        """float32 [..., D]: the rows that scores are made of."""
        if self.is_int8:
            codes = self.codes_VE[items][..., : self.width].float()
            return codes * self.scale_V[items].unsqueeze(-1)
        return self.rows_VD[items].float()

    def bounds(self, hidden_BD: Tensor, start: int, stop: int) -> Tensor:
        """float32 [B, C]: what the product with each item cannot exceed."""
        hidden_BD = hidden_BD[:, : self.width]
        hidden_BE = F.pad(hidden_BD, [0, self.codes_VE.shape[1] - self.width]).to(torch.bfloat16)
        codes_CE, scale_C = self.codes_VE[start:stop], self.code_scale_V[start:stop]
        near_BC: Tensor = torch.ops.aten._weight_int8pack_mm(hidden_BE, codes_CE, scale_C).float()
        length_B1 = torch.linalg.vector_norm(hidden_BD, dim=1, keepdim=True)
        bounds_BC: Tensor = near_BC + length_B1 * self.slack_V[start:stop]
        return bounds_BC

    def scanned(
        self,
        encoded: Encoded,
        item_bias_V: Tensor,
        k: int,
        excluded_N: Tensor,
        offsets_B1: Tensor,
        allowed: Allowed | None,
    ) -> tuple[Tensor, bool]:
        """The best keys of the candidates, and whether no other item can be among the best."""
        num_candidates = k + self.candidates
        bound_keys_BR = self.best(
            encoded, item_bias_V, num_candidates, excluded_N, offsets_B1, allowed, True
        )
        items_BR, bounds_BR = lists(bound_keys_BR)
        at_BR = items_BR.clamp(min=0)
        hidden_BD = encoded.hidden_BD[:, : self.width]
        products_BR = torch.einsum("brd,bd->br", self.rows(at_BR), hidden_BD)
        if encoded.hidden_BD.shape[1] > self.width:
            products_BR = products_BR + encoded.hidden_BD.gather(1, self.width + at_BR)
        scores_BR = with_repeats(products_BR + item_bias_V[at_BR], at_BR, encoded)
        keys_BR = keys_of(scores_BR, at_BR)
        keys_BR = keys_BR.masked_fill((items_BR < 0) | (scores_BR == float("-inf")), no_key())
        best_BK = torch.topk(keys_BR, k, dim=1)[0]
        least_B = lists(best_BK[:, k - 1 :])[1][:, 0]
        # a bound equal to the last score might be of an item of lower index; with fewer items than
        # candidates, every one was scored
        is_sure_B = (items_BR[:, -1] < 0) | (least_B > bounds_BR[:, -1])
        return best_BK, bool(is_sure_B.all())


def block_of(num_users: int, scores_at_once: int) -> int:
    """Items scored at once. Every block costs some calls, which for one user is what they cost.

    Example:
        >>> block_of(1, 2**22), block_of(256, 2**22), block_of(4_096, 2**22)
        (4194304, 16384, 4096)
    """
    return max(scores_at_once // max(num_users, 1), scores_at_once // 1024, 1)


def quantized(rows_VD: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [V, D] codes and float32 [V] scales: row = codes * scale, to half a scale.

    Example:
        >>> codes, scale = quantized(torch.tensor([[2.54, -1.0], [0.0, 0.0]]))
        >>> codes.tolist(), scale.tolist()
        ([[127, -50], [0, 0]], [0.019999999552965164, 1.0])
    """
    scale_V = rows_VD.detach().abs().amax(1) / 127
    scale_V = torch.where(scale_V > 0, scale_V, 1.0)
    codes_VD = torch.round(rows_VD.detach() / scale_V[:, None]).to(torch.int8)
    return codes_VD, scale_V


def rounded(rows_VD: Tensor, precision: Precision) -> Tensor:
    """float32 [V, D]: what is left of the rows in that precision."""
    if precision == "bfloat16":
        return rows_VD.detach().bfloat16().float()
    if precision == "int8":
        codes_VD, scale_V = quantized(rows_VD)
        return codes_VD.float() * scale_V[:, None]
    return rows_VD.detach()


def narrowed(model: nn.Module, precision: Precision) -> nn.Module:
    """The model with a rounded catalog table; all else is shared with it.

    Raises:
        ValueError: it has none, because its hidden vectors are the scores of all items.
    """
    weight_VD = model.item_weight
    assert isinstance(weight_VD, Tensor)
    if weight_VD.shape[1] == 0:
        raise ValueError("this model has no catalog table whose rows could be narrower")
    narrow = copy.copy(model)
    narrow._parameters = dict(model._parameters)
    narrow.item_weight = nn.Parameter(rounded(weight_VD, precision), requires_grad=False)
    return narrow


def slack(exact_VD: Tensor, codes_VD: Tensor, scale_V: Tensor) -> Tensor:
    """float32 [V]: over |hidden|, how far the score of a row may lie above that of its codes."""
    left_VD = exact_VD - codes_VD.float() * scale_V[:, None]
    length_V: Tensor = torch.linalg.vector_norm(exact_VD, dim=1)
    left_V: Tensor = torch.linalg.vector_norm(left_VD, dim=1)
    return left_V + ROUNDING * length_V
