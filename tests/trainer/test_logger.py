"""A tracker is waited for a moment, and then left to end by itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deeprec.errors import IntegrityError
from deeprec.trainer.logger import MetricsFile, Tracker, read_metrics

SLEEPER = [sys.executable, "-c", "import time; time.sleep(20)"]


def test_a_tracker_that_takes_long_goes_on_without_the_run() -> None:
    tracker = Tracker(SLEEPER, {})
    process = tracker._process
    assert process is not None
    started = time.monotonic()
    tracker.close()
    assert time.monotonic() - started < 5
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_tracker_of_a_run_that_leaves_nothing_ends_at_once() -> None:
    tracker = Tracker(SLEEPER, {})
    process = tracker._process
    assert process is not None
    tracker.abandon()
    assert process.returncode is not None


def test_a_wandb_that_hangs_ends_after_the_run(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text("import time\ndef init(**_): time.sleep(60)\n")
    script = "from deeprec.trainer import wandb_process as w; w.PATIENCE_SECONDS = 0.2; w.main()"
    subprocess.run(
        [sys.executable, "-c", script],
        input=b"{}\n",
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    "init",
    [
        "raise RuntimeError('401 unauthorized')",
        "import os; os._exit(1)",
        "raise OSError(28, 'No space left on device')",
    ],
)
def test_a_wandb_that_fails_costs_a_run_nothing_but_a_warning(
    tmp_path: Path, init: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "wandb.py").write_text(f"def init(**_):\n    {init}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    tracker = Tracker([sys.executable, "-m", "deeprec.trainer.wandb_process"], {})
    process = tracker._process
    assert process is not None
    process.wait(60)
    for step in range(3):
        tracker.write({"step": step})
    tracker.close()
    assert "metrics.csv is complete" in caplog.text


def test_a_row_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(SLEEPER, {})
    for _ in range(3):
        tracker.write({"text": "x" * 50_000})  # a pipe holds 64 KiB
    assert "it reads too slowly" in caplog.text or "unavailable" in caplog.text
    assert tracker._process is None


ROWS = (
    "epoch,step,loss,val/ndcg@100,users_per_second,seconds,memory_bytes,weight_norm,gradient_norm"
)


def test_a_row_that_was_torn_by_a_full_disk_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"{ROWS}\n1,4,.5,.1,9,9,9,9,9\n2,128,.5,.1,9,9,9,9,9\n3,1")
    MetricsFile(path, 100)
    assert [row["step"] for row in read_metrics(path)] == ["4"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", ROWS.encode() + b"\n1\n2,8,.5,.1,9,9,9,9,9\n", b"a,b\n1,2\n", b"\0" * 9],
)
def test_damaged_metrics_are_told_of_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"metrics\.csv: is damaged"):
        MetricsFile(tmp_path / "metrics.csv", 8)
