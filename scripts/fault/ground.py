"""Where things are broken, and how what came of it is counted."""

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lives
import small_shop
from deeprec import folder
from deeprec.trainer.logger import read_metrics

SAVED = ("trainer.save_every_minutes=0", *lives.SMALL)
TIMED = ("seconds", "users_per_second", "memory_bytes")


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

    def shell(self, run: Path, *words: str) -> list[str]:
        """The same, for a process that is not forked from one that has imported everything."""
        told = [one.replace("PREPARED", str(self.prepared)) for one in self.command(run, *words)]
        return ["-m", "deeprec", "train", *told]

    def same(self, run: Path, whole: Path | None = None) -> bool:
        return content(run) == content(whole or self.whole)

    @contextmanager
    def new(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.root) as place:
            yield Path(place) / "run"


@contextmanager
def opened(tries: int | None, minutes: float, seed: int) -> Iterator[Ground]:
    """A ground that is gone afterwards."""
    with tempfile.TemporaryDirectory() as root:
        prepared = small_shop.make(Path(root) / "prepared")
        with lives.server(prepared) as live:
            yield Ground(Path(root), live, tries, minutes, seed)


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
    """The last step that a process did, or that it went on after."""
    return life.steps[-1] if life.steps else life.began or 0
