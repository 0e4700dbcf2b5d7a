"""The served module asked in tensors alone, as Triton's PyTorch backend does.

Every request gives at least one number of each input: -1 stands for no item, and for a value that
is not known.
"""

import torch
from torch import Tensor, nn

from deeprec.model.served import Served, join

FORWARD = """
def forward(self, {declared}) -> Tuple[Tensor, Tensor]:
    return self.answer({history}, [{attributes}])
"""


class InTensors(nn.Module):
    """Asks a served module.

    Args:
        served: the module.
    """

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served

    @torch.jit.export
    def answer(
        self,
        item_ids: Tensor,
        offsets: Tensor,
        ages: Tensor,
        k: Tensor,
        exclude_seen: Tensor,
        denied_items: Tensor,
        denied_offsets: Tensor,
        attributes: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The best items of each user; see `Served.forward`.

        Args:
            item_ids: int64 [N], -1: none.
            offsets: whole numbers [B + 1].
            ages: float32 [N], or [0].
            k: int64 [B, 1]; as many as the largest are answered to all.
            exclude_seen: bool [B, 1], of each user.
            denied_items: int64, -1: none.
            denied_offsets: whole numbers [B + 1].
            attributes: per user attribute int64 [B, 1], -1: not known.
        """
        offsets, denied_offsets = offsets.long(), denied_offsets.long()
        num_users = self.served.num_users_of(offsets)
        self.served.check_offsets("item_ids", item_ids, "offsets", offsets, num_users)
        self.served.check_offsets(
            "denied_items", denied_items, "denied_offsets", denied_offsets, num_users
        )
        self.served.check_ages(ages, item_ids.numel())
        columns = [k, exclude_seen] + attributes  # noqa: RUF005  # TorchScript knows no other way
        self.check_columns(columns, num_users)
        items, ends = self.present(item_ids, offsets)
        denied, denied_ends = self.present(denied_items, denied_offsets)
        owners = torch.repeat_interleave(offsets.diff())
        seen = torch.where(exclude_seen.reshape(-1)[owners], item_ids, -1)
        left_out, left_ends = self.present(seen, offsets)
        excluded, excluded_ends = join(left_out, left_ends, denied, denied_ends)
        values, value_ends = self.rows_of(attributes, num_users)
        most = int(k.max()) if num_users > 0 else 1
        best: tuple[Tensor, Tensor] = self.served(
            items,
            ends,
            ages if ages.numel() == 0 else ages[item_ids != -1],
            values,
            value_ends,
            most,
            False,
            excluded,
            excluded_ends,
        )
        return best

    def check_columns(self, columns: list[Tensor], num_users: int) -> None:
        for column in columns:
            if column.numel() != num_users:
                raise ValueError(
                    f"k, exclude_seen and each attribute must hold one number for each of "
                    f"{num_users} users, got {column.numel()}"
                )

    def rows_of(
        self, attributes: list[Tensor], num_users: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Values and offsets of each attribute."""
        values: list[Tensor] = []
        ends: list[Tensor] = []
        for column in attributes:
            one_each = torch.arange(num_users + 1, device=column.device)
            known, known_ends = self.present(column.reshape(-1), one_each)
            values.append(known)
            ends.append(known_ends)
        return values, ends

    def present(self, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """The rows without their -1."""
        present = values != -1
        before = torch.cat([present.new_zeros([1], dtype=torch.int64), present.cumsum(0)])
        return values[present], before[offsets]


def with_forward(scripted: torch.jit.ScriptModule, arguments: list[str], num_fields: int) -> None:
    """Gives it a `forward` of these arguments in this order; ages may be missing.

    Args:
        scripted: of `InTensors`.
        arguments: names of `answer`, and `attribute_0`, ... in the place of its last.
        num_fields: user attributes.
    """
    history = ["item_ids", "offsets", "ages", "k", "exclude_seen", "denied_items", "denied_offsets"]
    given = [name if name in arguments else "torch.zeros([0])" for name in history]
    source = FORWARD.format(
        declared=", ".join(f"{name}: Tensor" for name in arguments),
        history=", ".join(given),
        attributes=", ".join(f"attribute_{n}" for n in range(num_fields)),
    )
    if num_fields == 0:
        source = source.replace("[])", "torch.jit.annotate(List[Tensor], []))")
    scripted.define(source)
