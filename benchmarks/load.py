"""Claim: under any load the server answers, or refuses with 429 or 503; its memory does not grow.

`deeprec serve` runs in a process of its own. Connections over loopback each ask again as soon as
they have an answer. The bundle holds an autoencoder with random weights, because the cost of a
request does not depend on what was learned. Clients share the machine with the server.
"""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from generated import prepared_folder
from page import Measured, show
from sized import sized

from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.export import write
from deeprec.golden import Trained
from deeprec.model.autoencoder import Autoencoder

ITEMS, WIDTH, EVENTS, K = sized((30_000, 128, 40, 20), quick=(300, 8, 10, 20))
WAITING = 64  # users that may wait, so that the most connections are more than that
CONNECTIONS = sized((1, 8, 32, 128, 512), quick=(1, 2, 4, 8, 80))
WARM_SECONDS, SECONDS = sized((2.0, 8.0), quick=(0.2, 0.2))  # before all, and of each row
REQUESTS = sized(100_000, quick=200)  # over which memory is to stay as it is
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def measure() -> Measured:
    console.quiet = True
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        path = prepared_folder(
            place / "prepared", num_users=200, num_items=ITEMS, events_per_user=EVENTS
        )
        model = Autoencoder(ITEMS, hidden_dims=[WIDTH], repeats=True).eval().requires_grad_(False)
        trained = Trained(model, {}, Prepared(path), {})
        write(place / "shop" / "1", trained, golden_users=5, compare_users=10)
        return asyncio.run(against(place / "shop"))


async def against(bundle: Path) -> Measured:
    """Starts a server, loads it, and ends it."""
    words = (f"bundle={bundle}", "port=0", f"max_waiting={WAITING}", f"max_users={WAITING}")
    server = subprocess.Popen(
        [sys.executable, "-m", "deeprec", "serve", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
        assert found is not None
        port = int(found[1])
        await asked(port, 8, seconds=WARM_SECONDS)  # what is allocated once is there
        rows, statuses = [], Counter[int]()
        for connections in CONNECTIONS:
            row, some = await measured(server.pid, port, connections)
            rows.append(row)
            statuses += some
        before = resident(server.pid)
        _, some = await asked(port, 32, requests=REQUESTS)
        after = resident(server.pid)
        statuses += some
    finally:
        server.terminate()
        server.wait()
    return told(rows, statuses, before, after)


async def measured(pid: int, port: int, connections: int) -> tuple[dict[str, Any], Counter[int]]:
    used, started = cpu_seconds(pid), time.perf_counter()
    taken, statuses = await asked(port, connections, seconds=SECONDS)
    wall, used = time.perf_counter() - started, cpu_seconds(pid) - used
    taken.sort()
    answered, number = statuses[200], sum(statuses.values())
    row = {
        "connections": connections,
        "answers a second": round(answered / wall),
        "ms p50": round(1000 * taken[len(taken) // 2], 1),
        "ms p99": round(1000 * taken[len(taken) * 99 // 100], 1),
        "% told to come later": round(100 * (statuses[429] + statuses[503]) / number, 1),
        "server CPU ms an answer": round(1000 * used / max(answered, 1), 2),
        "server MB resident": round(resident(pid) / 1e6),
    }
    return row, statuses


async def asked(
    port: int, connections: int, *, seconds: float = 1e9, requests: int = 10**9
) -> tuple[list[float], Counter[int]]:
    """Seconds of each answer with status 200, and how often each status came."""
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        draw = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end and sum(statuses.values()) < requests:
            started = time.perf_counter()
            writer.write(request(draw))
            status = await status_of(reader)
            statuses[status] += 1
            if status == 200:
                taken.append(time.perf_counter() - started)
            else:
                await asyncio.sleep(0.05)  # of the second that Retry-After asks for
        writer.close()

    await asyncio.gather(*(client(number) for number in range(connections)))
    return taken, statuses


def request(draw: random.Random) -> bytes:
    items = [str(draw.randrange(ITEMS)) for _ in range(draw.randrange(1, 2 * EVENTS))]
    body = json.dumps({"items": items, "k": K}).encode()
    head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def status_of(reader: asyncio.StreamReader) -> int:
    """Reads one answer; 0 where the connection ended instead."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
    except (asyncio.IncompleteReadError, OSError):
        return 0
    return int(head.split()[1])


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def cpu_seconds(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def told(rows: list[dict[str, Any]], statuses: Counter[int], before: int, after: int) -> Measured:
    others = sum(number for status, number in statuses.items() if status not in (200, 429, 503))
    return {
        "claim": "Under any load the server answers, or refuses with 429 or 503, and its memory "
        "does not grow.",
        "conditions": {
            "items": f"{ITEMS:,}",
            "width": WIDTH,
            "events of a history, mean": EVENTS,
            "k": K,
            "users that may wait": WAITING,
            "seconds of a row": SECONDS,
            "requests over which memory is compared": f"{REQUESTS:,}",
        },
        "rows": rows,
        "goals": [
            {
                "what": f"answers of {sum(statuses.values()):,} that are neither 200, 429 nor 503",
                "goal": 0,
                "reached": others,
                "better": "lower",
                "unit": "answers",
            },
            {
                "what": f"resident memory after {REQUESTS:,} requests, by that before",
                "goal": 1.05,
                "reached": after / before,
                "better": "lower",
                "unit": "times",
            },
        ],
        "plots": [
            {
                "kind": "line",
                "x": "connections",
                "y": ["ms p50", "ms p99"],
                "log": True,
                "title": "Until an answer, ms",
            }
        ],
    }


if __name__ == "__main__":
    show(measure())
