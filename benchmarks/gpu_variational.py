"""A step of Mult-VAE on a GPU, as one graph and kernel by kernel, on the users of gpu_steps.py."""

from functools import partial
from pathlib import Path

from gpu_steps import KERNELS, NARROW, THERE, histories
from on_device import DEVICE, Report, Runner, in_turns
from ours import COMMON, OurSteps
from step import BATCH_USERS, ITEMS, LR

OURS = "ours, one graph"
WORDS = [
    *COMMON,
    "model=variational",
    "model.hidden_dims=[600]",
    "model.code_dim=200",
    "model.decoder_dims=null",
    "model.anneal_steps=0",  # until it is over, steps are no graph
    f"trainer.batch_users={BATCH_USERS}",
    f"optimizer.lr={LR}",
]


def measure_variational(report: Report, folder: Path) -> None:
    ours = partial(OurSteps, histories(folder / str(ITEMS), ITEMS), device=DEVICE, ahead=True)
    systems = {
        OURS: ours(WORDS),
        OURS + NARROW: ours(WORDS, narrow=True),
        "ours" + KERNELS: ours([*WORDS, "trainer.cuda_graph=false"]),
    }
    runners = {name: Runner(one.advance, one.loss) for name, one in systems.items()}
    for name, one in systems.items():
        runners[name + THERE] = Runner(partial(one.take, one.ready()))
    part = f"step of Mult-VAE 600-200-600, {ITEMS:,} items, {BATCH_USERS} users"
    report.rows_of(part, in_turns(runners), users=BATCH_USERS, against=OURS)
