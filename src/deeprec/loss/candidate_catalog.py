"""Some items of the catalog, taken for the whole of it: what sampled losses score in its place.

Rows are gathered once, any loss of the engine runs on them, and what it learns of them goes back to
the rows of the catalog: at once by the optimizer's updates, or through autograd. With updates a
step costs what it scores, whatever the size of the catalog.

Shapes (legend in deeprec/batch.py): R distinct items that are scored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deeprec.batch import Encoded, Jagged
from deeprec.loss.negatives import Negatives
from deeprec.table import Rows, RowUpdate, Updates


@dataclass(frozen=True)
class CandidateCatalog:
    """What a loss is called with, in the indices of the candidates."""

    share_R: Tensor  # for how many items of the catalog each stands
    encoded: Encoded
    item_weight_RD: Tensor
    item_bias_R: Tensor
    target: Jagged
    updates: Updates


def candidate_catalog(
    negatives: Negatives,
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    target: Jagged,
    updates: Updates,
    *,
    corrected: bool,
) -> CandidateCatalog:
    """The batch's targets and drawn negatives as a catalog of their own.

    Args:
        negatives: draws them.
        encoded: of the users; repeat scores of items that are no candidates are left out.
        item_weight_VD: float [V, D].
        item_bias_V: float [V].
        target: item indices in [0, V).
        updates: of rows of the whole catalog.
        corrected: add the logarithm of how many items each stands for to its scores.
    """

    def hardness(items: Tensor) -> Tensor:
        weight_SD, bias_S = item_weight_VD.detach()[items], item_bias_V.detach()[items]
        hidden_BD = encoded.hidden_BD.detach().to(weight_SD.dtype)
        return torch.addmm(bias_S, hidden_BD, weight_SD.T).logsumexp(0)

    items_R, share_R = negatives.candidates(target.values, hardness)
    share_R = share_R.to(item_bias_V.dtype)
    offset_R = share_R.log() if corrected else torch.zeros_like(share_R)
    return CandidateCatalog(
        share_R,
        _among(encoded, items_R, offset_R),
        _rows(item_weight_VD, items_R, updates.item_weight),
        _rows(item_bias_V, items_R, updates.item_bias) + offset_R,
        Jagged(torch.searchsorted(items_R, target.values), target.offsets, target.weights),
        Updates(_at(items_R, updates.item_weight), _at(items_R, updates.item_bias), updates.weight),
    )


def _rows(table: Tensor, items_R: Tensor, update: RowUpdate | None) -> Tensor:
    """Rows of a table; where an update takes their gradient, autograd must not reach the table."""
    if update is None:
        return table.index_select(0, items_R)
    return table.detach().index_select(0, items_R).requires_grad_(table.requires_grad)


def _at(items_R: Tensor, update: RowUpdate | None) -> RowUpdate | None:
    """The update of the catalog's rows, told in the indices of the candidates."""
    if update is None:
        return None

    def of_candidates(rows: Rows, gradient: Tensor) -> None:
        update(items_R[rows], gradient)

    return of_candidates


def _among(encoded: Encoded, items_R: Tensor, offset_R: Tensor) -> Encoded:
    """The repeat scores of candidates, in their indices."""
    items_M, offsets_B1 = encoded.repeat_items_M, encoded.repeat_offsets_B1
    if len(items_M) == 0:
        return encoded
    places_M = torch.searchsorted(items_R, items_M).clamp_(max=len(items_R) - 1)
    found = items_R[places_M] == items_M
    before_M1 = torch.nn.functional.pad(found.cumsum(0), (1, 0))
    places = places_M[found]
    scores = encoded.repeat_scores_M[found] + offset_R[places]
    return Encoded(encoded.hidden_BD, places, before_M1[offsets_B1], scores)
