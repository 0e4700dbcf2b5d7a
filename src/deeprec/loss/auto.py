"""Which loss a catalog, a model, a batch and a memory call for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deeprec.loss.block_size import check_block_items

# Operations of the exact loss in a step above which it is estimated: some seconds on two processor
# cores in float32; on an accelerator, whose rate nobody measured here, about a tenth of that.
BUDGETS = {"cpu": 1.2e12, "cuda": 3e13}
# What passes over numbers cost beside products, as the operations of products that take as long, on
# a thread of an EPYC: the time of a step at widths 16 to 512, fitted as products and a rest. Of a
# softmax over 200,000 items for 256 users a product's operation takes 0.0114 ns and the rest of a
# score, its exponential and its way through memory, 10 ns: at width 32 that is most of the step.
# On CUDA the same is taken, which nobody measured there.
OF_A_SCORE = 900.0
# Of a Gram matrix of 200,000 items with Adam 0.021 ns and, of a number of the table, 8.6 ns.
OF_A_NUMBER = 400.0
SOFTMAX = "deeprec.loss.softmax.Softmax"
SAMPLED = "deeprec.loss.sampled_softmax.SampledSoftmax"
COSINE = "deeprec.loss.cosine.Cosine"
OF_COSINES = 0.15  # temperature: on MovieLens 1M ndcg@100 is .307, of .1 .297, of .2 .305


@dataclass(frozen=True)
class Choice:
    """A loss, as its config says it, and why it was taken."""

    loss: Mapping[str, Any]
    why: str


class Auto:
    """Chooses a loss before a run begins; the run's config holds what was chosen.

    A linear model gets the cosine loss by a Gram matrix, any other the softmax over the whole
    catalog, of scores that are cosines at a low temperature. Where a step of it costs more than the
    budget, or it does not fit into memory, it is estimated. At a few ten thousand items an estimate
    makes a step cheaper and the lists worse.

    A step costs its matrix products, and the passes over scores or rows beside them, which take
    longer where a model is narrow.

    Args:
        num_items: V, known from the data.
        popularity: int64 [V], training users that had each item, known from the data.
        num_users: training users, known from the data.
        width: D, known from the model.
        linear: whether a history is the sum of its rows of the catalog table, known from the model.
        unit_rows: whether scores are cosines, known from the model.
        batch_users: B, known from the trainer.
        hidden_per_user: hidden vectors of a user in a step, known from the model.
        device: `cpu` or `cuda`, known from the machine.
        negatives: items drawn for a batch where the loss is estimated.
        block_items: items scored at once, or whose part of the Gram matrix is made at once; None:
            as many as suit the device.

    Raises:
        ValueError: negatives or block_items is below 1.

    Example:
        >>> Auto(30_000, width=128, batch_users=256).choose(lambda loss: 10**6, 10**9).why
        'softmax over all 30,000 items: 0.015 of at most 1.2 TFLOP a step on cpu, 1 of 1,000 MB'
    """

    def __init__(
        self,
        num_items: int,
        *,
        popularity: Tensor | None = None,
        num_users: int = 1,
        width: int = 128,
        linear: bool = False,
        unit_rows: bool = False,
        batch_users: int = 256,
        hidden_per_user: float = 1.0,
        device: str = "cpu",
        negatives: int = 4096,
        block_items: int | None = None,
    ) -> None:
        if negatives < 1:
            raise ValueError(f"negatives must be 1 or more, got {negatives}")
        check_block_items(block_items)
        self.num_items, self.linear, self.device = num_items, linear, device
        self.negatives, self.block_items = negatives, block_items
        self.temperature = OF_COSINES if unit_rows else 1.0
        # scores, scores again or kept, and two gradients: four products of 2 B V D operations; a
        # Gram matrix, and the gradient of its rows: two products of 2 V D D
        if linear:
            self.cost = num_items * width * (4.0 * width + OF_A_NUMBER)
        else:
            scores = float(num_items) * batch_users * hidden_per_user
            self.cost = scores * (8.0 * width + OF_A_SCORE)
        self.targets = _distinct_targets(popularity, num_users, batch_users)

    def choose(self, bytes_of: Callable[[Mapping[str, Any]], int], available: int) -> Choice:
        """The exact loss if a step of it can be afforded and it fits, else the estimated one.

        Args:
            bytes_of: what training with a loss takes, in bytes.
            available: bytes.
        """
        exact, estimated = self._exact(), self._estimated()
        budget, needed = BUDGETS[self.device], bytes_of(exact)
        limits = f"{_tera(self.cost)} of at most {_tera(budget)} TFLOP a step on {self.device}"
        limits += f", {needed / 1e6:,.0f} of {available / 1e6:,.0f} MB"
        what = "cosine by the Gram matrix of" if self.linear else "softmax over"
        what = f"{what} all {self.num_items:,} items"
        # if neither fits, the one that needs less is refused with what helps it
        fits = needed <= available or needed <= bytes_of(estimated)
        if self.cost <= budget and fits:
            return Choice(exact, f"{what}: {limits}")
        instead = f"{self.negatives:,} drawn items" + (
            ""
            if self.linear
            else f", about {self.targets:,.0f} distinct targets a batch, each "
            f"{'for all users' if estimated['shared_targets'] else 'for its own users alone'}"
        )
        return Choice(estimated, f"{what} is estimated, by {instead}; exact: {limits}")

    def _exact(self) -> dict[str, Any]:
        if self.linear:
            given = {} if self.block_items is None else {"block_items": self.block_items}
            return {"_target_": COSINE, "_partial_": True, **given}
        return {
            "_target_": SOFTMAX,
            "temperature": self.temperature,
            "block_items": self.block_items,
        }

    def _estimated(self) -> dict[str, Any]:
        if self.linear:
            return {**self._exact(), "gram_items": min(self.negatives, self.num_items)}
        return {
            "_target_": SAMPLED,
            "_partial_": True,
            "temperature": self.temperature,
            "negatives": self.negatives,
            # benchmarks/step_100k.py: half the step; equal_minutes.py: lists a little worse where
            # targets are few, as they are in a small catalog
            "shared_targets": self.targets <= self.negatives,
            "block_items": self.block_items,
        }


def _distinct_targets(popularity: Tensor | None, num_users: int, batch_users: int) -> float:
    """Expected distinct items of so many users drawn from all; 0 where popularity is unknown."""
    if popularity is None:
        return 0.0
    share_V = (popularity.double() / max(num_users, 1)).clamp(max=1.0)
    return float((1.0 - (1.0 - share_V) ** batch_users).sum())


def _tera(operations: float) -> str:
    return f"{operations / 1e12:.2g}"
