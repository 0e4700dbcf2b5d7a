"""Disks, trackers and package indexes that do not do what they should."""

import http.server
import os
import re
import resource
import socketserver
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lives
import traced
from fault import CHECKOUT
from fault.ground import Count, Ground

LINE_BYTES = 5_000_000_000
LINE_MEMORY_BYTES = 4_000_000_000
WHEEL = "rich"  # pure Python, in the hashed lock of CUDA


def tracker(ground: Ground) -> Count:
    """Wandb unreachable, hanging, answering 401, killed: the run neither waits nor differs."""
    count = Count()
    with _answering(401) as denying, _silent() as hanging:
        places = {"unreachable": "http://127.0.0.1:9", "401": denying, "hanging": hanging}
        for _ in ground.times(5):
            for name, place in {**places, "killed": denying}.items():
                with ground.new() as run:
                    _tracked(ground, count, run, name, place)
    return count


def _tracked(ground: Ground, count: Count, run: Path, name: str, place: str) -> None:
    told = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": place}
    started = time.monotonic()
    fault = "tracker_killed" if name == "killed" else None
    life = ground.live([*ground.command(run), "logger.wandb=auto"], told, fault=fault)
    seconds = time.monotonic() - started
    late = seconds > ground.seconds + 5 + 2  # at its end it waits for two
    silent = life.code != 0 or not ground.same(run)
    count.take(lost=late, silent=silent, why=f"{name}: {seconds:.1f} s: {life.said}")


@contextmanager
def _answering(status: int) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_POST = do_GET  # noqa: N815  # http.server's word

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with _served(Handler) as place:
        yield place


@contextmanager
def _silent() -> Iterator[str]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            time.sleep(60)

    with _served(Handler) as place:
        yield place


@contextmanager
def _served(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def order(ground: Ground) -> Count:
    """A run under strace: every name is given to flushed bytes, and is flushed itself."""
    count = Count()
    if not traced.works():
        print("  no strace here", file=sys.stderr)
        return count
    for background in ("false", "true"):
        with ground.new() as run:
            words = ground.shell(run, f"trainer.save_in_background={background}")
            found = traced.disorder(
                [sys.executable, *words], run.parent, ground.root / "trace", env=environment()
            )
            count.take(silent=bool(found), why="\n  ".join(found))
    return count


def small_disks(ground: Ground) -> Count:
    """Disks (tmpfs) with room for a part of a run, or for some files of it; then they grow."""
    count = Count()
    size = sum(path.stat().st_size for path in ground.whole.rglob("*"))
    limits = [f"size={size * part // 12}" for part in range(1, 13)]
    limits += [f"nr_inodes={number}" for number in range(4, 40, 3)]
    for limit, _ in zip(limits, ground.times(len(limits)), strict=False):
        place = ground.root / "disk"
        place.mkdir(exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "none", place]).returncode:
            print("  only root may mount", file=sys.stderr)
            return count
        try:
            first = ground.live(ground.command(place / "run"))
            larger = "remount,size=64m,nr_inodes=10000"
            subprocess.run(["mount", "-o", larger, place], check=True)
            second = ground.live(ground.command(place / "run"))
            told = first.code == 0 or re.search("no room on this disk", first.said)
            lost = first.code not in (0, 5) or second.code != 0 or not told
            silent = not lost and not ground.same(place / "run")
            count.take(lost=lost, silent=silent, why=f"{limit}: {first.said} {second.said}")
        finally:
            subprocess.run(["umount", place], check=True)
    return count


def long_line(ground: Ground) -> Count:
    """A CSV of one line of 5 GB: refused with its line, in bounded memory."""
    count = Count()
    path = ground.root / "long.csv"
    with path.open("wb") as file:
        file.write(b"user,item,time\n")
        piece = b"x" * 1_000_000
        for _ in range(LINE_BYTES // len(piece)):
            file.write(piece)
    words = [f"data.{name}={name}" for name in ("user", "item", "time")]
    places = [f"data.events={path}", f"output_dir={ground.root / 'long'}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        [sys.executable, "-m", "deeprec", "prepare", "data=table", *places, *words],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    most = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024
    path.unlink()
    why = f"exit code {done.returncode}, {most / 1e9:.1f} GB: {done.stderr}"
    count.take(lost=done.returncode != 3 or most > LINE_MEMORY_BYTES, why=why)
    return count


def wheels(ground: Ground) -> Count:
    """A wheel of the lock file replaced by another of its name: pip refuses it."""
    count = Count()
    lock = (CHECKOUT / "requirements/cuda.lock").read_text()
    block = re.search(rf"^{WHEEL}==(\S+) .*?(?=^\S)", lock, re.MULTILINE | re.DOTALL)
    assert block is not None
    wanted = ground.root / "one.lock"
    wanted.write_text(block[0])
    name = f"{WHEEL}-{block[1]}"
    with zipfile.ZipFile(ground.root / f"{name}-py3-none-any.whl", "w") as wheel:
        about = f"{name}.dist-info"
        wheel.writestr(f"{WHEEL}/__init__.py", "raise SystemExit('not what was locked')")
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {WHEEL}\nVersion: {block[1]}"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        wheel.writestr(f"{about}/RECORD", "")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(ground.root)]
    target = ["--no-deps", "--target", str(ground.root / "installed"), "--require-hashes"]
    done = subprocess.run([*pip, *target, "-r", str(wanted)], capture_output=True, text=True)
    refused = done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr
    count.take(silent=not refused, why=done.stdout + done.stderr)
    return count


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **lives.SERVED}
