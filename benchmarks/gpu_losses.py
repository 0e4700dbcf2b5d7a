"""Exact losses on a GPU in blocks of several sizes, beside the rate of their three products."""

from collections.abc import Callable
from functools import partial

import torch
from catalog_loss import problem
from lightning.fabric.utilities.apply_func import move_data_to_device
from matrix_rate import GOALS, products
from on_device import DEVICE, Report, Runner, Timed, in_turns
from sized import sized
from torch import Tensor

from deeprec.batch import Asked, Encoded, Jagged, with_transposition
from deeprec.loss.marginal import Marginal
from deeprec.loss.softmax import Softmax

ITEMS, BLOCKS, STEPS = sized((27_278, (2_048, 8_192, 32_768), 8), quick=(300, (64, 512), 2))
WIDTHS, BATCHES = sized(((256,), (512, 4_096)), quick=((8,), (8,)))
LOSSES: dict[str, Callable[..., Callable[..., Tensor]]] = {"softmax": Softmax, "marginal": Marginal}
PRODUCTS = "three products alone"


def measure_losses(report: Report) -> None:
    for users in BATCHES:
        for width in WIDTHS:
            hidden_BD, weight_VD, bias_V, target = problem(ITEMS, width, users, DEVICE)
            leaves, asked = (hidden_BD, weight_VD, bias_V), asked_on_device(target)
            for dtype in (torch.float32, torch.bfloat16):
                part = f"D = {width}, {users:,} users, {str(dtype)[6:]}"
                taken = in_turns(forms(leaves, asked, dtype), STEPS)
                fastest = min((PRODUCTS + of(block) for block in BLOCKS), key=lambda n: taken[n].ms)
                report.rows_of(part, taken, users=users, against=fastest)
                tell_goals(report, part, taken, taken[fastest].ms, GOALS[dtype])


def of(block_items: int) -> str:
    return f", blocks of {block_items:,}"


def asked_on_device(target: Jagged) -> Asked:
    """Arranged on the host, as a run has it."""
    none = Jagged(target.values[:0], torch.zeros_like(target.offsets))
    asked: Asked = move_data_to_device(
        Asked(with_transposition(target), with_transposition(none)), DEVICE
    )
    return asked


def forms(
    leaves: tuple[Tensor, Tensor, Tensor], asked: Asked, dtype: torch.dtype
) -> dict[str, Runner]:
    found = {
        name + of(block): Runner(partial(gradients, loss(block_items=block), leaves, asked, dtype))
        for name, loss in LOSSES.items()
        for block in BLOCKS
    }
    for block in BLOCKS:
        found[PRODUCTS + of(block)] = Runner(products(*leaves, dtype, block_items=block))
    return found


def gradients(
    loss: Callable[..., Tensor],
    leaves: tuple[Tensor, Tensor, Tensor],
    asked: Asked,
    dtype: torch.dtype,
) -> None:
    """Value and gradients, in the place of those of before."""
    for leaf in leaves:
        leaf.grad = None
    hidden_BD, weight_VD, bias_V = leaves
    repeats = asked.repeats
    encoded = Encoded(hidden_BD, repeats.values, repeats.offsets, hidden_BD.new_zeros(0))
    narrow = dtype == torch.bfloat16
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=narrow):
        value = loss(encoded, weight_VD, bias_V, asked)
    value.backward()  # type: ignore[no-untyped-call]  # torch leaves it so


def tell_goals(
    report: Report, part: str, taken: dict[str, Timed], floor: float, goal: float
) -> None:
    """The share that each loss reaches in the blocks that suit it best."""
    for name in LOSSES:
        best = min(taken[name + of(block)].ms for block in BLOCKS)
        what = f"{name}, {part}, best blocks"
        report.goal(what, goal, floor / best, "higher", "of the products' rate")
