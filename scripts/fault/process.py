"""Processes that are killed, stopped, started again and started beside each other."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from deeprec import folder
from deeprec.errors import DeeprecError
from deeprec.trainer.run import open_run
from fault.ground import Count, Ground, done

POINTS = (
    *("draft begun", "weights written", "filled", "file flushed", "file flushed:3", "sealed"),
    *("file written:2", "file renamed:2", "renamed", "committed", "verified", "retired"),
    "old ones dropped",
)
CROWD = 20


def kill(ground: Ground) -> Count:
    """`kill -9` at random moments, until the run is through; a save after every step."""
    count = Count()
    times = ground.times(100)
    left = next(times, None) is not None
    while left:
        with ground.new() as run:
            at, lost = 0, False
            while not lost:
                moment = ground.draw.uniform(0.0, ground.seconds) if left else None
                life = ground.live(ground.command(run), kill_after=moment)
                lost = life.began is not None and at - life.began > 1
                lost |= life.code not in (0, -9)
                at = max(at, done(life))
                if life.code == -9:
                    count.take(lost=lost, why=f"began after {life.began}, {at} done: {life.said}")
                    left = next(times, None) is not None
                elif life.code == 0:
                    break
            if not lost and not ground.same(run):
                count.silent += 1
    return count


def points(ground: Ground) -> Count:
    """`kill -9` at each named point of a commit, in the foreground and in the background."""
    count = Count()
    for background in ("false", "true"):
        for point in POINTS:
            with ground.new() as run:
                command = ground.command(run, f"trainer.save_in_background={background}")
                first = ground.live(command, {folder.CRASH: point})
                second = ground.live(command)
                lost = done(first) - (second.began or 0) > 1 + (background == "true")
                lost |= (first.code, second.code) != (-9, 0)
                silent = not lost and not ground.same(run)
                count.take(lost=lost, silent=silent, why=f"{point}: {second.said}")
    return count


def chains(ground: Ground) -> Count:
    """Chains of two to five resumes, each after a kill just behind a save of its own."""
    count = Count()
    for _ in ground.times(20):
        with ground.new() as run:
            for _ in range(ground.draw.randint(2, 5)):
                place = ground.draw.randint(1, 4)
                ground.live(ground.command(run), {folder.CRASH: f"old ones dropped:{place}"})
            lost = ground.live(ground.command(run)).code != 0
            count.take(lost=lost, silent=not lost and not ground.same(run), why=str(run))
    return count


def terminate(ground: Ground) -> Count:
    """SIGTERM at random moments, once each, and a resume."""
    count = Count()
    for _ in ground.times(50):
        with ground.new() as run:
            moment = ground.draw.uniform(0.0, ground.seconds)
            life = ground.live(ground.command(run), kill_after=moment, signal_number=15)
            lost = life.code not in (0, 143, -15)
            again = ground.live(ground.command(run))
            went_on = again.began is None or again.began == done(life)  # None: nothing was left
            lost |= again.code != 0 or (life.code == 143 and not went_on)
            silent = not lost and not ground.same(run)
            count.take(lost=lost, silent=silent, why=f"{life.code}, {again.code}: {life.said}")
    return count


def threads(ground: Ground) -> Count:
    """One or two threads, batches made when needed, ahead, by one process, by two: killed, resumed.

    Each against a run of as many threads that was never disturbed, and made its batches itself.
    """
    count = Count()
    for number in (1, 2):
        fixed = [f"trainer.threads={number}", "model.hidden_dims=[256]"]  # worth two threads
        with ground.new() as whole:
            ground.live(ground.command(whole, *fixed, "trainer.prefetch_batches=0"))
            for ahead, processes in ((0, 0), (2, 0), (2, 1), (2, 2)):
                words = [*fixed, f"trainer.prefetch_batches={ahead}"]
                words.append(f"trainer.prefetch_processes={processes}")
                with ground.new() as run:
                    point = f"verified:{ground.draw.randint(2, 12)}"
                    first = ground.live(ground.command(run, *words), {folder.CRASH: point})
                    lost = (first.code, ground.live(ground.command(run, *words)).code) != (-9, 0)
                    silent = not lost and not ground.same(run, whole)
                    count.take(lost=lost, silent=silent, why=f"{words}: {first.said}")
    return count


def ranks(ground: Ground) -> Count:
    """torchrun: two processes are refused; one that is killed is started again and goes on."""
    count = Count()
    with ground.new() as run:
        code, said = _torchrun(ground.shell(run), 2, {})
        refused = code != 0 and "one of several" in said and not run.exists()
        count.take(silent=not refused, why=said)
    for point in ("weights written:11", "verified:12"):  # not twice in one run
        with ground.new() as run:
            words = [one for one in ground.shell(run) if one != "resume=auto"]
            code, said = _torchrun(words, 1, {folder.CRASH: point})
            count.take(lost=code != 0, silent=code == 0 and not ground.same(run), why=said)
    return count


def together(ground: Ground) -> Count:
    """Two processes train one run: the leading or the following one is killed, then resumed."""
    count = Count()
    words = "trainer.processes=2", "trainer.batch_users=8"
    with ground.new() as whole:
        ground.live(ground.command(whole, *words))
        for number in ground.times(6):
            with ground.new() as run:
                command = ground.command(run, *words)
                point = f"verified:{ground.draw.randint(2, 12)}"
                first = (
                    ground.live(command, fault="follower_killed")
                    if number % 2
                    else ground.live(command, {folder.CRASH: point})
                )
                second = ground.live(command)
                lost = (first.code, second.code) != (5 if number % 2 else -9, 0)
                lost |= done(first) - (second.began or 0) > 1
                silent = not lost and not ground.same(run, whole)
                count.take(lost=lost, silent=silent, why=f"{point}: {first.said}{second.said}")
    return count


def _torchrun(words: list[str], processes: int, environment: dict[str, str]) -> tuple[int, str]:
    restarts = 3 if processes == 1 else 0
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    runner.append(f"--max-restarts={restarts}")
    done = subprocess.run(
        [*runner, f"--nproc-per-node={processes}", "--monitor-interval=0.1", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def moved(ground: Ground) -> Count:
    """A run is moved, removed or replaced while it trains: it ends, and goes on where it is now."""
    count = Count()
    for _ in ground.times(11):
        for fault in ("moved", "removed", "replaced"):
            with ground.new() as run:
                life = ground.live(ground.command(run), fault=fault)
                there = [one for one in run.rglob("*") if one.is_file()]
                lost = life.code != 5 or bool(there)
                elsewhere = run.with_name("elsewhere")
                if fault != "removed":
                    lost |= ground.live([f"resume={elsewhere}"]).code != 0
                silent = not lost and fault != "removed" and not ground.same(elsewhere)
                count.take(lost=lost, silent=silent, why=f"{fault}: {life.said}")
    return count


def readers(ground: Ground) -> Count:
    """A run is opened again and again while it saves after every step and drops what is old."""
    count = Count()
    with ground.new() as run:
        words = ground.command(run, "trainer.max_epochs=20")
        training = threading.Thread(target=ground.live, args=(words,))
        training.start()
        while training.is_alive() and count.tries < (ground.tries or 1000):
            if not any((run / "checkpoints").glob("step-*")):
                continue
            try:
                open_run(run)
                count.take()
            except (DeeprecError, OSError) as error:
                count.take(lost=True, why=str(error))
        training.join()
    return count


def crowd(ground: Ground) -> Count:
    """Twenty runs begun at once in a folder of runs, then twenty processes that want one run."""
    count = Count()
    words = [*ground.command(Path("RUN"), "trainer.max_epochs=1"), "-m"]
    words = [one for one in words if not one.startswith(("output_dir", "resume"))]
    for one in ground.live.together(words, CROWD):
        count.take(lost=one.code != 0, why=one.said)
    runs = [open_run(one) for one in (ground.root / "runs").glob("*/0")]
    ids = {json.loads((one.path / "status.json").read_text())["id"] for one in runs}
    count.silent += 2 * CROWD - len(runs) - len(ids)
    with ground.new() as run:
        begun = ground.live.together(ground.command(run), CROWD)
        trained = sum(bool(one.steps) for one in begun)
        for one in begun:
            count.take(lost=one.code not in (0, 2), why=one.said)
        count.silent += trained != 1 or not ground.same(run)
    return count
