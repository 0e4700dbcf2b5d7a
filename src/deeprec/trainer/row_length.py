"""Rows that keep their length while a rule turns them."""

import torch
from torch import Tensor

from deeprec.table import Rows, RuleAround, State, TableRule


class KeptLength(RuleAround):
    """A rule on the directions of rows: each keeps the length it is given here.

    The part of a gradient along a row cannot change its direction and is left out. A step of the
    inner rule counts in units of the row's length, so that long rows turn as fast as short ones.

    Args:
        rule: what turns rows, as if they had length 1.
        length_V: float32 [V], above 0.
    """

    def __init__(self, rule: TableRule, length_V: Tensor) -> None:
        super().__init__(rule)
        self.length_V = length_V

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        length_R1 = self.length_V[rows, None]
        before_RD = table[rows].clone() if isinstance(rows, slice) else table.index_select(0, rows)
        unit_RD = before_RD / length_R1
        along_R1 = torch.linalg.vecdot(gradient, unit_RD)[:, None]
        turning_RD = torch.addcmul(gradient, along_R1, unit_RD, value=-1.0).mul_(length_R1)
        self.rule.update(table, state, rows, turning_RD)
        after_RD = table[rows] if isinstance(rows, slice) else table.index_select(0, rows)
        unit_RD.add_(after_RD).sub_(before_RD)
        size_R1 = torch.linalg.vector_norm(unit_RD, dim=1, keepdim=True)
        table[rows] = unit_RD.mul_(length_R1 / size_R1.clamp_(min=1e-12))
