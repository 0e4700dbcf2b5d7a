"""A Gram matrix that is kept from step to step, for catalogs where V D^2 a step is too much.

Its value is exact: the rows that a step may change are remembered as they were, and at the next
step the difference is added. Its gradient is estimated without bias: rows that the batch changes
anyway have their own, of the others some are drawn, each standing for as many as its draw makes it
stand for. So a step costs O(R D^2) for the R rows it changes, whatever the size of the catalog.

Shapes: R rows that a step may change; E as in deeprec/loss/gram.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeprec.batch import Asked, Jagged, Sample, with_transposition
from deeprec.errors import ConfigError
from deeprec.loss.gram import BLOCK_ITEMS, ExactGram, blocks, extended, scaled, sparse_rows
from deeprec.loss.negatives import Negatives

REFRESH_STEPS = 512  # between two exact computations
TOLERATED = 1e-3  # relative error of what is kept; rounding stays below 1e-5


class KeptGram:
    """As `ExactGram`, at a cost that does not grow with the catalog.

    It is called once a step, and rows of the table may change only where it was told so: those of
    `changing_P` and those that it gives a gradient. A change that it was not told of is found at
    the next exact computation: after 1, 2, 4, ... steps, and then every `REFRESH_STEPS`.

    What is drawn is drawn when it is called, for which CUDA waits.

    A run that is resumed computes the matrix anew, so it agrees with one that was never interrupted
    to the rounding of the matrix, not to the bit.

    Args:
        num_items: V.
        draws: rows drawn for a step.
        popularity: int64 [V]; see `Negatives`.
        block_items: items whose part of the matrix is made at once, where all of it is.
    """

    dense_gradient = False

    def __init__(
        self,
        num_items: int,
        draws: int,
        *,
        popularity: Tensor | None,
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        self.draws = Negatives(num_items, draws, popularity=popularity)
        self.block_items = block_items
        self._kept: dict[tuple[int, int], _Kept] = {}

    def __call__(
        self,
        item_weight_VD: Tensor,
        item_bias_V: Tensor | None,
        item_scale_V: Tensor | None,
        changing_P: Tensor,
    ) -> Tensor:
        """Float [E, E]; see `ExactGram`.

        Args:
            changing_P: int64 [P], items whose rows have a gradient from elsewhere; repeats are
                fine.

        Raises:
            ConfigError: what is kept is not the Gram matrix of the table, because rows changed
                that this was not told of.
        """
        sample = self.draws.sample(_asked(changing_P))
        assert isinstance(sample, Sample), "what changes stands for itself"
        key = item_weight_VD.data_ptr(), 0 if item_bias_V is None else item_bias_V.data_ptr()
        tables = _Tables(
            item_weight_VD.detach(), _detached(item_bias_V), item_scale_V, self.block_items
        )
        kept = self._kept.setdefault(key, _Kept())
        with torch.autocast(item_weight_VD.device.type, enabled=False):
            gram_EE = kept.brought_up_to_date(tables)
        kept.remember(tables, sample.items)
        found: Tensor = _GramOfSome.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            item_weight_VD, item_bias_V, item_scale_V, gram_EE, sample.items, sample.shares
        )
        return found


def new_gram(
    num_items: int, popularity: Tensor | None, gram_items: int | None, block_items: int
) -> ExactGram | KeptGram:
    """What `gram_items` of a loss asks for: None exact, else kept, from so many draws a step.

    Raises:
        ValueError: gram_items or block_items is below 1.
    """
    exact = ExactGram(block_items)
    if gram_items is None:
        return exact
    if gram_items < 1:
        raise ValueError(f"gram_items must be 1 or more, got {gram_items}")
    return KeptGram(num_items, gram_items, popularity=popularity, block_items=block_items)


@dataclass(frozen=True)
class _Tables:
    item_weight_VD: Tensor
    item_bias_V: Tensor | None
    item_scale_V: Tensor | None
    block_items: int

    def rows(self, items_R: Tensor) -> Tensor:
        return extended(self.item_weight_VD, self.item_bias_V, items_R)

    def gram_of(self, rows_RE: Tensor, items_R: Tensor) -> Tensor:
        return rows_RE.T @ scaled(rows_RE, self.item_scale_V, items_R)

    def exact(self) -> Tensor:
        """Float64 [E, E], summed in blocks."""
        total: Tensor | None = None
        for items in blocks(len(self.item_weight_VD), self.block_items):
            rows_CE = extended(self.item_weight_VD, self.item_bias_V, items)
            part = (rows_CE.T @ scaled(rows_CE, self.item_scale_V, items)).double()
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


class _Kept:
    """The matrix of one table, and rows that may have changed since it was right."""

    def __init__(self) -> None:
        self._gram_EE: Tensor | None = None  # float64: what is added every step must not add up
        self._before: tuple[Tensor, Tensor] | None = None  # rows, and what was in them
        self._steps, self._next_check = 0, 1

    def brought_up_to_date(self, tables: _Tables) -> Tensor:
        """Float [E, E], of the table as it is."""
        if self._gram_EE is None:
            self._gram_EE = tables.exact()
        if self._before is not None:
            items_R, before_RE = self._before
            change_EE = tables.gram_of(tables.rows(items_R), items_R)
            self._gram_EE += change_EE - tables.gram_of(before_RE, items_R)
            self._steps += 1
            if self._steps == self._next_check:
                self._check(tables)
        return self._gram_EE.to(tables.item_weight_VD.dtype)

    def remember(self, tables: _Tables, items_R: Tensor) -> None:
        """Takes note of the rows that may change before the next step."""
        self._before = items_R, tables.rows(items_R)

    def _check(self, tables: _Tables) -> None:
        assert self._gram_EE is not None
        exact_EE = tables.exact()
        wrong = (self._gram_EE - exact_EE).norm() / exact_EE.norm().clamp(min=1e-30)
        if not wrong <= TOLERATED:
            raise ConfigError(
                f"the Gram matrix kept for loss.gram_items is off by {wrong.item():.2g}: rows of "
                "the catalog table changed that the loss was not told of; set loss.gram_items=null"
            )
        self._gram_EE = exact_EE
        self._next_check = self._steps + min(self._steps, REFRESH_STEPS)


class _GramOfSome(torch.autograd.Function):
    """A matrix that is known, with a gradient for some rows of what it was made from."""

    @staticmethod
    def forward(
        ctx: Any,
        item_weight_VD: Tensor,
        item_bias_V: Tensor | None,
        item_scale_V: Tensor | None,
        gram_EE: Tensor,
        items_R: Tensor,
        share_R: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(item_weight_VD, item_bias_V, item_scale_V, items_R, share_R)
        return gram_EE.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_EE: Tensor) -> tuple[Tensor | None, ...]:
        item_weight_VD, item_bias_V, item_scale_V, items_R, share_R = ctx.saved_tensors
        rows_RE = extended(item_weight_VD, item_bias_V, items_R)
        rows_RE = scaled(rows_RE, item_scale_V, items_R) * share_R[:, None].to(rows_RE.dtype)
        found_RE = rows_RE @ (grad_EE + grad_EE.T)
        weight, bias = found_RE, None
        if item_bias_V is not None:
            weight = found_RE[:, :-1].contiguous()
            bias = sparse_rows(items_R, found_RE[:, -1].contiguous(), item_bias_V)
        return sparse_rows(items_R, weight, item_weight_VD), bias, *[None] * 4


def _detached(table: Tensor | None) -> Tensor | None:
    return None if table is None else table.detach()


def _asked(changing_P: Tensor) -> Asked:
    """All that changes as the target of one user."""
    ends = torch.tensor([0, len(changing_P)])
    none = Jagged(changing_P[:0], torch.zeros_like(ends))
    return Asked(with_transposition(Jagged(changing_P, ends)), with_transposition(none))
