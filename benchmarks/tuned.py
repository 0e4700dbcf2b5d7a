"""Systems after the same number of trials each, in one table for one prepared folder.

    python benchmarks/tuned.py PREPARED OUTPUT --trials 8 --seeds 1 2 3 --irspack PYTHON \
        --spaces item_to_item ease ials linear --as-they-come experiment=auto

Each space is searched by `deeprec sweep` on validation; the best is trained once for each seed, or
once in all where nothing is drawn, and judged on the holdout by `deeprec evaluate`, as are the
lists of Mult-VAE of irspack, searched in its own environment with as many trials. `--as-they-come`
names runs that are not searched. `--blend` weighs the first run of these with `deeprec blend`.
OUTPUT keeps everything, and what is there is not made again; the table is OUTPUT/table.md. CPU
seconds are those of one training with the best settings and its validations, all threads.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse
from time_to_ndcg import distinct

from deeprec.data.store import Events, Prepared

DRAWS = ("linear", "ials", "variational", "autoencoder", "complete_journey", "sequence")
PEER = Path(__file__).parent / "peers" / "tuned_multvae.py"
MULTVAE = "irspack MultVAE"


def main() -> None:
    told = parsed()
    told.output.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Path]] = {}
    for space in told.spaces:
        runs[space] = searched(told, space)
    for word in told.as_they_come:
        runs[word] = seeds_of(told, word.partition("=")[2] + "-as-it-comes", [word], told.seeds)
    if told.irspack:
        runs[MULTVAE] = multvae(told)
    if told.blend:
        runs["blend"] = [blended(told, [runs[name][0] for name in told.blend])]
    reports = {name: [judged(told, path) for path in paths] for name, paths in runs.items()}
    table = "\n".join(rows(told, reports))
    (told.output / "table.md").write_text(table + "\n")
    print(table)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("prepared", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--spaces", nargs="*", default=["item_to_item", "ease", "ials", "linear"])
    parser.add_argument("--as-they-come", nargs="*", default=[], metavar="WORD")
    parser.add_argument("--blend", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--irspack", metavar="PYTHON")
    parser.add_argument("--max-users", type=int, help="of the holdout, drawn with seed 0")
    return parser.parse_args()


def searched(told: argparse.Namespace, space: str) -> list[Path]:
    """The runs of the best settings of a space, one for each seed."""
    folder = told.output / space
    if not (folder / "experiment" / "best.yaml").exists():
        words = [f"prepared={told.prepared}", f"sweep={space}", f"trials={told.trials}"]
        run(folder, ["deeprec", "sweep", *words, f"output_dir={folder}"])
    seeds = told.seeds if space in DRAWS else told.seeds[:1]
    return seeds_of(told, space, ["--config-dir", str(folder), "experiment=best"], seeds)


def seeds_of(
    told: argparse.Namespace, name: str, words: Sequence[str], seeds: Sequence[int]
) -> list[Path]:
    found = []
    for seed in seeds:
        path = told.output / f"{name}-seed-{seed}"
        if not path.exists():
            place = [f"prepared={told.prepared}", f"output_dir={path}", f"seed={seed}"]
            run(path, ["deeprec", "train", *words, *place, "logger.wandb=off"])
        found.append(path)
    return found


def blended(told: argparse.Namespace, members: Sequence[Path]) -> Path:
    path: Path = told.output / "blend"
    if not path.exists():
        named = ",".join(map(str, members))
        run(path, ["deeprec", "blend", f"runs=[{named}]", f"output_dir={path}"])
    return path


def multvae(told: argparse.Namespace) -> list[Path]:
    """Lists of the peer, one file for each seed."""
    folder: Path = told.output / "multvae"
    found = [folder / f"seed-{seed}.parquet" for seed in told.seeds]
    if all(path.exists() for path in found):
        return found
    folder.mkdir(exist_ok=True)
    prepared = Prepared(told.prepared)
    users = prepared.judged_users("holdout")
    everybody = np.arange(prepared.num_users)
    for name, events in (
        ("train", prepared.parts["train"].take(everybody)),
        ("validation", prepared.parts["validation"].take(everybody)),
        ("judged", prepared.history(users, "holdout")),
    ):
        sparse.save_npz(folder / f"{name}.npz", matrix(events, prepared.num_items))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    told_peer = [told.irspack, str(PEER), str(folder), str(told.trials), *map(str, told.seeds)]
    run(folder, told_peer, threads | {"PYTHONPATH": ""})
    ids = prepared.users["user_id"].take(pa.array(users))
    for seed, path in zip(told.seeds, found, strict=True):
        lists = np.load(folder / f"lists-{seed}.npy")
        pq.write_table(recommended(prepared, ids, lists), path)
    return found


def matrix(events: Events, num_items: int) -> sparse.csr_matrix:
    once = distinct(events)
    ones = np.ones(len(once.items), np.float32)
    return sparse.csr_matrix((ones, once.items, once.offsets), shape=(once.num_users, num_items))


def recommended(
    prepared: Prepared, users: pa.ChunkedArray, lists: npt.NDArray[np.int32]
) -> pa.Table:
    """As `deeprec recommend` writes them."""
    items = prepared.items["item_id"].combine_chunks().take(pa.array(lists.ravel()))
    offsets = pa.array(np.arange(len(lists) + 1) * lists.shape[1], pa.int32())
    scores = pa.array(np.tile(-np.arange(lists.shape[1], dtype=np.float32), len(lists)))
    return pa.table(
        {
            "user_id": users.combine_chunks(),
            "item_ids": pa.ListArray.from_arrays(offsets, items),
            "scores": pa.ListArray.from_arrays(offsets, scores),
        }
    )


def judged(told: argparse.Namespace, system: Path) -> dict[str, Any]:
    """The report of one system on the holdout."""
    place = told.output / "reports" / system.relative_to(told.output).with_suffix("")
    if not (place / "report.json").exists():
        kind = "recommendations" if system.suffix == ".parquet" else "run"
        words = [f"{kind}={system}", f"prepared={told.prepared}", f"output_dir={place}"]
        rest = ["examples=0", "slices=[]", "diversity=[]", "baselines=[popularity]"]
        if told.max_users:
            rest.append(f"max_users={told.max_users}")
        run(place, ["deeprec", "evaluate", *words, *rest])
    report: dict[str, Any] = json.loads((place / "report.json").read_text())
    return report


def run(made: Path, command: Sequence[str], more: dict[str, str] | None = None) -> None:
    """A command whose output goes into MADE.log and its CPU seconds, added up, into MADE.cpu."""
    made.parent.mkdir(parents=True, exist_ok=True)
    before = seconds()
    with Path(f"{made}.log").open("w") as log:
        print(*command, file=sys.stderr)
        subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ | (more or {}))
    Path(f"{made}.cpu").write_text(f"{seconds() - before:.1f}")


def seconds() -> float:
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime


def rows(told: argparse.Namespace, reports: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Of a Markdown table, the best first."""
    found = [row(told, name, some) for name, some in reports.items()]
    first = next(iter(reports.values()))[0]
    found.append((*figures([first["systems"][-1]]), "| popularity | ", ""))
    found.sort(key=lambda one: -one[0])
    head = "| system | ndcg@20 | recall@20 | ndcg@100 | CPU s |\n|---|---|---|---|---|"
    return [head, *(f"{name}{text}{cpu} |" for _, text, name, cpu in found)]


def row(
    told: argparse.Namespace, name: str, reports: Sequence[dict[str, Any]]
) -> tuple[float, str, str, str]:
    mean, text = figures([report["systems"][0] for report in reports])
    return mean, text, f"| {name} | ", spent(told, name)


def spent(told: argparse.Namespace, name: str) -> str:
    """CPU seconds of one training with its validations; of Mult-VAE, as it says itself."""
    if name == MULTVAE:
        found = json.loads((told.output / "multvae" / "found.json").read_text())
        return f"{found['seeds'][str(told.seeds[0])]['cpu']:.0f}"
    of = name if name in (*told.spaces, "blend") else f"{name.partition('=')[2]}-as-it-comes"
    path = told.output / (f"{of}.cpu" if of == "blend" else f"{of}-seed-{told.seeds[0]}.cpu")
    return f"{float(path.read_text()):.0f}"


def figures(systems: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """Mean over seeds, their spread, and the interval over users of the first."""
    text, means = "", []
    for metric in ("ndcg@20", "recall@20", "ndcg@100"):
        values = [one["metrics"][metric]["mean"] for one in systems]
        low, high = (systems[0]["metrics"][metric][end] for end in ("low", "high"))
        spread = f", seeds ±{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        text += f"{np.mean(values):.4f} ({low:.4f}–{high:.4f}{spread}) | "
        means.append(float(np.mean(values)))
    return means[0], text


if __name__ == "__main__":
    main()
