"""Runs benchmarks, stores their results, and makes the page.

    python benchmarks/run.py                 # every script, each in a fresh process; then the page
    python benchmarks/run.py step dsstne     # these
    python benchmarks/run.py --page          # only the page, from what is stored
    python benchmarks/run.py --quick         # every script with tiny sizes, to see that it runs

Other libraries live in environments of their own; what is not given is left out, with a note:

    --recbole PYTHON     with recbole 1.2.1, "setuptools<81"
    --irspack PYTHON     with irspack 0.5.2, dm-haiku, jax, optax, implicit 0.7.3
    --evaluation PYTHON  with ranx 0.3.21, ir-measures 0.4.3, torchmetrics 1.9.0, implicit 0.7.3
    --ml1m FOLDER        MovieLens 1M, prepared

gpu is also left out where no CUDA device answers.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from draw import draw_all
from page import FOLDER, UNFINISHED, page, results
from sized import VARIABLE

GIVEN = {
    "recbole": "RECBOLE_PYTHON",
    "irspack": "IRSPACK_PYTHON",
    "evaluation": "EVALUATION_PYTHON",
    "ml1m": "PREPARED_ML1M",
}
NEEDS = {"time_to_ndcg": "ml1m"}
ON_CUDA = {"gpu"}
ALONE = 0.05  # of the machine: what others may take of an idle one
MEASURE = """
import importlib, json, pathlib, sys
found = importlib.import_module(sys.argv[1]).measure()
pathlib.Path(sys.argv[2]).write_text(json.dumps(found))
"""


def main() -> None:
    arguments = parsed()
    environment = os.environ | {
        variable: str(Path(value).absolute())
        for name, variable in GIVEN.items()
        if (value := getattr(arguments, name)) is not None
    }
    environment.pop(VARIABLE, None)
    names = arguments.names or scripts()
    if arguments.quick:
        command = [sys.executable, "quick.py", *names]
        sys.exit(subprocess.call(command, cwd=FOLDER, env=environment | {VARIABLE: "1"}))
    if not arguments.page:
        for name in able(names, environment, named=bool(arguments.names)):
            store(name, environment, given(arguments))
    make_page(FOLDER)


def able(names: list[str], environment: Mapping[str, str], *, named: bool) -> list[str]:
    """Those of the scripts that have what they need here; what was asked for by name must."""
    left_out = {name: lack for name in names if (lack := lacking(name, environment))}
    told = [f"{name} is left out: it needs {lack}" for name, lack in left_out.items()]
    if named and told:
        sys.exit("\n".join(told))
    print("\n".join(told))
    return [name for name in names if name not in left_out]


def lacking(name: str, environment: Mapping[str, str]) -> str | None:
    """What a script needs and this machine or command does not give."""
    if name in ON_CUDA:
        return None if torch.cuda.is_available() else "a CUDA device, and none answers"
    needed = NEEDS.get(name)
    return f"--{needed}" if needed and GIVEN[needed] not in environment else None


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[[], *scripts()], metavar="NAME")
    parser.add_argument("--page", action="store_true", help="only make the page")
    parser.add_argument("--quick", action="store_true", help="only see that scripts run")
    for name, variable in GIVEN.items():
        parser.add_argument(f"--{name}", default=os.environ.get(variable))
    return parser.parse_args()


def scripts() -> list[str]:
    """The names of the benchmarks."""
    paths = sorted(FOLDER.glob("*.py"))
    return [path.stem for path in paths if "\ndef measure()" in path.read_text()]


def given(arguments: argparse.Namespace) -> str:
    """The flags of a command that finds the same, without the paths of this machine."""
    words = {name: "FOLDER" if name == "ml1m" else "PYTHON" for name in GIVEN}
    return "".join(f" --{name} {words[name]}" for name in GIVEN if getattr(arguments, name))


def store(name: str, environment: dict[str, str], flags: str) -> None:
    """Runs `measure()` of a script and keeps what it found."""
    path = FOLDER / "results" / f"{name}.json"
    unfinished = path.with_suffix(".unfinished")
    command = [sys.executable, "-c", MEASURE, name, str(unfinished)]
    busy, own, started = busy_seconds(), own_seconds(), time.monotonic()
    environment = {**environment, UNFINISHED: str(unfinished)}
    subprocess.run(command, check=True, cwd=FOLDER, env=environment)
    others = busy_seconds() - busy - (own_seconds() - own)
    share = max(0.0, others) / (time.monotonic() - started) / (os.cpu_count() or 1)
    found = json.loads(unfinished.read_text())
    ran = {
        "command": f"python benchmarks/run.py {name}{flags if uses_flags(name) else ''}",
        "date": str(date.today()),
        "machine": f"{processor()}, {os.cpu_count()} cores, "
        f"{found['conditions'].get('GPU', 'no GPU used')}",
        "versions": f"Python {platform.python_version()}, torch {version('torch')}",
        "others": "idle but for it" if share < ALONE else f"others took {share:.0%} of the machine",
    }
    unfinished.unlink()
    path.write_text(json.dumps({"name": name, "ran": ran, "found": found}, indent=1) + "\n")


def uses_flags(name: str) -> bool:
    source = (FOLDER / f"{name}.py").read_text()
    return any(f"--{name} " in source or GIVEN[name] in source for name in GIVEN)


def own_seconds() -> float:
    """Of the cores, taken by the scripts that have ended."""
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime


def busy_seconds() -> float:
    """Of all cores since the machine started."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def make_page(folder: Path) -> None:
    stored = results(folder)
    draw_all(stored, folder)
    (folder / "README.md").write_text(page(stored, folder))


if __name__ == "__main__":
    main()
