"""Contrastive divergence: a restricted Boltzmann machine told apart from what it dreams.

What users had should have low free energy, and what the machine makes of it in a few steps of Gibbs
sampling should not:

    F(v) = - sum_i v_i item_bias_i - sum_d softplus(hidden_bias_d + sum_i v_i item_weight_id)
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Encoded, Jagged
from deeprec.device import generator_of
from deeprec.loss.asked import Target, asked_of
from deeprec.loss.block_gradient import Gradient, Lengths
from deeprec.loss.block_size import check_block_items
from deeprec.loss.blocks import Block, Blocks, product_dtype
from deeprec.loss.catalog_blocks import Walk, catalog_loss
from deeprec.loss.fit import Trained
from deeprec.table import NO_UPDATES, Updates


class ContrastiveDivergence(nn.Module):
    """The free energy of what users had, less that of what the machine reconstructs of it.

    Its gradient is that of contrastive divergence: reconstructions are drawn, and held fixed. Its
    value is no likelihood: it is near 0 where reconstructions look like what they are made of.

    Args:
        hidden_bias: float [D], known from the model; None: the model has no stochastic units.
        steps: of Gibbs sampling between what a user had and its reconstruction; the more, the
            closer to the gradient of the likelihood.
        block_items: visible units drawn at once; None: as many as suit the device.

    Raises:
        ValueError: steps or block_items is below 1.

    Reference:
        Hinton, Training Products of Experts by Minimizing Contrastive Divergence, Neural
        Computation 2002.
    """

    weighs_targets = False  # they are visible units

    def __init__(
        self,
        *,
        hidden_bias: Tensor | None = None,
        steps: int = 1,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        if steps < 1:
            raise ValueError(f"steps must be 1 or more, got {steps}")
        self.hidden_bias, self.steps, self.block_items = hidden_bias, steps, block_items

    def unfit(self, trained: Trained) -> list[str]:
        """What keeps it from training such a model; see `Trained`."""
        if self.hidden_bias is not None:
            return []
        return ["loss: contrastive_divergence trains stochastic hidden units; use model=rbm"]

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Mean over users.

        The whole catalog is drawn block by block, and drawn again, the same, when the hidden units
        that a reconstruction leads to are known: no `[B, V]` tensor is held. Draws are those of the
        device's own generator.

        Args:
            encoded: for the number of users; hidden units are drawn from the target.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V): the visible units that are on. A
                user may have none.
            updates: change rows of the catalog table and bias as soon as their gradient is known.

        Returns:
            float32 []. Unit: nats per user; may be below 0.

        Example:
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> user = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> had = Jagged(torch.tensor([1]), torch.tensor([0, 1]))
            >>> sure = torch.tensor([50.0, -50.0])  # every dream is of item 0, and of it alone
            >>> loss = ContrastiveDivergence(hidden_bias=torch.zeros(4))
            >>> loss(user, torch.zeros(2, 4), sure, had)
            tensor(100.)
        """
        assert self.hidden_bias is not None, "refused before the run"
        asked = asked_of(target, encoded, item_bias_V)
        dtype = product_dtype(item_weight_VD)

        def dream_of(on_BD: Tensor) -> _Dream:
            shown = encoded._replace(hidden_BD=on_BD)
            return _Dream(
                Blocks(shown, item_weight_VD, item_bias_V, asked, self.block_items, dtype)
            )

        with torch.no_grad(), torch.autocast(item_weight_VD.device.type, enabled=False):
            given_BD = self.hidden_bias + _sums(asked.target, item_weight_VD)
            dream = dream_of(torch.bernoulli(given_BD.sigmoid()))
            dreamt_BD = self.hidden_bias + dream.sums()
            for _ in range(self.steps - 1):
                dream = dream_of(torch.bernoulli(dreamt_BD.sigmoid()))
                dreamt_BD = self.hidden_bias + dream.sums()
        of_visible = catalog_loss(
            _contrast(dream),
            encoded._replace(hidden_BD=torch.cat([given_BD, dreamt_BD]).sigmoid()),
            item_weight_VD,
            item_bias_V,
            asked,
            num_users=len(given_BD),
            block_items=self.block_items,
            updates=updates,
        )
        return of_visible + _of_hidden(self.hidden_bias, given_BD, dreamt_BD)


class _Dream:
    """Visible units drawn from hidden ones, a block at a time; each pass draws the same.

    Args:
        blocks: whose hidden units are on or off.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._generator = generator_of(blocks.hidden_BD.device)
        self._state = self._generator.get_state()

    def __iter__(self) -> Iterator[tuple[Block, Tensor]]:
        """Each block and its units, float [B, C] of 0 and 1."""
        self._generator.set_state(self._state)
        for block in self._blocks:
            chances_BC = self._blocks.scores(block).sigmoid_()
            yield block, torch.bernoulli(chances_BC, generator=self._generator)

    def sums(self) -> Tensor:
        """Float [B, D]: the rows of the units that are on, added up."""
        blocks, sums_BD = self._blocks, torch.zeros_like(self._blocks.hidden_BD)
        for block, visible_BC in self:
            sums_BD += visible_BC.to(blocks.product_dtype) @ blocks.weight(block.items)
        return sums_BD


def _contrast(dream: _Dream) -> Walk:
    """What visible units add to the loss, and their part of its gradient.

    It goes over blocks of twice the users: what each had and its chances of hidden units, then what
    each dreamt and what that leads to.
    """

    def walk(blocks: Blocks, gradient: Gradient | Lengths | None) -> Tensor:
        total = blocks.hidden_BD.new_zeros(())
        for block, visible_BC in dream:
            had_BC = torch.zeros_like(visible_BC)
            had_BC.index_put_(block.places, had_BC.new_full((), -1.0))
            grad_SC = torch.cat([had_BC, visible_BC])
            total += grad_SC.sum(0) @ blocks.item_bias_V[block.items]
            if gradient is not None:
                gradient.add(block, grad_SC)
        return total

    return walk


def _of_hidden(hidden_bias_D: Tensor, given_BD: Tensor, dreamt_BD: Tensor) -> Tensor:
    """What hidden units add to the loss; its gradient goes to their bias alone."""
    cost = F.softplus(given_BD).sum(1).mean() - F.softplus(dreamt_BD).sum(1).mean()
    slope_D = (dreamt_BD.sigmoid() - given_BD.sigmoid()).mean(0)
    return slope_D @ (hidden_bias_D - hidden_bias_D.detach()) - cost


def _sums(rows: Jagged, item_weight_VD: Tensor) -> Tensor:
    """Float [B, D]: the rows of each user's items, added up."""
    sums_BD: Tensor = F.embedding_bag(
        rows.values, item_weight_VD, rows.offsets, mode="sum", include_last_offset=True
    )
    return sums_BD
