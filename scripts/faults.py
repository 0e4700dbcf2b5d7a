"""Breaks runs, folders and configs at random, and counts what was lost or went unnoticed.

    ./scripts/faults [FAULT ...] [--tries N] [--minutes M] [--seed N]

Prints a line of docs/reliability.md for each fault. *lost*: a state that could not be gone on with,
or more done again than the interval between two saves. *silent*: a run that ended otherwise than
one never disturbed, or damage that was read. Exits with 1 if there is any.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
sys.path[:0] = [str(CHECKOUT / "src"), str(CHECKOUT / "tests")]

import breaking  # noqa: E402  # of the tests
import lives  # noqa: E402
import small_shop  # noqa: E402
from deeprec import bundle, config, export, folder  # noqa: E402
from deeprec.data.store import Prepared  # noqa: E402
from deeprec.errors import DeeprecError  # noqa: E402
from deeprec.trainer.logger import read_metrics  # noqa: E402
from deeprec.trainer.run import open_run  # noqa: E402

SAVED = ("trainer.save_every_minutes=0", *lives.SMALL)
TIMED = ("seconds", "users_per_second", "memory_bytes")
POINTS = (
    *("draft begun", "weights written", "filled", "file flushed", "file flushed:3", "sealed"),
    *("file written:2", "file renamed:2", "renamed", "committed", "verified", "retired"),
    "old ones dropped",
)


@dataclass
class Count:
    """Of one fault: tries, and what came of them."""

    tries: int = 0
    lost: int = 0
    silent: int = 0

    def take(self, *, lost: bool = False, silent: bool = False, why: str = "") -> None:
        self.tries += 1
        self.lost += lost
        self.silent += silent
        if lost or silent:
            print(f"  {why}", file=sys.stderr)


class Ground:
    """A folder to work in, with what every fault needs."""

    def __init__(
        self, root: Path, live: lives.Live, tries: int | None, minutes: float, seed: int
    ) -> None:
        self.root, self.live, self.tries, self.minutes = root, live, tries, minutes
        self.draw = random.Random(seed)
        self.prepared = root / "prepared"
        self.whole = root / "whole"
        assert live(["replay=no"]).code == 2  # when it is back, everything is imported
        started = time.monotonic()
        assert live(self.command(self.whole)).code == 0
        self.seconds = time.monotonic() - started

    def times(self, usual: int) -> Iterator[int]:
        """As often as asked for, and not longer."""
        until = time.monotonic() + 60 * self.minutes
        for number in range(self.tries or usual):
            if time.monotonic() < until:
                yield number

    def command(self, run: Path, *words: str) -> list[str]:
        return ["prepared=PREPARED", f"output_dir={run}", "resume=auto", *SAVED, *words]

    def same(self, run: Path) -> bool:
        return content(run) == content(self.whole)

    @contextmanager
    def new(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.root) as place:
            yield Path(place) / "run"


def content(run: Path) -> tuple[object, ...]:
    """Every byte of the last checkpoint's tensors, and the metrics but for times."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    tensors = [folder.sha256(last / f"{name}.safetensors") for name in ("weights", "optimizer")]
    rows = [
        {name: one for name, one in row.items() if name not in TIMED}
        for row in read_metrics(run / "metrics.csv")
    ]
    return last.name, tensors, rows


def done(life: lives.Life) -> int:
    return life.steps[-1] if life.steps else life.began or 0


def kill(ground: Ground) -> Count:
    """`kill -9` at random moments, until the run is through; a save after every step."""
    count = Count()
    times = ground.times(100)
    while next(times, None) is not None:
        with ground.new() as run:
            at = 0
            while True:
                moment = ground.draw.uniform(0.0, ground.seconds)
                life = ground.live(ground.command(run), kill_after=moment)
                lost = life.began is not None and at - life.began > 1
                lost |= life.code not in (0, -9)
                why = f"began after {life.began}, {at} done, {life.code}: {life.said}"
                if life.code == 0 or lost:
                    break
                count.take()
                next(times, None)
                at = max(at, done(life))
            count.lost += lost
            count.silent += not lost and not ground.same(run)
            if lost:
                print(why, file=sys.stderr)
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
            lost |= again.code != 0 or (life.code == 143 and done(life) != (again.began or 0))
            silent = not lost and not ground.same(run)
            count.take(lost=lost, silent=silent, why=f"{life.code}, {again.code}: {life.said}")
    return count


def checkpoint_bits(ground: Ground) -> Count:
    """One flipped bit in a finished run or one of its checkpoints, and it is opened."""
    return _flipped(ground, ground.whole, lambda: open_run(ground.whole))


def prepared_bits(ground: Ground) -> Count:
    """One flipped bit in a prepared folder, and it is opened."""
    return _flipped(ground, ground.prepared, lambda: Prepared(ground.prepared))


def bundle_bits(ground: Ground) -> Count:
    """One flipped bit in a bundle, and it is verified."""
    place = ground.root / "bundle"
    export.export(config.ExportConfig(run=str(ground.whole), output_dir=str(place)))
    return _flipped(ground, place, lambda: bundle.verify(place))


def _flipped(ground: Ground, place: Path, opened: Callable[[], object]) -> Count:
    count = Count()
    opened()
    for _ in ground.times(1000):
        with breaking.flipped_bit(place, ground.draw) as what:
            try:
                opened()
            except DeeprecError:
                count.take()
            else:
                count.take(silent=True, why=what)
    return count


def truncated(ground: Ground) -> Count:
    """Each file of the newest checkpoint cut at each 64th of its length."""
    count = Count()
    with ground.new() as run:
        shutil.copytree(ground.whole, run)
        (run / folder.MANIFEST).unlink()
        last = sorted((run / "checkpoints").glob("step-*"))[-1]
        for path in sorted(last.iterdir()):
            sound = path.read_bytes()
            for part in range(64):
                path.write_bytes(sound[: len(sound) * part // 64])
                try:
                    folder.verify(last, "checkpoint")
                except DeeprecError:
                    count.take()
                else:
                    count.take(silent=True, why=f"{path.name} cut at {part}/64")
            path.write_bytes(sound)
    return count


def configs(ground: Ground) -> Count:
    """An override that is misspelt or has another value: refused, or taken as it was given."""
    count = Count()
    known = sorted(breaking.leaves(config.to_dict(config.compose("train", breaking.PLACES))))
    for _ in ground.times(1000):
        told = breaking.dropped_key(breaking.mutated_word(known, ground.draw))
        count.take(silent=told is not None, why=told or "")
    return count


def tracker(ground: Ground) -> Count:
    """Tracking with wandb and a server that is not there: the run neither waits nor differs."""
    count = Count()
    there = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    for _ in ground.times(5):
        with ground.new() as run:
            words = [*ground.command(run), "logger.wandb=auto"]
            started = time.monotonic()
            life = ground.live(words, there)
            seconds = time.monotonic() - started
            late = seconds > ground.seconds + 5 + 2  # at its end it waits for two
            silent = life.code != 0 or not ground.same(run)
            count.take(lost=late, silent=silent, why=f"{seconds:.1f} s: {life.said}")
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
    """Twenty runs begun in one second in a folder of runs, and two in one folder."""
    count = Count()
    words = [*ground.command(Path("RUN"), "trainer.max_epochs=1"), "-m"]
    words = [one for one in words if not one.startswith(("output_dir", "resume"))]
    words = [one.replace("PREPARED", str(ground.prepared)) for one in words]
    place = ground.root / "crowd"
    place.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "deeprec", "train", *words],
            cwd=place,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for _ in ground.times(20)
    ]
    codes = [one.wait() for one in started]
    runs = list((place / "runs").glob("*/0/manifest.json"))
    for code in codes:
        count.take(lost=code != 0, why=f"exit code {code}")
    count.silent = len(codes) - len(runs) - count.lost
    return count


FAULTS = {
    one.__name__: one
    for one in (
        *(kill, points, chains, terminate, checkpoint_bits, prepared_bits, bundle_bits),
        *(truncated, configs, tracker, readers, crowd),
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", help=f"default: all of {', '.join(FAULTS)}")
    parser.add_argument("--tries", type=int)
    parser.add_argument("--minutes", type=float, default=60.0, help="of each fault, at most")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print("| fault | tries | lost | silent |\n|---|---|---|---|")
    bad = 0
    with tempfile.TemporaryDirectory() as root:
        prepared = small_shop.make(Path(root) / "prepared")
        with lives.server(prepared) as live:
            ground = Ground(Path(root), live, asked.tries, asked.minutes, asked.seed)
            for name in asked.faults or FAULTS:
                count = FAULTS[name](ground)
                told = " ".join((FAULTS[name].__doc__ or "").split()).rstrip(".")
                print(f"| `{name}`: {told} | {count.tries:,} | {count.lost} | {count.silent} |")
                sys.stdout.flush()
                bad += count.lost + count.silent
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
