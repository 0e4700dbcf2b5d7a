"""What a run will hold in memory, said and checked before its first step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from deeprec.errors import ResourceError
from deeprec.halving import denies_memory
from deeprec.loss.block_size import fitting_block_items
from deeprec.loss.gram import ExactGram
from deeprec.loss.kept_gram import KeptGram
from deeprec.machine import free_memory_bytes
from deeprec.model.base import PerUser
from deeprec.trainer.kinds import kinds_of
from deeprec.trainer.optimizer import Optimizer
from deeprec.trainer.sharding import choose_plans

FLOAT = 4  # bytes
LARGE = 100_000  # numbers of a table that has lines of its own
EVENT = 150  # bytes an event of a batch costs on its way: keys, order, ages, features, gradients
SOLVED_EVENT = 100  # bytes an event costs where all are held at once: keys, order, ages, weights
FEWER = "fewer items (data.filters)"
POOLED = 64  # bytes a draw of a pool costs: 41 at most to be made, 8 in each batch made ahead
BLOCK, NEGATIVES = "a smaller loss.block_items", "fewer loss.negatives"
POOL, GRAM_ITEMS = "a smaller loss.pool", "fewer loss.gram_items"
STATE = "optimizer=rowwise_adagrad"
NO_COPY = "trainer.save_in_background=false"
FEWER_PROCESSES = "fewer trainer.processes"
NO_FORK = "trainer.prefetch_processes=0"
GRAPH = "trainer.cuda_graph=false"
EASY = 10  # times what a run needs that are there, from which on its parts need not be told
BLOCKS = 3  # blocks of scores a loss holds at once: scores, their gradient, one between
GRAMS, KEPT_GRAMS = 4, 10  # Gram matrices in float32: its gradient too; as kept in float64, changed


@dataclass(frozen=True)
class Ways:
    """The settings of this run that make it smaller, as a person would say them."""

    width: str = "a smaller model.hidden_dims"
    batch: str = "a smaller trainer.batch_users"
    no_dense_gradient: str = "loss=sampled_softmax"


@dataclass(frozen=True)
class Line:
    """One thing that takes memory, and the settings each of which makes it smaller."""

    name: str
    bytes: int
    settings: tuple[str, ...]


def plan(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    batch_users: int,
    batch_events: int,
    block_items: int | None,
    drawn_items: int = 0,
    draws_at_once: bool = False,
    pool: int = 0,
    gram: ExactGram | KeptGram | None = None,
    dense_gradient: bool = False,
    per_user: PerUser | None = None,
    ways: Ways = Ways(),
    copied: bool = False,
    forked: bool = False,
    device: str = "cpu",
    recorded: bool = False,
    processes: int = 1,
    shards: bool = False,
    shares_inputs: bool = False,
) -> list[Line]:
    """What each table, its gradient and its optimizer's state take, and one batch.

    Args:
        model: may lie on the meta device; only shapes are read.
        optimizer: not built yet.
        batch_users: users in a batch.
        batch_events: events in an average batch.
        block_items: items that the loss scores at once; None: as many as suit the device.
        drawn_items: items that a sampled loss draws for a batch; 0: the loss draws none.
        draws_at_once: whether the loss scores all of these at once, in place of blocks.
        pool: of how many draws these are the hardest; 0: all that is drawn is kept.
        gram: by which the loss sums over the catalog, in place of scores.
        dense_gradient: whether the loss gives every row of the catalog table a gradient, instead of
            handing the rows of a block to the optimizer at once.
        per_user: what a user takes in a step; None: one hidden vector, and eight of its width.
        ways: what to advise.
        copied: whether checkpoints are written from a copy.
        forked: whether processes make batches. On a CPU they keep the weights as they were when
            they were forked, all of them together once, while this process changes its own.
        device: where the scores are.
        recorded: whether steps may be a CUDA graph, which has memory of its own for what they make.
        processes: that train together, each with all of it; on CUDA each on a device of its own.
        shards: whether each of them holds the catalog rows of its own items, for the users of all.
        shares_inputs: whether each of them holds parts of large input tables.
    """
    catalog = model.item_weight
    assert isinstance(catalog, nn.Parameter)
    width = catalog.shape[1]
    hidden, floats = per_user or PerUser(1.0, 8.0 * width)
    asked = round(batch_users * hidden)
    who = "users" if per_user is None else "positions"
    scored = asked * processes if shards else asked
    said = f"activations of {asked:,} {who}"
    in_parts = [*kinds_of(model).scored] if shards else []
    in_parts += _shared_out(model) if shares_inputs else []
    learned = _learned_lines(
        model, optimizer, dense_gradient, ways, dict.fromkeys(in_parts, processes)
    )
    kept = [*learned, *_copy_lines(learned, copied, forked and device == "cpu", ways)]
    lines = [
        *kept,
        Line(f"batch of {batch_events:,} events", batch_events * EVENT, (ways.batch,)),
        Line(said, round(batch_users * floats) * FLOAT, (ways.width, ways.batch)),
    ]
    if gram is not None:
        lines.append(_gram_line(gram, len(catalog), width, batch_events, ways))
    else:
        block_items = min(block_items or fitting_block_items(scored, device), catalog.shape[0])
        draws = drawn_items if draws_at_once else 0
        lines.append(_score_line(scored, who, block_items, draws, ways))
    if pool:
        lines.append(Line(f"pool of {pool:,} drawn items", pool * POOLED, (POOL,)))
    if drawn_items:
        rows = min(catalog.shape[0], batch_events + drawn_items)
        what = f"scored rows of at most {rows:,} items, and their gradient"
        lines.append(Line(what, 2 * rows * width * FLOAT, (ways.width, ways.batch, NEGATIVES)))
    if recorded:
        made = sum(line.bytes for line in lines[len(kept) :])
        lines.append(Line("memory of the CUDA graph of a step", made, (GRAPH, ways.batch)))
    if processes == 1 or device != "cpu":
        return lines
    return [*_times(lines, processes), *_together_lines(optimizer, in_parts, ways)]


def _shared_out(model: nn.Module) -> Iterator[nn.Parameter]:
    """The input tables that processes share out by rows."""
    for inputs in kinds_of(model).inputs:
        plans = choose_plans({name: len(table) for name, table in inputs.tables.items()})
        yield from (inputs.tables[name] for name, plan in plans.items() if plan == "row_wise")


def begin_plan(begin_bytes: int) -> list[Line]:
    """What a model takes that looks at all histories before its first step."""
    if not begin_bytes:
        return []
    return [Line("warm start from all histories", begin_bytes, ("model.warm_start=false",))]


def solving_plan(model: Any, num_users: int, num_events: int, ways: Ways = Ways()) -> list[Line]:
    """What a model takes that is solved, and what solving it does.

    Args:
        model: a solvable recommender, may lie on the meta device.
        num_users: users that are trained on.
        num_events: their events.
        ways: what to advise.
    """
    held = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    fewer = () if ways.width == FEWER else (FEWER,)
    return [
        Line("model", held, (ways.width, *fewer)),
        Line("solving", model.solving_bytes(num_users, num_events), (ways.width, *fewer)),
        Line(f"histories of {num_events:,} events", num_events * SOLVED_EVENT, ()),
    ]


def total(lines: list[Line]) -> int:
    """Bytes of all of it."""
    return sum(line.bytes for line in lines)


def show(lines: list[Line], available: int) -> Table | str:
    """The plan for a person: a table, or one line where a tenth of what is there is not taken."""
    if total(lines) * EASY < available:
        told = f"{_megabytes(total(lines))} MB of {_megabytes(available)} MB available"
        return f"memory plan: {told}"
    table = Table(title="memory plan", title_justify="left")
    table.add_column("part")
    table.add_column("MB", justify="right")
    table.add_column("reduced by", style="dim")
    for line in lines:
        table.add_row(line.name, _megabytes(line.bytes), " or ".join(line.settings))
    table.add_row("[bold]total[/bold]", _megabytes(total(lines)), "")
    table.add_row("available", _megabytes(available), "")
    return table


def check(lines: list[Line], available: int) -> None:
    """Refuses a plan that does not fit.

    Raises:
        ResourceError: naming the largest part and the settings that help: any one of those without
            whose parts the rest fits, or else those that do it together.
    """
    needed = total(lines)
    if needed > available:
        largest = max(lines, key=lambda line: line.bytes)
        raise ResourceError(
            f"training needs {_megabytes(needed)} MB and {_megabytes(available)} MB are available; "
            f"most goes to {largest.name} ({_megabytes(largest.bytes)} MB): use "
            f"{_way_out(lines, available)}"
        )


@contextmanager
def told(less_with: str) -> Iterator[None]:
    """Makes an error for a person of what is said where memory does not suffice after all.

    Args:
        less_with: the settings with which a run takes less.

    Raises:
        ResourceError: it does not.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not denies_memory(error):
            raise
        said = str(error).partition("\n")[0]
        raise ResourceError(
            f"memory does not suffice, although the plan fits ({said}). What is saved is whole: "
            f"leave the run more memory and go on, or begin one with {less_with}"
        ) from error


def available_bytes(device: torch.device) -> int:
    """What this process may still take on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([free_memory_bytes(), *_group_limits()])


def _way_out(lines: list[Line], available: int) -> str:
    """The settings that help, those with the largest parts first."""
    settings = {setting for line in lines for setting in line.settings}
    ordered = sorted(settings, key=lambda one: (_without(lines, [one]), one))
    if enough := [one for one in ordered if _without(lines, [one]) <= available]:
        return " or ".join(enough)
    together: list[str] = []
    while ordered and _without(lines, together) > available:
        together.append(min(ordered, key=lambda one: (_without(lines, [*together, one]), one)))
        ordered.remove(together[-1])
    return " and ".join(together)


def _without(lines: list[Line], settings: list[str]) -> int:
    """Bytes of what none of these settings makes smaller."""
    return sum(line.bytes for line in lines if not {*settings} & {*line.settings})


def _learned_lines(
    model: nn.Module,
    optimizer: Optimizer,
    dense_gradient: bool,
    ways: Ways,
    parts_of: Mapping[nn.Parameter, int],
) -> list[Line]:
    """What parameters, their gradients and their optimizers take, large tables one by one.

    Args:
        parts_of: in how many parts a table is held, of which one is here; absent: 1.
    """
    lines, small = [], 0
    for name, parameter in model.named_parameters():
        parts = parts_of.get(parameter, 1)
        if parameter.dim() == 2 and parameter.numel() > LARGE:
            lines += _table_lines(name, parameter, optimizer, dense_gradient, ways, parts)
        else:
            small += -(-parameter.numel() // parts)
    return [*lines, Line("other parameters and optimizer state", 4 * small * FLOAT, (ways.width,))]


def _copy_lines(learned: list[Line], copied: bool, forked: bool, ways: Ways) -> Iterator[Line]:
    """What is held of all this once more, as it was at some moment."""
    size = sum(line.bytes for line in learned if not line.name.endswith("gradient"))
    if copied:
        yield Line("copy of these while saving", size, (ways.width, NO_COPY))
    if forked:
        yield Line("copy of these for processes that make batches", size, (ways.width, NO_FORK))


def _times(lines: list[Line], processes: int) -> Iterator[Line]:
    for line in lines:
        name, settings = f"{line.name}, {processes} times", (*line.settings, FEWER_PROCESSES)
        yield Line(name, line.bytes * processes, settings)


def _together_lines(
    optimizer: Optimizer, in_parts: Sequence[nn.Parameter], ways: Ways
) -> Iterator[Line]:
    """What the process that leads has whole for a while, of tables that are held in parts."""
    if not in_parts:
        return
    tables = sum(one.numel() for one in in_parts) * FLOAT
    yield Line("tables in parts, put together to validate and save", tables, (ways.width,))
    state = sum(optimizer.state_floats(len(one), one[:1].numel()) for one in in_parts) * FLOAT
    settings = _for_state(state, sum(map(len, in_parts)), ways)
    yield Line("their optimizer, put together to save", state, settings)


def _gram_line(
    gram: ExactGram | KeptGram, num_items: int, width: int, events: int, ways: Ways
) -> Line:
    """What a loss makes that knows its sum over the catalog without scoring it.

    Rows of the batch's items have gradients from the matrix and from their cells. A block of rows
    is there twice, before and after a product. Later the gradient of the table is there twice, when
    its parts are added; of a matrix that is kept, the batch's rows as they were, are, and scaled.
    """
    edge, block = width + 1, 2 * min(gram.block_items, num_items)  # the bias is one more column
    kept = isinstance(gram, KeptGram)
    touched = min(num_items, events + (gram.draws.count if isinstance(gram, KeptGram) else 0))
    later = 3 * touched if kept else num_items
    rows = 2 * touched + max(block, later)
    fewer = (GRAM_ITEMS, ways.batch) if kept else (ways.no_dense_gradient,)
    return Line(
        f"{'kept ' if kept else ''}Gram matrix [{edge}, {edge}], and {rows:,} rows beside it",
        ((KEPT_GRAMS if kept else GRAMS) * edge + rows) * edge * FLOAT,
        (ways.width, *((BLOCK,) if block > later else fewer)),
    )


def _score_line(asked: int, who: str, block_items: int, draws: int, ways: Ways) -> Line:
    """What scores and their gradients take."""
    copies, items = (2 * BLOCKS, draws) if draws else (BLOCKS, block_items)
    return Line(
        f"{copies} blocks of scores: {asked:,} {who} x {items:,} items",
        copies * asked * items * FLOAT,
        (NEGATIVES if draws else BLOCK, ways.batch),
    )


def _table_lines(
    name: str,
    table: nn.Parameter,
    optimizer: Optimizer,
    dense_gradient: bool,
    ways: Ways,
    parts: int,
) -> list[Line]:
    rows, width = table.shape
    what = f"{name} [{rows:,}{'' if parts == 1 else f' / {parts}'}, {width}]"
    rows = -(-rows // parts)
    size, state = rows * width * FLOAT, optimizer.state_floats(rows, width) * FLOAT
    lines = [Line(what, size, (ways.width,))]
    if not table.requires_grad:
        return lines
    if name == "item_weight" and dense_gradient:  # input tables: of touched rows only
        settings = ways.width, ways.no_dense_gradient
        lines.append(Line(f"{what} gradient", size, settings))
    return [*lines, Line(f"{what} optimizer", state, _for_state(state, rows, ways))]


def _for_state(state: int, rows: int, ways: Ways) -> tuple[str, ...]:
    """What makes the bytes smaller that an optimizer remembers of so many rows."""
    return (ways.width, STATE) if state > rows * FLOAT else (ways.width,)


def _group_limits() -> list[int]:
    """What the container may still take, for the two generations of control groups."""
    found = []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        root = Path("/sys/fs/cgroup")
        if (root / limit).is_file() and (root / used).is_file():
            most = (root / limit).read_text().strip()
            if most.isdigit():
                found.append(int(most) - int((root / used).read_text()))
    return found


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"
