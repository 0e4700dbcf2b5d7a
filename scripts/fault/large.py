"""A catalog of ten million items: what a run takes beside what it said that it would."""

import subprocess
import sys

from fault.ground import Count, Ground
from fault.machine import environment

TOLERANCE = 0.1  # of the plan
SHOP = (
    *("num_items=10_000_000", "num_users=4000", "events_per_user=60", "num_tastes=64"),
    "filters.cold_items=true",
)
SETTINGS = (
    *("loss=sampled_softmax", "optimizer=rowwise_adagrad", "model.hidden_dims=[32]"),
    *("trainer.batch_users=512", "trainer.max_epochs=1", "trainer.validation_users=50"),
    *("trainer.threads=1", "trainer.device=cpu", "logger.wandb=off"),
)
# trains, and tells bytes planned, and by how many it grew from then on
MEASURED = """
import resource, sys
from pathlib import Path
from deeprec.config import compose
from deeprec.train import train
from deeprec.trainer import memory

check, told = memory.check, []

def noted(lines, available):
    held = Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]
    told.extend([memory.total(lines), int(held) * 1024])
    check(lines, available)

memory.check = noted
train(compose("train", sys.argv[1:]))
print("told", told[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - told[1])
"""


def large_catalog(ground: Ground) -> Count:
    """Ten million items: a run grows by what its memory plan says, within a tenth."""
    count = Count()
    prepared, run = ground.root / "large", ground.root / "large-run"
    words = ["data=synthetic", f"output_dir={prepared}", *(f"data.{one}" for one in SHOP)]
    _done(["-m", "deeprec", "prepare", *words])
    said = _done(["-c", MEASURED, f"prepared={prepared}", f"output_dir={run}", *SETTINGS])
    planned, grown = map(int, said.rpartition("told ")[2].split())
    why = f"{planned / 1e6:,.0f} MB planned, {grown / 1e6:,.0f} MB taken"
    print(f"  {why}", file=sys.stderr)
    count.take(lost=abs(grown - planned) > TOLERANCE * planned, why=why)
    return count


def _done(words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *words], env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout
