"""What a serving team runs: encoder, catalog table and top-k in one module that trusts no input.

TorchScript scripts it into operations of torch alone. Everything about a request is checked inside
the graph, because an index or offset out of range reads foreign memory instead of failing. A
message holds the rule and the caller's own numbers, never what lies in memory.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deeprec.batch import check_ends
from deeprec.model.base import Recommender
from deeprec.model.compact import SCORES_AT_ONCE, CompactCatalog, PlainCatalog, Precision
from deeprec.model.raw_ids import RawIds
from deeprec.model.topk import Allowed


class Served(nn.Module):
    """Histories in, best items out; the `forward` of a bundle's model.pt.

    Args:
        model: the trained recommender.
        fields: user attribute name -> number of its values, in the order the model takes them.
        max_users: users in one call.
        max_events: events, and denied items, in one call.
        max_k: recommendations per user.
        ids_V: int64 [V], the ids of items where they are whole numbers; None: they are text.
        precision: of the catalog table; see `CompactCatalog`.
        scan: whether its int8 codes are scanned first.
        scores_at_once: of all users, with a plain table.
    """

    field_names: list[str]  # TorchScript cannot tell what an empty list would hold
    field_sizes: list[int]

    def __init__(
        self,
        model: Recommender,
        *,
        fields: Mapping[str, int],
        max_users: int,
        max_events: int,
        max_k: int,
        ids_V: Tensor | None = None,
        precision: Precision = "float32",
        scan: bool = False,
        scores_at_once: int = SCORES_AT_ONCE,
    ) -> None:
        super().__init__()
        self.encoder = model.serving_encoder()
        self.item_bias = model.item_bias
        self.num_items = model.item_weight.shape[0]
        self.field_names = list(fields)
        self.field_sizes = list(fields.values())
        self.max_users, self.max_events, self.max_k = max_users, max_events, max_k
        self.catalog: nn.Module = (
            PlainCatalog(model.item_weight, scores_at_once)
            if precision == "float32" and not scan
            else CompactCatalog(model.item_weight, precision=precision, scan=scan)
        )
        self.raw_ids = RawIds(torch.zeros(0, dtype=torch.int64) if ids_V is None else ids_V)

    def forward(
        self,
        item_ids: Tensor,
        offsets: Tensor,
        ages: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
        k: int,
        exclude_seen: bool,
        denied_items: Tensor,
        denied_offsets: Tensor,
        allowed_items: Tensor | None = None,
        allowed_offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The k best items of each user.

        Args:
            item_ids: int64 [N], item index in [0, V) of each event, user after user, oldest first.
            offsets: int64 [B + 1], user b owns `item_ids[offsets[b]:offsets[b + 1]]`.
            ages: float32 [N], days from each event to the moment of prediction, >= 0; or [0] where
                times are unknown.
            attribute_values: per field, int64, indices of the users' values.
            attribute_offsets: per field, int64 [B + 1].
            k: recommendations per user, at least 1.
            exclude_seen: whether items of the user's own history are left out.
            denied_items: int64, items never to be answered, user after user.
            denied_offsets: int64 [B + 1].
            allowed_items: int64, the only items that may be answered, user after user; None: all.
            allowed_offsets: int64 [B + 1]; or [2], for one list that holds for all users.

        Returns:
            int64 [B, k], item indices, best first, ties by lower index, -1 where there are no more
            candidates; float32 [B, k], their scores, -inf beside -1.

        Raises:
            ValueError: an input breaks its rule (`torch.jit.Error` once scripted).
        """
        num_users = self.num_users_of(offsets)
        if not 1 <= k <= self.max_k:
            raise ValueError(f"k must lie in [1, {self.max_k}], got {k}")
        self.check_rows("item_ids", item_ids, "offsets", offsets, num_users, self.num_items)
        self.check_ages(ages, item_ids.numel())
        self.check_attributes(attribute_values, attribute_offsets, num_users)
        self.check_rows(
            "denied_items",
            denied_items,
            "denied_offsets",
            denied_offsets,
            num_users,
            self.num_items,
        )
        allowed = self.checked_allowed(allowed_items, allowed_offsets, num_users, self.num_items)
        with torch.no_grad():
            if num_users == 0:
                return item_ids.new_empty([0, k]), self.item_bias.new_empty([0, k])
            encoded = self.encoder(item_ids, offsets, ages, attribute_values, attribute_offsets)
            excluded, ends = denied_items, denied_offsets
            if exclude_seen:
                excluded, ends = join(item_ids, offsets, denied_items, denied_offsets)
            best: tuple[Tensor, Tensor] = self.catalog(
                encoded, self.item_bias, k, excluded, ends, allowed
            )
            return best

    @torch.jit.export
    def by_id(
        self,
        raw_ids: Tensor,
        offsets: Tensor,
        ages: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
        k: int,
        exclude_seen: bool,
        denied_ids: Tensor,
        denied_offsets: Tensor,
        allowed_ids: Tensor | None = None,
        allowed_offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, with int64 ids of the catalog in the place of its indices, answers too.

        An id that the catalog does not hold is left out. Where the score is -inf, the id is -1.

        Raises:
            ValueError: an input breaks its rule, or ids are text.
        """
        if self.raw_ids.ids_V.numel() == 0:
            raise ValueError("this model knows no ids of items; ask by item index")
        num_users = self.num_users_of(offsets)
        self.check_offsets("raw_ids", raw_ids, "offsets", offsets, num_users)
        self.check_ages(ages, raw_ids.numel())
        self.check_offsets("denied_ids", denied_ids, "denied_offsets", denied_offsets, num_users)
        items, ends, known = self.raw_ids(raw_ids, offsets)
        denied, denied_ends, _ = self.raw_ids(denied_ids, denied_offsets)
        allowed = self.checked_allowed(allowed_ids, allowed_offsets, num_users, None)
        allowed_items: Tensor | None = None
        allowed_ends: Tensor | None = None
        if allowed is not None:
            allowed_items, allowed_ends, _ = self.raw_ids(allowed.items_A, allowed.offsets)
        best, scores = self.forward(
            items,
            ends,
            ages if ages.numel() == 0 else ages[known],
            attribute_values,
            attribute_offsets,
            k,
            exclude_seen,
            denied,
            denied_ends,
            allowed_items,
            allowed_ends,
        )
        return self.raw_ids.of(best), scores

    def checked_allowed(
        self, items: Tensor | None, offsets: Tensor | None, num_users: int, size: int | None
    ) -> Allowed | None:
        """What may be answered, its offsets of users or of one row that holds for all."""
        if items is None and offsets is None:
            return None
        if items is None or offsets is None:
            raise ValueError("allowed_items and allowed_offsets must be given together")
        rows = num_users
        if offsets.numel() == 2:
            rows = 1
        self.check_offsets("allowed_items", items, "allowed_offsets", offsets, rows)
        if size is not None:
            self.check_range("allowed_items", items, size)
        return Allowed(items, offsets)

    def num_users_of(self, offsets: Tensor) -> int:
        if offsets.dim() != 1 or offsets.numel() == 0:
            raise ValueError("offsets must have users + 1 entries in one dimension")
        num_users = offsets.numel() - 1
        if num_users > self.max_users:
            raise ValueError(f"at most {self.max_users} users in one call, got {num_users}")
        return num_users

    def check_rows(
        self,
        values_name: str,
        values: Tensor,
        offsets_name: str,
        offsets: Tensor,
        num_users: int,
        size: int,
    ) -> None:
        """`values` are indices in [0, size), and `offsets` says which are whose."""
        self.check_offsets(values_name, values, offsets_name, offsets, num_users)
        self.check_range(values_name, values, size)

    def check_offsets(
        self, values_name: str, values: Tensor, offsets_name: str, offsets: Tensor, num_users: int
    ) -> None:
        """`values` are whole numbers, and `offsets` says which are whose."""
        if values.dtype != torch.int64 or values.dim() != 1:
            raise ValueError(f"{values_name} must be int64 in one dimension")
        if offsets.dtype != torch.int64 or offsets.dim() != 1:
            raise ValueError(f"{offsets_name} must be int64 in one dimension")
        device = self.item_bias.device
        if values.device != device or offsets.device != device:
            raise ValueError(f"{values_name} and {offsets_name} must be on the model's device")
        if values.numel() > self.max_events:
            raise ValueError(
                f"{values_name}: at most {self.max_events} in one call, got {values.numel()}"
            )
        if offsets.numel() != num_users + 1:
            raise ValueError(
                f"{offsets_name} must have users + 1 = {num_users + 1} entries, "
                f"got {offsets.numel()}"
            )
        check_ends(values_name, values.numel(), offsets_name, offsets)

    def check_range(self, values_name: str, values: Tensor, size: int) -> None:
        wrong = torch.nonzero((values < 0) | (values >= size))
        if wrong.numel() > 0:
            at = int(wrong[0, 0])
            raise ValueError(
                f"{values_name} must lie in [0, {size}), got {int(values[at])} at position {at}; "
                "leave out what the bundle does not know"
            )

    def check_ages(self, ages: Tensor, num_events: int) -> None:
        if ages.dtype != torch.float32 or ages.dim() != 1:
            raise ValueError("ages must be float32 in one dimension")
        if ages.device != self.item_bias.device:
            raise ValueError("ages must be on the model's device")
        if ages.numel() != 0 and ages.numel() != num_events:
            raise ValueError(
                f"ages must have one entry for each of the {num_events} item_ids, or none; "
                f"got {ages.numel()}"
            )
        if not bool((torch.isfinite(ages) & (ages >= 0)).all()):
            raise ValueError("ages must be finite and at least 0 days")

    def check_attributes(self, values: list[Tensor], offsets: list[Tensor], num_users: int) -> None:
        num_fields = len(self.field_names)
        if len(values) != num_fields or len(offsets) != num_fields:
            raise ValueError(
                f"attribute_values and attribute_offsets must each hold {num_fields} tensors, "
                f"got {len(values)} and {len(offsets)}"
            )
        for field in range(num_fields):
            name = "attribute " + self.field_names[field]
            self.check_rows(
                name + " values",
                values[field],
                name + " offsets",
                offsets[field],
                num_users,
                self.field_sizes[field],
            )


def join(
    first: Tensor, first_offsets: Tensor, second: Tensor, second_offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Each user's `first` and `second` values, as values and offsets."""
    users = torch.arange(first_offsets.numel() - 1, device=first.device)
    owners = torch.cat(
        [
            torch.repeat_interleave(users, first_offsets.diff()),
            torch.repeat_interleave(users, second_offsets.diff()),
        ]
    )
    order = torch.argsort(owners, stable=True)
    return torch.cat([first, second])[order], first_offsets + second_offsets
