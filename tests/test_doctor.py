"""What deeprec doctor says of installations, given as plain mappings of versions."""

import os
import re
import resource
import sys
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from deeprec import doctor, machine

SOUND = {
    "torch": "2.13.0+cpu",
    "lightning": "2.6.6",
    "torchmetrics": "1.3.2",
    "hydra-core": "1.3.8",
    "omegaconf": "2.3.1",
    "ibis-framework": "12.0.0",
    "duckdb": "1.5.6",
    "sqlglot": "28.10.1",
    "pyarrow": "26.0.1",
    "numpy": "2.4.6",
    "scipy": "1.17.1",
    "matplotlib": "3.11.2",
    "safetensors": "0.8.0",
    "rich": "15.0.0",
    "wandb": "0.31.0",
    "optuna": "4.9.0",
    "fbgemm-gpu-cpu": "1.8.0",
    "torchrec": "1.8.0",
}


def findings_of(installed):
    found = [*doctor.check_versions(installed), *doctor.check_fbgemm(installed)]
    return {f.what: f for f in [*found, doctor.check_torchrec(installed)]}


def without(*names, **others):
    kept = {name: version for name, version in SOUND.items() if name not in names}
    return kept | {name.replace("_", "-"): version for name, version in others.items()}


def test_the_tested_set_is_sound():
    assert {f.state for f in findings_of(SOUND).values()} == {"ok"}


def test_the_tested_cuda_set_is_sound():
    installed = without("fbgemm-gpu-cpu", torch="2.13.0", fbgemm_gpu="1.8.0")
    assert {f.state for f in findings_of(installed).values()} == {"ok"}


def test_the_table_holds_every_base_dependency_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in project["dependencies"])
    pins["ibis-framework"] = pins.pop("ibis-framework[duckdb]")
    assert {name: tested for name, (_, tested) in doctor.REQUIRED.items()} == pins


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_a_malicious_lightning_is_refused(version):
    finding = findings_of(without(lightning=version))["lightning"]
    assert finding.state == "broken"
    assert "malicious" in finding.detail
    assert finding.mend == "pip install 'lightning==2.6.6'"


@pytest.mark.parametrize(
    ("name", "version"),
    [("torch", "2.9.1"), ("lightning", "2.5.9"), ("hydra-core", "1.3.2"), ("lightning", "2.6.5")],
)
def test_a_version_below_its_floor_must_be_mended(name, version):
    assert findings_of(SOUND | {name: version})[name].state == "broken"


def test_a_later_version_is_a_warning_that_names_the_tested_one():
    finding = findings_of(SOUND | {"pyarrow": "27.0.0"})["pyarrow"]
    assert finding.state == "warning"
    assert "26.0.1" in finding.detail


def test_a_missing_package_must_be_mended():
    finding = findings_of(without("scipy"))["scipy"]
    assert (finding.state, finding.mend) == ("broken", "pip install 'scipy==1.17.1'")


@pytest.mark.parametrize(
    ("torch", "fbgemm", "state", "mended"),
    [
        ("2.13.0+cpu", "1.8.0", "ok", ""),
        ("2.14.1+cpu", "1.9.0", "ok", ""),  # fits together, though not what was tested
        ("2.13.0+cpu", "1.9.0", "broken", "fbgemm-gpu-cpu==1.8.0"),
        ("2.14.1+cpu", "1.8.0", "broken", "torch==2.13.0"),
    ],
)
def test_fbgemm_1_x_goes_with_torch_2_x_plus_5(torch, fbgemm, state, mended):
    finding = findings_of(SOUND | {"torch": torch, "fbgemm-gpu-cpu": fbgemm})["fbgemm-gpu-cpu"]
    assert finding.state == state
    assert mended in finding.mend


def test_two_builds_of_fbgemm_over_each_other_must_be_mended():
    finding = findings_of(SOUND | {"fbgemm-gpu": "1.8.0"})["fbgemm"]
    assert finding.state == "broken"
    assert "uninstall --yes fbgemm-gpu fbgemm-gpu-cpu" in finding.mend
    assert finding.mend.endswith("'fbgemm-gpu-cpu==1.8.0'")


def test_a_cuda_fbgemm_beside_a_cpu_torch_must_be_mended():
    finding = findings_of(without("fbgemm-gpu-cpu", fbgemm_gpu="1.8.0"))["fbgemm-gpu"]
    assert finding.state == "broken"


@pytest.mark.parametrize(
    "missing", [["torchrec"], ["fbgemm-gpu-cpu"], ["torchrec", "fbgemm-gpu-cpu"]]
)
def test_without_torchrec_training_is_slower_and_nothing_is_broken(missing):
    found = findings_of(without(*missing))
    assert found["torchrec"].state == "warning"
    assert "plain torch" in found["torchrec"].detail
    assert "broken" not in {f.state for f in found.values()}


def test_torchrec_is_expected_to_import_beside_fbgemm_only():
    assert doctor.modules_of(SOUND)[-2:] == ["fbgemm_gpu", "torchrec"]
    assert "torchrec" not in doctor.modules_of(without("fbgemm-gpu-cpu"))


def test_a_torchrec_of_another_number_must_be_mended():
    assert findings_of(SOUND | {"torchrec": "1.9.2"})["torchrec"].state == "broken"


def test_an_old_python_must_be_mended():
    assert doctor.check_python((3, 10)).state == "broken"
    assert doctor.check_python((3, 11)).state == "ok"


def test_too_little_room_is_a_warning():
    assert doctor.check_room("disk", 10**8).state == "warning"
    assert doctor.check_room("disk", 10**11).state == "ok"


def test_a_driver_that_a_cpu_torch_cannot_use_is_a_warning():
    assert doctor.check_device("2.13.0+cpu", "NVIDIA L4, 23034 MiB, 580.1").state == "warning"
    assert doctor.check_device("2.13.0+cpu", None).state == "ok"


@pytest.fixture
def broken_modules(tmp_path, monkeypatch):
    """Modules that raise, kill their process, or chatter while they are imported."""
    (tmp_path / "raises.py").write_text("raise OSError('cannot load\\nthis library')")
    (tmp_path / "kills.py").write_text("import os; os._exit(139)")
    (tmp_path / "chatters.py").write_text("print('imported\\nhello', end='')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("broken_modules")
def test_a_module_that_kills_its_process_does_not_hide_the_others():
    modules = ["json", "raises", "chatters", "kills", "absent", "csv", "kills"]
    errors = doctor.import_errors(modules)
    assert errors == {
        "raises": "OSError: cannot load this library",
        "kills": "the importing process died with exit code 139",
        "absent": "ModuleNotFoundError: No module named 'absent'",
    }


def test_an_import_that_fails_must_be_mended_by_a_line_to_copy():
    (torch, fbgemm) = doctor.check_imports({"torch": "no", "fbgemm_gpu": "no"}, SOUND)
    assert torch.mend.endswith("'torch==2.13.0'")
    assert fbgemm.mend == "pip install --no-deps -r requirements/cpu.lock"


def test_a_line_to_copy_is_printed_whole_on_a_narrow_terminal(capsys):
    mend = "pip install 'deeprec[cpu]' " + "x" * 100
    findings = [doctor.Finding("torch", "broken", "not [bold]installed", mend)]
    doctor.print_findings(findings, Console(width=40, file=sys.stdout))
    printed = capsys.readouterr().out
    assert f"torch: {mend}\n" in printed
    assert "[bold]" in printed
    assert "1 to mend" in printed


def test_cores_and_memory_are_told_where_linux_does_not_tell_them(monkeypatch, tmp_path):
    there = machine.free_memory_bytes()
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.free_memory_bytes() >= there / 2 > 2**20
    assert machine.cores() == os.cpu_count()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="says what is mapped")
def test_memory_is_no_more_than_the_limit_of_a_process_leaves():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**28, hard))
    try:
        assert 2**27 < machine.free_memory_bytes() <= 2**28 + 2**24
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
