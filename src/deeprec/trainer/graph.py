"""Steps whose kernels a CUDA device is asked for at once, as one graph.

Python asks for a kernel in some 30 microseconds, and a step is eighty and more: on a large GPU they
take longer to ask for than to run. Recorded once, they are asked for together. A graph works on the
memory and the shapes that it was recorded with, so batches are filled up to the same shapes
(data/padding.py) and brought to the same memory, and whatever changes from step to step, such as a
learning rate, is a tensor.

Reference: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from deeprec.console import console
from deeprec.data.dataset import Batches
from deeprec.data.packed import Packed
from deeprec.data.padding import padding_of
from deeprec.loss.block_size import fitting_block_items
from deeprec.model.sparse_input import SparseInput
from deeprec.table import LazyAdam, RowRule
from deeprec.trainer.constraints import NO_CONSTRAINTS
from deeprec.trainer.module import Training
from deeprec.trainer.row_optimizer import InBackward, InLoss

OF_LAYERS = (torch.optim.Adam, torch.optim.RMSprop)  # that can be recorded
LOOKED_AT = 8  # batches, for how large they become
WARM = 3  # steps, after the first, taken kernel by kernel: they set up what lasts


class Graph:
    """The step of a training, recorded once and asked for as a whole from then on.

    Args:
        training: whose step it is; its learning rates become tensors.
        device: where its parameters are.
    """

    def __init__(self, training: Training, device: torch.device) -> None:
        self.training, self._seen = training, 0
        self._alike_from: int = getattr(training.model, "alike_from", 0)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._memory: Tensor | None = None
        self._loss: Tensor | None = None
        rates_as_tensors(training.built, device)

    @property
    def is_recorded(self) -> bool:
        return self._graph is not None

    def __call__(self, batch: Packed) -> Tensor | None:
        """The loss of a step, which is taken; None: it is yet to be taken, kernel by kernel."""
        if self.training.progress.step < self._alike_from:
            return None
        self._seen += 1
        if self._seen <= WARM:
            return None
        if self._graph is None and not self._recorded(batch):
            return None
        assert self._graph is not None
        assert self._memory is not None
        self._memory.copy_(batch.memory, non_blocking=True)
        self._graph.replay()
        return self._loss

    def _recorded(self, batch: Packed) -> bool:
        """Records the step; where that fails, no further step is asked for as a graph."""
        try:
            self._memory, graph = batch.memory.to(self.training.device), torch.cuda.CUDAGraph()
            self._loss = self._taken_in(graph, batch, self._memory)
        except RuntimeError as error:  # memory that is gone is one
            said = str(error).splitlines()[0]
            console.print(f"[yellow]note[/yellow] steps go on kernel by kernel: no graph ({said})")
            self.training.graph = self._memory = None
            return False
        self._graph = graph
        return True

    def _taken_in(self, graph: torch.cuda.CUDAGraph, batch: Packed, memory: Tensor) -> Tensor:
        asking, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
        try:
            # another thread makes page-locked memory for batches, which this must not forbid it
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                return self.training.take(batch.over(memory))  # unpacked there, too
        except RuntimeError:
            abandon(self.training.device, asking, pool)
            raise


def abandon(device: torch.device, asking: torch.cuda.Stream, pool: Any) -> None:
    """Has torch go on as if a recording that failed had not begun.

    By itself it would stay on the stream of the recording, with memory set aside for it, and refuse
    to draw a random number ever again.

    Args:
        device: of the recording.
        asking: the stream before it.
        pool: its memory.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_stream(asking)
    torch.cuda.default_generators[index].graphsafe_set_state(torch.Generator(device))
    with suppress(RuntimeError):  # it was given back by itself
        torch._C._cuda_endAllocateToPool(index, pool)


def rates_as_tensors(built: Sequence[torch.optim.Optimizer], device: torch.device) -> None:
    """Has learning rates be read where kernels run, so that they may change between steps."""
    for optimizer in built:
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            if "capturable" in group and device.type == "cuda":
                group["capturable"] = True


def record(training: Training, batches: Batches, device: torch.device) -> str | None:
    """Has the steps of a training be taken as a graph; says why not, where that cannot be.

    Args:
        training: before its first step.
        batches: that it will be trained on, as `Training.arrange` gives them.
        device: where its parameters are.
    """
    if obstacle := obstacle_to_graph(training):
        return obstacle
    looked_at = range(min(LOOKED_AT, max(1, len(batches) - 1)))  # the last one may be smaller
    alike = getattr(training.model, "users_apart", False)
    exactly = not (alike and getattr(training.loss, "passes_over_users", False))
    some = [batches.finished(0, position) for position in looked_at]
    padding = padding_of(some, exactly=exactly)
    if isinstance(padding, str):
        return padding
    scored = max(sizes.drawn for sizes in padding.asked) or len(training.recommender.item_bias)
    block_items = getattr(training.loss, "block_items", None)
    block_items = block_items or fitting_block_items(padding.num_users, device.type)
    if scored > block_items:
        return f"{scored:,} items are scored in blocks of {block_items:,}"
    training.padding, training.graph = padding, Graph(training, device)
    return None


def obstacle_to_graph(training: Training) -> str | None:
    """Why the step of a training cannot be recorded, if so, whatever its batches."""
    model, loss = training.model, training.loss
    if not getattr(model, "reads_bags_alone", False):
        return "the model reads more of a batch than sums of embeddings"
    if not getattr(loss, "fills_targets", False):
        return "the loss asks for sizes that differ from batch to batch"
    if training.group is not None:
        return "other processes have a say in each step"
    if training.brake is not None:
        return "a brake looks at each step"
    return _of_tables(model) or _of_optimizers(training)


def _of_tables(model: nn.Module) -> str | None:
    for inputs in model.modules():
        if not isinstance(inputs, SparseInput):
            continue
        if inputs.borrowed or any(len(fields) > 1 for fields in inputs.fields_of.values()):
            return "several fields share a table"
        if inputs.backend_in_use != "torch":
            return f"input tables are run by {inputs.backend_in_use}"
    return None


def _of_optimizers(training: Training) -> str | None:
    constraints = training.optimizer.constraints
    if constraints != NO_CONSTRAINTS or constraints.slopes(training.model):
        return "weights or slopes are held to constraints"
    for optimizer in training.built:
        if not isinstance(optimizer, (*OF_LAYERS, InLoss, InBackward)):
            return f"layers are trained by {type(optimizer).__name__}, which is not recorded"
    rules: list[Any] = [rule for one in training.built for rule in getattr(one, "rules", ())]
    if not all(isinstance(rule, RowRule | LazyAdam) for rule in rules):
        return "rows are held to a length"
    return None
