"""The pins, the lock files, the wheel and the image agree with each other."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ["torch", "cpu", "cuda", "demo", "dev"]


def lock(name):
    return (ROOT / f"requirements/{name}.lock").read_text()


def versions(name):
    """Package -> version of a lock file."""
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", lock(name), re.MULTILINE))


def locked(name):
    """Package -> version of what an installation holds; for a CPU torch has a file of its own."""
    return versions("torch") | versions("cpu") if name == "cpu" else versions(name)


def test_torch_for_a_cpu_is_that_for_cuda_and_nothing_else_goes_without_a_hash():
    assert versions("torch") == {"torch": versions("cuda")["torch"]}
    assert "torch" not in versions("cpu")


def pinned(requirements):
    """Package -> version of the project's own requirements, without their extras."""
    return dict(re.sub(r"\[.*\]", "", line).split("==") for line in requirements)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_lock_holds_every_dependency_of_its_device_at_the_same_version(name):
    wanted = pinned(PROJECT["dependencies"]) | pinned(PROJECT["optional-dependencies"][name])
    assert wanted.items() <= locked(name).items()


def test_what_the_demo_set_up_can_serve_its_bundle():
    extras = PROJECT["optional-dependencies"]
    assert pinned(extras["serve"]).items() <= pinned(extras["demo"]).items()
    assert {"starlette", "pydantic", "h11", "click"} <= locked("demo").keys()  # what these need


@pytest.mark.parametrize("name", ["demo", "dev"])
def test_a_lock_of_tools_holds_what_its_extra_names_and_agrees_with_both_devices(name):
    assert pinned(PROJECT["optional-dependencies"][name]).items() <= locked(name).items()
    for device in ["cpu", "cuda"]:
        shared = locked(name).keys() & locked(device).keys()
        assert {p: locked(name)[p] for p in shared} == {p: locked(device)[p] for p in shared}


def test_the_devices_differ_in_fbgemm_and_the_libraries_of_nvidia_only():
    cpu, cuda = locked("cpu"), locked("cuda")
    assert cpu.items() - cuda.items() == {("fbgemm-gpu-cpu", "1.8.0")}
    only_cuda = [name for name, _ in cuda.items() - cpu.items()]
    assert {"fbgemm-gpu", "triton", "nvidia-cublas"} <= set(only_cuda)
    assert all(re.match(r"fbgemm-gpu$|triton$|nvidia-|cuda-", name) for name in only_cuda)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_torchrec_is_locked_though_it_is_no_dependency(name):
    assert locked(name)["torchrec"] == "1.8.0"
    assert "torchrec" not in pinned(PROJECT["dependencies"])


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_place(name):
    assert not re.search(
        r"://|^--?[a-z-]*(index|find-links)|@|(?m:^)/|\s/", lock(name), re.MULTILINE
    )


@pytest.mark.parametrize("name", ["cpu", "cuda", "demo", "dev"])
def test_every_package_of_a_hashed_lock_has_a_hash(name):
    blocks = re.split(r"\n(?=[a-z0-9])", lock(name))[1:]
    assert len(blocks) == len(versions(name))
    assert all("--hash=sha256:" in block for block in blocks)


def test_no_lightning_that_was_malicious_is_allowed():
    assert pinned(PROJECT["dependencies"])["lightning"] == locked("cpu")["lightning"] == "2.6.6"


@pytest.mark.slow
def test_the_wheel_brings_the_code_the_configs_and_the_seeds(tmp_path):
    pytest.importorskip("hatchling", reason="in the dev extra")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "configs", "seeds", "src/deeprec"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    wanted = {path.removeprefix("src/deeprec/") for path in tracked}
    assert {f"deeprec/{path}" for path in wanted} <= names
    assert "deeprec/py.typed" in names  # else a user's type checker takes all of it for Any
    entry = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("entry_points.txt")))
    assert b"deeprec = deeprec.cli:main" in entry


def instructions():
    """Instruction -> its arguments, one entry a line of Dockerfile.cuda."""
    text = (ROOT / "Dockerfile.cuda").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_what_the_image_copies_exists_and_reaches_the_build():
    copied = [
        rest.split()[:-1] for word, rest in instructions() if word == "COPY" if "--from" not in rest
    ]
    paths = [path for paths in copied for path in paths]
    allowed = (ROOT / ".dockerignore").read_text().split("\n")
    assert "requirements/cuda.lock" in paths
    for path in paths:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in allowed


def test_the_image_installs_the_cuda_lock_and_deeprec_and_nothing_else():
    runs = " && ".join(rest for word, rest in instructions() if word == "RUN").split(" && ")
    assert [run for run in runs if run.startswith("pip install")] == [
        "pip install --require-hashes --no-deps -r requirements/cuda.lock",
        "pip install --no-deps wheels/deeprec-*.whl",
    ]


def test_the_image_is_pinned_and_runs_as_nobody_in_particular():
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    last_stage = instructions()[[word for word, _ in instructions()].index("FROM", 1) :]
    assert ("USER", "deeprec") in last_stage
    assert ("ENTRYPOINT", '["deeprec"]') in last_stage
    (check,) = [rest for word, rest in last_stage if word == "HEALTHCHECK"]
    assert check.endswith('CMD ["deeprec", "doctor"]')


# scripts/setup, in an environment whose pip only notes what it was asked for.


@pytest.fixture
def prepared_environment(tmp_path):
    """An environment whose pip installs nothing and notes how it was called."""
    binaries = tmp_path / "env/bin"
    binaries.mkdir(parents=True)
    python = binaries / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'if [ "$1 $2" = "-m pip" ]; then echo "pip $*" >> {tmp_path}/pip.log; exit 0; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return tmp_path


def run_setup(environment, *arguments):
    script = 'source scripts/setup; setup dev -- "$@"; echo "left: ${arguments[*]-}"'
    variables = os.environ | {"VIRTUAL_ENV": str(environment / "env")}
    variables.pop("DEEPREC_NO_SETUP", None)
    command = ["bash", "-euc", script, "bash", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    log = environment / "pip.log"
    pips = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, pips


def test_a_second_call_installs_nothing_and_says_so(prepared_environment):
    _, first = run_setup(prepared_environment, "--cpu")
    torch, others = (
        f"pip -m pip install --no-compile --no-deps -r requirements/{name}.lock"
        for name in ("torch", "cpu")
    )
    assert first.index(torch) + 1 == first.index(others)
    assert "pip -m pip install --no-compile --no-deps -r requirements/dev.lock" in first
    printed, second = run_setup(prepared_environment, "--cpu", "-k", "name")
    assert second == []
    assert "nothing to install" in printed
    assert "left: -k name" in printed


def test_another_device_is_installed_anew(prepared_environment):
    run_setup(prepared_environment, "--cpu")
    _, pips = run_setup(prepared_environment, "--cuda")
    assert "pip -m pip install --no-compile --no-deps -r requirements/cuda.lock" in pips
    assert "pip -m pip install --no-compile --no-deps -r requirements/dev.lock" not in pips


def test_an_interrupted_installation_is_taken_up_again(prepared_environment):
    run_setup(prepared_environment, "--cpu")
    (prepared_environment / "env/.deeprec/dev").unlink()
    _, pips = run_setup(prepared_environment, "--cpu")
    assert pips == ["pip -m pip install --no-compile --no-deps -r requirements/dev.lock"]


def test_a_note_is_a_hash_of_the_lock(prepared_environment):
    run_setup(prepared_environment, "--cpu")
    note = (prepared_environment / "env/.deeprec/base").read_text().split()
    locks = lock("torch") + lock("cpu")
    assert note == ["cpu", hashlib.sha256(locks.encode()).hexdigest()]
