"""A sampled step on a GPU as the catalog grows, by what runs the input tables."""

from functools import partial
from pathlib import Path

from catalog_size import EVENTS, LOSS, OPTIMIZER, USERS, WIDTH, tensors_of
from generated import prepared_folder
from gpu_steps import THERE
from on_device import DEVICE, Report, Runner, Timed, in_turns
from ours import OurSteps
from sized import sized

from deeprec.data.store import Prepared
from deeprec.trainer.built import state_tensors

CATALOGS = sized((100_000, 10_000_000), quick=(3_000, 6_000))


def measure_catalogs(report: Report, folder: Path, backend: str) -> None:
    part = f"sampled step, D = {WIDTH}, table_backend={backend}"
    systems = {num_items: made(folder, num_items, backend) for num_items in CATALOGS}
    runners = {}
    for num_items, ours in systems.items():
        runners[named(num_items)] = Runner(ours.advance, ours.loss)
        runners[named(num_items) + THERE] = Runner(partial(ours.take, ours.ready()))
    taken = in_turns(runners)
    small, large = named(CATALOGS[0]), named(CATALOGS[-1])
    report.rows_of(part, taken, users=USERS, against=small)
    for more in ("", THERE):
        times = taken[large + more].ms / taken[small + more].ms
        report.goal(f"{part}{more}: {large} over {small}", 1.5, times, "lower", "times")
    tell_memory(report, part, systems[CATALOGS[-1]], taken[large])


def named(num_items: int) -> str:
    return f"{num_items:,} items"


def made(folder: Path, num_items: int, backend: str) -> OurSteps:
    path = folder / str(num_items)
    if not path.exists():
        prepared_folder(path, num_users=24 * USERS, num_items=num_items, events_per_user=EVENTS)
    words = [
        f"loss={LOSS}",
        f"optimizer={OPTIMIZER}",
        f"model.hidden_dims=[{WIDTH}]",
        f"model.table_backend={backend}",
        f"trainer.batch_users={USERS}",
    ]
    return OurSteps(Prepared(path), words, device=DEVICE, ahead=True)


def tell_memory(report: Report, part: str, ours: OurSteps, taken: Timed) -> None:
    """The peak of a step over what it keeps."""
    tensors = [*ours.training.model.state_dict().values()]
    tensors += [*state_tensors(ours.training.built).values(), *tensors_of(ours.ready())]
    held = sum(tensor.nbytes for tensor in tensors) / 1e6
    report.conditions[f"MB of parameters, optimizer state and a batch, {part}"] = held
    if taken.peak is not None:
        what = f"{part}: peak above parameters, optimizer state and batch, {named(CATALOGS[-1])}"
        report.goal(what, 15.0, 100 * taken.peak / held, "lower", "%")
