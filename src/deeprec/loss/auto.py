"""Softmax, exact or sampled: what a catalog, a model and a device call for."""

from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.loss.asked import Target
from deeprec.loss.catalog_blocks import BLOCK_ITEMS
from deeprec.loss.negatives import Negatives
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.table import NO_UPDATES, Updates

# Operations of the exact loss in a step above which it is sampled: some seconds on two processor
# cores in float32; on an accelerator, whose rate nobody measured here, about a tenth of that.
BUDGETS = {"cpu": 1e12, "cuda": 3e13}


class Auto(nn.Module):
    """Softmax while scoring the whole catalog at each step is affordable, else sampled softmax.

    At a few ten thousand items sampling makes a step cheaper and the lists worse, so it is left to
    catalogs where the exact loss costs more than the budget. The choice follows from the numbers of
    config, data and the kind of device alone, so that a run is the same wherever it is repeated.

    Args:
        num_items: V, known from the data.
        popularity: int64 [V], training users that had each item, known from the data.
        width: D, known from the model.
        batch_users: B, known from the trainer.
        device: `cpu` or `cuda`, known from the machine.
        negatives: items drawn for a batch where the loss is sampled.
        block_items: items scored at once.

    Raises:
        ValueError: negatives or block_items is below 1.

    Example:
        >>> Auto(30_000, width=128, batch_users=256).note
        'softmax over all 30,000 items: 0.008 of at most 1 TFLOP a step on cpu'
    """

    def __init__(
        self,
        num_items: int,
        *,
        popularity: Tensor | None = None,
        width: int = 128,
        batch_users: int = 256,
        device: str = "cpu",
        negatives: int = 4096,
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__()
        # scores, scores again or kept, and two gradients: four products of 2 B V D operations
        cost = 8.0 * batch_users * num_items * width
        sampled = SampledSoftmax(
            num_items, popularity=popularity, negatives=negatives, block_items=block_items
        )
        affordable = cost <= BUDGETS[device]
        self.chosen = Softmax(block_items=block_items) if affordable else sampled
        self.block_items = block_items
        what = f"softmax over all {num_items:,} items" if affordable else "sampled softmax"
        self.note = (
            f"{what}: {_tera(cost)} of at most {_tera(BUDGETS[device])} TFLOP a step on {device}"
            + ("" if affordable else f" would be needed to score all {num_items:,}; {sampled.note}")
        )

    @property
    def negatives(self) -> Negatives | None:
        """What draws the items that are scored; None: all of them are."""
        return getattr(self.chosen, "negatives", None)

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """As the loss that was chosen."""
        loss: Tensor = self.chosen(encoded, item_weight_VD, item_bias_V, target, updates)
        return loss


def _tera(operations: float) -> str:
    return f"{operations / 1e12:.1g}"
