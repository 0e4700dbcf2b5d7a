"""Claim: 20 million events become a prepared folder within a minute and 4 GB on two cores.

`deeprec prepare data=table` on a Parquet file of generated events is timed in a process of its own
from start to end: reading, the data contract, a time cut, indices, lists, hashes. On a million of
the same events it stands beside what RecBole does before its first batch, from a text file in its
own format; set RECBOLE_PYTHON to a Python that has RecBole 1.2.1.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from page import Measured, show
from sized import sized

from deeprec.data.synthetic import Synthetic

USERS, ITEMS, EVENTS = sized((280_000, 100_000, 71.5), quick=(300, 200, 20.0))
FEW = sized(1_000_000, quick=2_000)
PEERS = Path(__file__).parent / "peers"


class Taken(NamedTuple):
    """By one process."""

    wall: float  # seconds
    cpu: float  # seconds
    megabytes: float  # resident, at most


def generated(folder: Path) -> tuple[Path, Path]:
    """Events of user, item and time: all of them, and the first million."""
    paths = folder / "events.parquet", folder / "few.parquet"
    generator = Synthetic(num_users=USERS, num_items=ITEMS, events_per_user=EVENTS, seed=3)
    tables = (events.select(["user", "item", "time"]) for events, _ in generator.pieces())
    first = next(tables)
    with pq.ParquetWriter(paths[0], first.schema) as every:
        few = [first]
        every.write_table(first)
        for table in tables:
            every.write_table(table)
            if sum(map(len, few)) < FEW:
                few.append(table)
    pq.write_table(pa.concat_tables(few).slice(0, FEW), paths[1])
    return paths


def prepared(events: Path, output: Path) -> Taken:
    words = ["data=table", f"data.events={events}", "data.user=user", "data.item=item"]
    words += ["data.time=time", f"output_dir={output}"]
    command = [sys.executable, "-m", "deeprec", "prepare", *words]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    assert status == 0, " ".join(command)
    return Taken(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def by_recbole(python: str, events: Path, folder: Path) -> Taken:
    text = pq.read_table(events)
    names = ["user_id:token", "item_id:token", "timestamp:float"]
    (folder / "made").mkdir()
    options = csv.WriteOptions(delimiter="\t", quoting_style="none", include_header=False)
    with (folder / "made" / "made.inter").open("wb") as file:
        file.write(("\t".join(names) + "\n").encode())
        csv.write_csv(text, file, options)
    command = [python, str(PEERS / "recbole_loader.py"), str(folder)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Taken(*json.loads(run.stdout.splitlines()[-1]).values())


def measure() -> Measured:
    python = os.environ.get("RECBOLE_PYTHON")
    conditions = {"users": f"{USERS:,}", "items": f"{ITEMS:,}", "columns": "user, item, time"}
    with TemporaryDirectory() as name:
        folder = Path(name)
        many, few = generated(folder)
        num_events = pq.read_metadata(many).num_rows
        taken = {
            ("deeprec prepare", num_events): prepared(many, folder / "many"),
            ("deeprec prepare", FEW): prepared(few, folder / "few"),
        }
        if python is None:
            conditions["left out"] = "RecBole: RECBOLE_PYTHON is not set"
        else:
            taken["RecBole, without its imports", FEW] = by_recbole(python, few, folder)
    large, ours = taken["deeprec prepare", num_events], taken["deeprec prepare", FEW]
    theirs = taken.get(("RecBole, without its imports", FEW))
    per_second = (num_events - FEW) / (large.cpu - ours.cpu) / 1e6
    return {
        "claim": "20 million events are prepared within a minute and 4 GB on two cores.",
        "conditions": conditions
        | {"million events a CPU second, at the margin": f"{per_second:.2f}"},
        "rows": [
            {
                "form": form,
                "events": f"{count:,}",
                "wall s": round(each.wall, 1),
                "CPU s": round(each.cpu, 1),
                "peak MB": round(each.megabytes),
            }
            for (form, count), each in taken.items()
        ],
        "goals": [
            {
                "what": "wall seconds, 20 million events",
                "goal": 60.0,
                "reached": large.wall,
                "better": "lower",
                "unit": "s",
            },
            {
                "what": "peak of resident memory, 20 million events",
                "goal": 4.0,
                "reached": large.megabytes / 1000,
                "better": "lower",
                "unit": "GB",
            },
            {
                "what": "CPU seconds of RecBole over ours, a million events",
                "goal": 1.0,
                "reached": None if theirs is None else theirs.cpu / ours.cpu,
                "better": "higher",
                "unit": "times",
            },
        ],
        "plots": [
            {
                "kind": "bar",
                "x": "events",
                "y": ["CPU s"],
                "split": "form",
                "title": "From events to a prepared folder, CPU seconds",
            }
        ],
    }


if __name__ == "__main__":
    show(measure())
