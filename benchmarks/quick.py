"""Runs scripts with tiny sizes, to see that they run and that the page shows their results.

    python benchmarks/run.py --quick NAME...

Figures of these sizes tell nothing, so nothing is kept. MovieLens 1M is stood in for by generated
events; peers take part where they are given.
"""

import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from draw import draw_all
from generated import judged_folder
from page import Result, page

RAN = dict.fromkeys(("command", "machine", "versions", "date", "others"), "quick")


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        os.environ.setdefault("PREPARED_ML1M", str(stand_in(place)))
        failed = [name for name in names if not runs(name, place)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def stand_in(place: Path) -> Path:
    words = "data.num_users=300", "data.num_items=400", "split=random_fraction"
    return judged_folder(place / "prepared", *words).path


def runs(name: str, place: Path) -> bool:
    before = sum(os.times()[:4])
    try:
        found = json.loads(json.dumps(importlib.import_module(name).measure()))
        result: Result = {"name": name, "ran": RAN, "found": found}
        page([result], place)
        draw_all([result], place)
    except Exception:
        traceback.print_exc()
        return False
    print(f"{name} runs, {sum(os.times()[:4]) - before:.1f} CPU s", flush=True)
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
