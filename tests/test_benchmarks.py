"""benchmarks/README.md shows what is stored, and every stored result can be measured again."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STORED = sorted((BENCHMARKS / "results").glob("*.json"))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("page")


@pytest.fixture
def draw(page: ModuleType) -> ModuleType:
    return importlib.import_module("draw")


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(path.read_text())
    return {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}


def test_the_page_is_made_from_what_is_stored(page: ModuleType) -> None:
    assert page.page(page.results()) == (BENCHMARKS / "README.md").read_text()


def test_the_plots_are_drawn_from_what_is_stored(
    page: ModuleType, draw: ModuleType, tmp_path: Path
) -> None:
    draw.draw_all(page.results(), tmp_path)
    drawn = {path.name: path.read_text() for path in (tmp_path / "plots").iterdir()}
    assert drawn == {path.name: path.read_text() for path in (BENCHMARKS / "plots").iterdir()}


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.stem)
def test_a_result_has_a_script_that_measures_it_without_arguments(stored: Path) -> None:
    measure = functions(BENCHMARKS / f"{stored.stem}.py")["measure"]
    assert measure.args.args == []


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.stem)
def test_a_result_says_how_it_came_about_and_not_where(page: ModuleType, stored: Path) -> None:
    result = json.loads(stored.read_text())
    assert set(result["found"]) <= set(page.Measured.__annotations__)
    assert result["name"] == stored.stem
    assert result["ran"]["command"].startswith("python benchmarks/run.py")
    assert set(result["ran"]) == {"command", "date", "machine", "versions", "others"}
    assert "/tmp" not in stored.read_text()
    columns = [list(row) for row in result["found"]["rows"]]
    assert columns == columns[:1] * len(columns)


@pytest.mark.slow
def test_scripts_run_whole_and_store_nothing() -> None:
    """Those that start few processes; `run.py --quick` runs all of them."""
    names = ["dsstne", "equal_minutes", "gpu", "input_side", "loader", "matrix_rate"]
    names += ["step", "top_k"]
    before = {path: path.read_bytes() for path in (BENCHMARKS / "results").iterdir()}
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent / "src")}
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = [line.split()[0] for line in done.stdout.splitlines() if " runs, " in line]
    assert ran == names
    assert before == {path: path.read_bytes() for path in (BENCHMARKS / "results").iterdir()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it has its GPU")
def test_without_a_gpu_its_benchmark_is_left_out_and_refused_by_name(
    page: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    run = importlib.import_module("run")
    assert run.able(["gpu", "step"], {}, named=False) == ["step"]
    assert "gpu is left out: it needs a CUDA device" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="gpu is left out: it needs a CUDA device"):
        run.able(["gpu", "step"], {}, named=True)


def test_a_script_cut_off_leaves_what_it_found(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.keep({"claim": "nobody asked", "conditions": {}, "rows": [], "goals": []})
    monkeypatch.setenv(page.UNFINISHED, str(tmp_path / "found"))
    page.keep({"claim": "so far", "conditions": {}, "rows": [{"ms": 1.0}], "goals": []})
    assert json.loads((tmp_path / "found").read_text())["rows"] == [{"ms": 1.0}]


def test_a_missed_goal_has_its_reason_beside_the_script(page: ModuleType) -> None:
    missed = {
        result["name"]
        for result in page.results()
        if any(page.met(goal) == "missed" for goal in result["found"]["goals"])
    }
    assert [name for name in missed if not (BENCHMARKS / f"{name}.md").exists()] == []


def test_reasons_belong_to_a_script() -> None:
    notes = [path for path in BENCHMARKS.glob("*.md") if path.name != "README.md"]
    assert [note.name for note in notes if not note.with_suffix(".py").exists()] == []


@pytest.mark.parametrize(
    ("better", "reached", "verdict"),
    [
        ("higher", 5.0, "met"),
        ("higher", 4.99, "missed"),
        ("lower", 5.0, "met"),
        ("lower", 5.01, "missed"),
        ("lower", None, "not measured"),
    ],
)
def test_a_goal_is_met_at_its_bound_and_on_its_better_side(
    page: ModuleType, better: str, reached: float | None, verdict: str
) -> None:
    goal = {"what": "it", "goal": 5.0, "reached": reached, "better": better, "unit": "times"}
    assert page.met(goal) == verdict


def test_three_digits_of_a_number_and_nothing_of_none(page: ModuleType) -> None:
    assert page.table(
        [{"a": 1234567, "b": 0.12345, "c": None}, {"a": "x", "b": 99.96, "c": 1}]
    ) == ("| a | b | c |\n| --- | --- | --- |\n| 1,234,567 | 0.123 |  |\n| x | 100 | 1 |")
