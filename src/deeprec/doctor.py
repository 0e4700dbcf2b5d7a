"""Is this installation sound? Says what is wrong with it and gives the line that mends it.

Versions are read from metadata and packages are imported in another process, because a binary that
does not fit may not raise: it may kill the process that imports it.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deeprec.machine import cores, free_memory_bytes

State = Literal["ok", "warning", "broken"]

# Distribution -> (module, the version this release was tested with).
REQUIRED = {
    "torch": ("torch", "2.13.0"),
    "lightning": ("lightning", "2.6.6"),
    "torchmetrics": ("torchmetrics", "1.3.2"),
    "hydra-core": ("hydra", "1.3.8"),
    "omegaconf": ("omegaconf", "2.3.1"),
    "ibis-framework": ("ibis", "12.0.0"),
    "duckdb": ("duckdb", "1.5.6"),
    "sqlglot": ("sqlglot", "28.10.1"),
    "pyarrow": ("pyarrow", "26.0.1"),
    "numpy": ("numpy", "2.4.6"),
    "scipy": ("scipy", "1.17.1"),
    "matplotlib": ("matplotlib", "3.11.2"),
    "optuna": ("optuna", "4.9.0"),
    "safetensors": ("safetensors", "0.8.0"),
    "rich": ("rich", "15.0.0"),
    "wandb": ("wandb", "0.31.0"),
}
FLOORS = {"torch": "2.10", "lightning": "2.6.6", "hydra-core": "1.3.8"}
MALICIOUS = {"lightning": {"2.6.2", "2.6.3"}}
TORCHREC = FBGEMM = "1.8.0"  # for torch 2.13
FBGEMM_BUILDS = ("fbgemm-gpu", "fbgemm-gpu-cpu")  # both put their files into fbgemm_gpu/

ROOM_BYTES = 2 * 1024**3  # what the demo takes on disk and in memory, with some to spare
IMPORT_TIMEOUT_SECONDS = 180  # a cold disk may take a minute for torch alone

Versions = Mapping[str, str]  # distribution -> installed version; absent if not installed


@dataclass(frozen=True)
class Finding:
    """One line of the table; `mend` is the command that repairs it."""

    what: str
    state: State
    detail: str
    mend: str = ""


def run() -> int:
    """Prints what was found and what mends it. Returns 1 if something must be mended, else 0."""
    installed = installed_versions()
    findings = [
        check_python(sys.version_info[:2]),
        *check_versions(installed),
        *check_fbgemm(installed),
        check_torchrec(installed),
        *check_imports(import_errors(modules_of(installed)), installed),
        check_device(installed.get("torch", ""), driver_answer()),
        check_room("disk", shutil.disk_usage(".").free),
        check_room("memory", free_memory_bytes()),
    ]
    print_findings(findings, Console())
    return int(any(finding.state == "broken" for finding in findings))


def installed_versions() -> dict[str, str]:
    """Versions of those packages that decide whether an installation works."""
    names = {*REQUIRED, *FBGEMM_BUILDS, "torchrec"}
    # pip spells fbgemm_gpu-cpu and fbgemm-gpu-cpu alike, metadata does not
    found = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in metadata.distributions()}
    return {name: version for name, version in found.items() if name in names}


def modules_of(installed: Versions) -> list[str]:
    """What must import. TorchRec without fbgemm does not, which is a warning and not a fault."""
    modules = [module for name, (module, _) in REQUIRED.items() if name in installed]
    if any(build in installed for build in FBGEMM_BUILDS):
        modules.append("fbgemm_gpu")
        if "torchrec" in installed:
            modules.append("torchrec")
    return modules


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without local and pre-release parts.

    Example:
        >>> release("2.13.0+cpu"), release("2.6.6rc1")
        ((2, 13, 0), (2, 6, 6))
    """
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def torch_for(fbgemm_version: str) -> str:
    """The torch that a build of fbgemm loads with: 1.X is bound to the binary of torch 2.(X+5).

    Example:
        >>> torch_for("1.8.0")
        '2.13'
    """
    return f"2.{release(fbgemm_version)[1] + 5}"


def lock_line(installed: Versions) -> str:
    """The command that installs the whole tested set."""
    on_cpu = "+cpu" in installed.get("torch", "") or "fbgemm-gpu-cpu" in installed
    kind = "cpu" if on_cpu else "cuda"
    return f"pip install --no-deps -r requirements/{kind}.lock"


def check_python(version: tuple[int, int]) -> Finding:
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Finding(
            "python", "broken", f"{text}, must be 3.11 or later", "python3.11 -m venv .venv"
        )
    return Finding("python", "ok", text)


def check_versions(installed: Versions) -> Iterator[Finding]:
    """One finding for each package that deeprec cannot do without."""
    for name, (_, tested) in REQUIRED.items():
        mend = f"pip install '{name}=={tested}'"
        version = installed.get(name)
        if version is None:
            yield Finding(name, "broken", "not installed", mend)
        elif version in MALICIOUS.get(name, ()):
            detail = f"{version} is malicious; change every secret that this machine could read"
            yield Finding(name, "broken", detail, mend)
        elif name in FLOORS and release(version) < release(FLOORS[name]):
            yield Finding(name, "broken", f"{version}, must be {FLOORS[name]} or later", mend)
        elif release(version) != release(tested):
            yield Finding(name, "warning", f"{version}, tested with {tested}", mend)
        else:
            yield Finding(name, "ok", version)


def check_fbgemm(installed: Versions) -> Iterator[Finding]:
    """At most one build of fbgemm, and one that loads with this torch."""
    builds = [build for build in FBGEMM_BUILDS if build in installed]
    torch = installed.get("torch", "")
    right_build = "fbgemm-gpu-cpu" if "+cpu" in torch else "fbgemm-gpu"
    only_right_build = (
        "pip uninstall --yes fbgemm-gpu fbgemm-gpu-cpu && "
        f"pip install --no-deps '{right_build}=={FBGEMM}'"
    )
    if len(builds) == 2:
        detail = "both builds are installed, one over the files of the other"
        yield Finding("fbgemm", "broken", detail, only_right_build)
        return
    for build in builds:
        version = installed[build]
        if build == "fbgemm-gpu" and "+cpu" in torch:
            detail = f"{version} loads with a CUDA build of torch only, this is {torch}"
            yield Finding(build, "broken", detail, only_right_build)
        elif release(torch)[:2] != release(torch_for(version)):
            # Back to the tested pair, whichever half of it has been left
            wrong = "torch==2.13.0" if release(version) == release(FBGEMM) else f"{build}=={FBGEMM}"
            detail = (
                f"{version} loads with torch {torch_for(version)} only, this is {torch or 'none'}"
            )
            yield Finding(build, "broken", detail, f"pip install --no-deps '{wrong}'")
        else:
            yield Finding(build, "ok", version)


def check_torchrec(installed: Versions) -> Finding:
    """TorchRec makes training faster; without it everything trains on plain torch."""
    version = installed.get("torchrec")
    fbgemm = next((installed[build] for build in FBGEMM_BUILDS if build in installed), None)
    if version is None or fbgemm is None:
        missing = "torchrec" if version is None else "fbgemm"
        detail = f"{missing} is not installed: everything trains on plain torch, slower"
        return Finding("torchrec", "warning", detail, lock_line(installed))
    if release(version)[:2] != release(fbgemm)[:2]:
        detail = f"{version} goes with fbgemm {version}, this is {fbgemm}"
        return Finding("torchrec", "broken", detail, lock_line(installed))
    return Finding("torchrec", "ok", version)


def check_imports(errors: Mapping[str, str], installed: Versions) -> Iterator[Finding]:
    """One finding for each module that does not import, or one that says that all do."""
    pins = {module: f"{name}=={tested}" for name, (module, tested) in REQUIRED.items()}
    for module, error in errors.items():
        reinstall = f"pip install --force-reinstall --no-deps '{pins.get(module)}'"
        mend = reinstall if module in pins else lock_line(installed)
        yield Finding(f"import {module}", "broken", error, mend)
    if not errors:
        yield Finding("imports", "ok", "every installed package imports")


_IMPORT_EACH = """
import importlib, sys
for name in sys.argv[1:]:
    error = ""
    try:
        importlib.import_module(name)
    except Exception as caught:
        error = " ".join(f"{type(caught).__name__}: {caught}".split())
    print(f"\\nimported\\t{name}\\t{error}", flush=True)
"""


def import_errors(modules: Sequence[str]) -> dict[str, str]:
    """Imports modules in other processes. Module -> why it failed; absent if it did not.

    One process imports them all, and where it dies the next one goes on behind the culprit.
    """
    errors = {}
    waiting = list(modules)
    while waiting:
        reports, end = _import_until_death(waiting)
        errors.update({name: error for name, error in reports if error})
        waiting = waiting[len(reports) :]
        if waiting:
            errors[waiting.pop(0)] = end
    return errors


def _import_until_death(modules: Sequence[str]) -> tuple[list[tuple[str, str]], str]:
    command = [sys.executable, "-c", _IMPORT_EACH, *modules]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_SECONDS, check=False
        )
        output, end = done.stdout, f"the importing process died with exit code {done.returncode}"
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        end = f"was not imported within {IMPORT_TIMEOUT_SECONDS} seconds"
    lines = [line.split("\t") for line in output.splitlines() if line.startswith("imported\t")]
    return [(name, error) for _, name, error in lines], end


def driver_answer() -> str | None:
    """Name, memory and driver of each NVIDIA device, or None where no driver answers."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    devices = "; ".join(done.stdout.strip().splitlines())
    return devices if done.returncode == 0 and devices else None


def check_device(torch_version: str, driver: str | None) -> Finding:
    if driver is None:
        return Finding("device", "ok", f"CPU, {cores()} cores; no NVIDIA driver answers")
    mend = "pip install --no-deps --force-reinstall -r requirements/cuda.lock"
    if "+cpu" in torch_version:
        detail = f"{driver}; unused, because torch is a CPU build"
        return Finding("device", "warning", detail, f"pip uninstall --yes fbgemm-gpu-cpu; {mend}")
    see = "import torch; assert torch.cuda.is_available()"
    sees = subprocess.run([sys.executable, "-c", see], capture_output=True, check=False)
    if sees.returncode != 0:
        detail = f"{driver}; unused, because torch {torch_version} cannot reach it: old driver?"
        return Finding("device", "warning", detail, "install a driver for CUDA 13")
    return Finding("device", "ok", driver)


def check_room(what: str, free_bytes: int) -> Finding:
    state: State = "ok" if free_bytes >= ROOM_BYTES else "warning"
    return Finding(f"free {what}", state, f"{free_bytes / 1024**3:.1f} GiB")


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """The table, then each command on a line of its own, unwrapped, to be copied."""
    colours = {"ok": "green", "warning": "yellow", "broken": "red"}
    table = Table(title="deeprec doctor", title_justify="left")
    for column in ("what", "state", "found"):
        table.add_column(column)
    for finding in findings:
        state = Text(finding.state, style=colours[finding.state])
        table.add_row(finding.what, state, Text(finding.detail))
    console.print(table)
    for finding in findings:
        if finding.mend:
            line = f"{finding.what}: {finding.mend}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    broken = sum(finding.state == "broken" for finding in findings)
    console.print(f"{broken} to mend" if broken else "all checks passed")
