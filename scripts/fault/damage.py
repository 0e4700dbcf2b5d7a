"""Bits that flip, files that are cut, text that is garbled, words that are mistyped."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import breaking
import small_shop
from deeprec import bundle, config, export, folder
from deeprec.data.store import Prepared
from deeprec.errors import DeeprecError
from deeprec.prepare import prepare
from deeprec.trainer import checkpoint
from deeprec.trainer.logger import MetricsFile
from deeprec.trainer.run import RunFolder, open_run
from deeprec.verb import ExportConfig
from fault.ground import Count, Ground

MANY = 5000
SECONDS = 5.0


def checkpoint_bits(ground: Ground) -> Count:
    """One flipped bit in a finished run or one of its checkpoints, and it is opened."""
    return _flipped(ground, ground.whole, lambda: open_run(ground.whole))


def prepared_bits(ground: Ground) -> Count:
    """One flipped bit in a prepared folder, and it is opened."""
    return _flipped(ground, ground.prepared, lambda: Prepared(ground.prepared))


def bundle_bits(ground: Ground) -> Count:
    """One flipped bit in a bundle, and it is verified."""
    place = ground.root / "bundle"
    export.export(ExportConfig(run=str(ground.whole), output_dir=str(place)))
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


def garbled(ground: Ground) -> Count:
    """JSON, YAML and CSV of an unfinished run garbled: refused in words, or read as it is."""
    count = Count()
    with ground.new() as run:
        shutil.copytree(ground.whole, run)
        (run / folder.MANIFEST).unlink()
        texts = [*run.glob("*.*"), *run.glob("checkpoints/*/*.json")]
        for _ in ground.times(3000):
            path = ground.draw.choice(texts)
            sound = path.read_bytes()
            path.write_bytes(breaking.garbled(sound, ground.draw))
            _read(count, lambda: _taken_up(run), f"{path.name}: {path.read_bytes()!r}")
            path.write_bytes(sound)
    return count


def _taken_up(run: Path) -> None:
    """What a resume reads before it trains."""
    opened = RunFolder(run)
    _ = opened.config, opened.origin, opened.status, opened.held()
    checkpoint.newest_valid(opened.checkpoints)
    copy = run / "copy.csv"
    copy.write_bytes((run / "metrics.csv").read_bytes())
    MetricsFile(copy, 16)
    copy.unlink()
    open_run(run)


def events(ground: Ground) -> Count:
    """Files of events garbled, Parquet and CSV: refused in words, or prepared as they are."""
    import pyarrow.csv
    import pyarrow.parquet

    count = Count()
    text = ground.root / "events.csv"
    table = pyarrow.csv.read_csv(small_shop.events_csv(text))
    plain, checked = ground.root / "events.parquet", ground.root / "checked.parquet"
    pyarrow.parquet.write_table(table, plain)
    pyarrow.parquet.write_table(table, checked, write_page_checksum=True)
    for _ in ground.times(600):
        path = ground.draw.choice((text, plain, checked))
        sound = path.read_bytes()
        path.write_bytes(breaking.garbled(sound, ground.draw))
        words = [f"data.{name}={name}" for name in ("user", "item", "time")]
        places = [f"data.events={path}", f"output_dir={ground.root / 'events'}"]
        asked = config.compose("prepare", ["data=table", *places, *words])
        _read(count, lambda: prepare(asked), path.name)  # type: ignore[arg-type]  # noqa: B023
        path.write_bytes(sound)
    return count


def _read(count: Count, read: Callable[[], object], why: str) -> None:
    try:
        read()
    except DeeprecError:
        count.take()
    except Exception as error:
        count.take(lost=True, why=f"{type(error).__name__}: {error}; {why}")
    else:
        count.take()


def many(ground: Ground) -> Count:
    """Five thousand checkpoints in one run: the newest and the best are found in five seconds."""
    count = Count()
    with ground.new() as run:
        shutil.copytree(ground.whole, run)
        checkpoints = run / "checkpoints"
        last = sorted(checkpoints.glob("step-*"))[-1]
        for number in range(100, MANY + 100):
            copy = checkpoints / f"step-{number:08d}"
            copy.mkdir()
            for path in last.iterdir():
                (copy / path.name).hardlink_to(path)
        started = time.process_time()
        found, rejected = checkpoint.newest_valid(checkpoints)
        checkpoint.best(checkpoints)
        seconds = time.process_time() - started
        right = found is not None and found.path == last and len(rejected) == MANY
        why = f"{seconds:.1f} CPU seconds, {len(rejected)} rejected"
        print(f"  {why}", flush=True)
        count.take(lost=not right or seconds > SECONDS, why=why)
    return count
