"""Input dropout: a part of a history's items that is shown, and the rest."""

from dataclasses import replace

import torch
from torch import Tensor

from deeprec.batch import Jagged


def divide(rows: Jagged, share: float, draw: torch.Generator) -> tuple[Jagged, Jagged]:
    """Values kept, their weights scaled up by 1 / (1 - share), and values dropped."""
    kept = _kept(rows, share, draw)
    return _scaled_up(rows, kept, share), replace(_only(rows, kept.logical_not()), weights=None)


def thinned(rows: Jagged, share: float, draw: torch.Generator) -> Jagged:
    """The first of `divide`, alone."""
    return _scaled_up(rows, _kept(rows, share, draw), share)


def _kept(rows: Jagged, share: float, draw: torch.Generator) -> Tensor:
    return torch.rand(len(rows.values), generator=draw) >= share


def _scaled_up(rows: Jagged, kept: Tensor, share: float) -> Jagged:
    found = _only(rows, kept)
    assert found.weights is not None
    return replace(found, weights=found.weights / (1.0 - share))


def _only(rows: Jagged, chosen: Tensor) -> Jagged:
    """The chosen values, by their places: to select with a mask takes longer."""
    places = torch.nonzero(chosen).squeeze(1)
    weights = torch.ones(len(rows.values)) if rows.weights is None else rows.weights
    return Jagged(
        rows.values.index_select(0, places),
        torch.searchsorted(places, rows.offsets),
        weights.index_select(0, places),
    )


def check_share(name: str, share: float) -> None:
    """Raises ValueError if this is no share below the whole, such as a chance of dropping."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {share}")
