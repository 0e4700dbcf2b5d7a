"""Some items of the catalog, taken for the whole of it: what sampled losses score in its place.

Rows are gathered once, any loss of the engine runs on them, and what it learns of them goes back to
the rows of the catalog: at once by the optimizer's updates, or through autograd. With updates a
step costs what it scores, whatever the size of the catalog.

Shapes (legend in deeprec/batch.py): R distinct items that are scored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deeprec.batch import Asked, Encoded, Sample
from deeprec.loss.asked import Target, asked_of
from deeprec.loss.block_size import fitting_block_items
from deeprec.loss.negatives import Negatives
from deeprec.table import Rows, RowUpdate, Updates


@dataclass(frozen=True)
class CandidateCatalog:
    """What a loss is called with, in the indices of the candidates."""

    items_R: Tensor  # int64 [R]
    share_R: Tensor  # for how many items of the catalog each stands
    encoded: Encoded
    item_weight_RD: Tensor
    item_bias_R: Tensor
    asked: Asked
    updates: Updates


def candidate_catalog(
    negatives: Negatives,
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    target: Target,
    updates: Updates,
    *,
    block_items: int | None = None,
) -> CandidateCatalog:
    """The batch's targets and drawn negatives as a catalog of their own.

    Args:
        negatives: draws them, where `target` comes without a sample.
        encoded: of the users; repeat scores of items that are no candidates are left out.
        item_weight_VD: float [V, D].
        item_bias_V: float [V].
        target: item indices in [0, V), plain or arranged.
        updates: of rows of the whole catalog.
        block_items: items of a pool scored at once; None: as many as suit the device.
    """
    asked = asked_of(target, encoded, item_bias_V)
    sample = asked.sample or negatives.sample(asked)
    assert isinstance(sample, Sample), "targets that are not shared are scored by own_targets.py"
    items_R, share_R = sample.items, sample.shares.to(item_bias_V.dtype)
    if sample.num_hardest:
        hardest = _hardest(sample, encoded, item_weight_VD, item_bias_V, block_items)
        items_R = torch.cat([items_R, hardest])
        share_R = torch.cat([share_R, share_R.new_ones(sample.num_hardest)])
    at = items_R, sample.places
    repeat_scores = encoded.repeat_scores_M[sample.of_repeats]
    return CandidateCatalog(
        items_R,
        share_R,
        Encoded(encoded.hidden_BD, sample.repeats.values, sample.repeats.offsets, repeat_scores),
        _rows(item_weight_VD, items_R, updates.item_weight),
        _rows(item_bias_V, items_R, updates.item_bias),
        Asked(sample.target, sample.repeats),
        Updates(_at(*at, updates.item_weight), _at(*at, updates.item_bias), updates.weight),
    )


def _hardest(
    sample: Sample,
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    block_items: int | None,
) -> Tensor:
    """int64: items of the pool that the batch scores highest; of all of it one number is kept."""
    with torch.no_grad():
        hidden_BD = encoded.hidden_BD.to(item_weight_VD.dtype)
        count = block_items or fitting_block_items(len(hidden_BD), hidden_BD.device.type)
        # made before, for the numbers of each block would lie where its scores were: the next block
        # would find no room there, and all blocks together would take what [B, S] does
        hardness_S = hidden_BD.new_empty(len(sample.pool))
        for start in range(0, len(hardness_S), count):
            items_C = sample.pool[start : start + count]
            hardness_S[start : start + count] = torch.addmm(
                item_bias_V[items_C], hidden_BD, item_weight_VD[items_C].T
            ).logsumexp(0)
        return sample.pool[hardness_S.topk(sample.num_hardest).indices]


def _rows(table: Tensor, items_R: Tensor, update: RowUpdate | None) -> Tensor:
    """Rows of a table; where an update takes their gradient, autograd must not reach the table."""
    if update is None:
        return table.index_select(0, items_R)
    return table.detach().index_select(0, items_R).requires_grad_(table.requires_grad)


def _at(items_R: Tensor, places_R: Tensor | None, update: RowUpdate | None) -> RowUpdate | None:
    """The update of the catalog's rows, told in the indices of the candidates."""
    if update is None:
        return None

    def of_candidates(rows: Rows, gradient: Tensor) -> None:
        if places_R is not None:  # of all at once: what stands again changes as it does
            gradient = gradient.index_select(0, places_R)
        update(items_R[rows], gradient)

    return of_candidates
