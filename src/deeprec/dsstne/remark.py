"""What became of each setting that was brought over."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from deeprec.console import console
from deeprec.errors import ConfigError

Outcome = Literal["mapped", "ignored by DSSTNE", "differs", "not carried", "refused"]
STYLES: dict[Outcome, str] = {
    "mapped": "green",
    "ignored by DSSTNE": "dim",
    "differs": "yellow",
    "not carried": "yellow",
}


@dataclass(frozen=True)
class Remark:
    """One line: of which setting, what became of it, and how or why."""

    where: str
    outcome: Outcome
    says: str

    def __str__(self) -> str:
        return f"{self.where}: {self.outcome}: {self.says}"


def show(remarks: Iterable[Remark]) -> None:
    """One line a remark; what is refused is left to `refuse`, so that it stands once."""
    for one in remarks:
        if one.outcome == "refused":
            continue
        style = STYLES[one.outcome]
        console.print(
            f"[{style}]{one.outcome:<17}[/{style}] {one.where}: {one.says}",
            soft_wrap=True,
        )


def refuse(source: object, remarks: Iterable[Remark]) -> None:
    """Raises ConfigError with everything that was refused, if anything was."""
    refused = [f"  - {one.where}: {one.says}" for one in remarks if one.outcome == "refused"]
    if refused:
        raise ConfigError("\n".join([f"{source} cannot be brought over:", *refused]))
