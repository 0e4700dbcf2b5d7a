"""Breaks runs, folders and configs at random, and counts what was lost or went unnoticed.

    ./scripts/faults [FAULT ...] [--tries N] [--minutes M] [--seed N] [--table FILE]

Prints a line of docs/reliability.md for each fault, as it comes. *lost*: a state that could not be
gone on with, or more done again than the interval between two saves. *silent*: a run that ended
otherwise than one never disturbed, or damage that was read. Exits with 1 if there is any.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from fault import asking, damage, large, machine, process, verbs
from fault.ground import Count, Ground, opened

FAULTS: dict[str, Callable[[Ground], Count]] = {
    one.__name__: one
    for one in (
        *(process.kill, process.points, process.chains, process.terminate, process.threads),
        *(
            process.ranks,
            process.together,
            process.crowd,
            process.moved,
            process.readers,
            verbs.verbs,
        ),
        *(damage.checkpoint_bits, damage.prepared_bits, damage.bundle_bits, damage.truncated),
        *(damage.garbled, damage.events, damage.configs, damage.many, asking.requests),
        *(machine.tracker, machine.order, machine.small_disks, machine.long_line, machine.wheels),
        large.large_catalog,
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["faults:", *(f"  {name:16}{_told(name)}" for name in FAULTS)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("faults", nargs="*", help=f"default: all of {', '.join(FAULTS)}")
    parser.add_argument("--tries", type=int)
    parser.add_argument("--minutes", type=float, default=60.0, help="of tries of a fault, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", type=Path, help="to which lines are added as well")
    asked = parser.parse_args()
    print("| fault | tries | lost | silent |\n|---|---|---|---|")
    bad = 0
    with opened(asked.tries, asked.minutes, asked.seed) as ground:
        for name in asked.faults or FAULTS:
            count = FAULTS[name](ground)
            _tell(name, count, asked.table)
            bad += count.lost + count.silent
    return int(bad > 0)


def _told(name: str) -> str:
    return " ".join((FAULTS[name].__doc__ or "").partition("\n\n")[0].split()).rstrip(".")


def _tell(name: str, count: Count, table: Path | None) -> None:
    line = f"| `{name}`: {_told(name)} | {count.tries:,} | {count.lost} | {count.silent} |"
    print(line, flush=True)
    if table is not None:
        with table.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
