"""The whole road, as a person walks it: in a terminal, verb after verb, each reading the last."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import standin

CHECKOUT = Path(__file__).parents[1]
COLUMNS = 100


def in_a_terminal(command: Path, folder: Path, *words: str) -> str:
    """What `deeprec WORDS` shows a person; it must succeed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(command), *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(CHECKOUT / "src"),
            "TERM": "xterm-256color",
            "COLUMNS": str(COLUMNS),
        },
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # the other end of a terminal closes with an error, not an empty read
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    text = shown.decode(errors="replace")
    assert process.wait() == 0, text
    return text


@pytest.fixture(scope="module")
def walked(
    deeprec_command: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("road")
    steps = {
        "prepare": ["data=seeds", "output_dir=prepared"],
        "train": ["prepared=prepared", "output_dir=run", "experiment=smoke"],
        "evaluate": ["run=run"],
        "export": ["run=run", "output_dir=bundle"],
        "recommend": ["bundle=bundle", "histories=prepared", "output=lists.parquet", "k=100"],
    }
    return folder, {
        verb: in_a_terminal(deeprec_command, folder, verb, *words) for verb, words in steps.items()
    }


@pytest.mark.slow
def test_long_work_shows_what_it_does(walked: tuple[Path, dict[str, str]]) -> None:
    _, shown = walked
    assert "users/s" in shown["train"]
    assert "loss" in shown["train"]
    assert "ranking for the holdout" in shown["evaluate"]
    assert "recommending" in shown["recommend"]


@pytest.mark.slow
def test_what_is_served_is_what_was_evaluated(
    deeprec_command: Path, walked: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = walked
    in_a_terminal(
        deeprec_command,
        folder,
        "evaluate",
        "recommendations=lists.parquet",
        "prepared=prepared",
        "output_dir=report",
    )
    run, lists = (
        json.loads((folder / where / "report.json").read_text()) for where in ("run", "report")
    )
    assert standin.of_lists(lists) == standin.of_lists(run)
    baselines = [[system["name"] for system in report["systems"][1:]] for report in (run, lists)]
    assert baselines[0] == baselines[1]


@pytest.mark.slow
def test_the_smoke_model_has_learned(walked: tuple[Path, dict[str, str]]) -> None:
    folder, _ = walked
    systems = json.loads((folder / "run" / "report.json").read_text())["systems"]
    ndcg = {system["name"]: system["metrics"]["ndcg@20"]["mean"] for system in systems}
    assert ndcg["autoencoder"] > ndcg["popularity"] + 0.1


@pytest.mark.slow
def test_nothing_half_written_is_left(walked: tuple[Path, dict[str, str]]) -> None:
    folder, _ = walked
    names = {path.name for path in folder.iterdir()} - {"report"}
    assert names == {"prepared", "run", "bundle", "lists.parquet"}
    lists = pq.read_table(folder / "lists.parquet")
    assert lists.column_names[:3] == ["user_id", "item_ids", "scores"]
