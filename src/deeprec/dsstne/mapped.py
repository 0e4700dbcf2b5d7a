"""What a network of DSSTNE becomes: parts of a config, and what is to be said of them."""

from dataclasses import dataclass, field
from typing import Any

from deeprec.dsstne.remark import Outcome, Remark


@dataclass
class Mapped:
    """The parts, by group, and the remarks."""

    choices: dict[str, str] = field(default_factory=dict)  # group -> choice
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)  # of the optimizer
    rate: dict[str, float] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def say(self, where: str, outcome: Outcome, says: str) -> None:
        self.remarks.append(Remark(where, outcome, says))
