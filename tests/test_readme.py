"""Every command of these pages runs, in order, from a checkout; what is not run says why."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:<!-- not run by the tests: (?P<why>.+?) -->\n)?```bash\n(?P<code>.*?)```", re.S
)


PAGES = {  # blocks that are run, at least
    "README.md": 3,
    "docs/architecture.md": 1,
    "docs/search.md": 2,
    "docs/evaluation.md": 2,
    "docs/serving.md": 6,
    "docs/from-dsstne.md": 4,
    "docs/from-other-libraries.md": 2,
}

# for a page that asks another library: what it calls, with popular items for everybody
IMPLICIT = """
import numpy as np

class AlternatingLeastSquares:
    def __init__(self, factors, alpha): ...

    def fit(self, user_items):
        self.popularity = np.asarray(user_items.sum(0)).ravel()

    def recommend(self, userid, user_items, N, filter_already_liked_items, recalculate_user):
        assert user_items.shape == (len(userid), len(self.popularity))
        best = np.argsort(-self.popularity, kind="stable")[:N]
        return np.tile(best, (len(userid), 1)), np.tile(self.popularity[best], (len(userid), 1))
"""


def blocks(page: str) -> list[re.Match[str]]:
    return list(BLOCK.finditer((CHECKOUT / page).read_text()))


@pytest.mark.parametrize(("page", "fewest"), PAGES.items())
def test_what_is_not_run_is_little_and_says_why(page: str, fewest: int) -> None:
    skipped = [block["why"] for block in blocks(page) if block["why"]]
    assert len(blocks(page)) - len(skipped) >= fewest
    assert all(len(why) > 10 for why in skipped)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(page: str, deeprec_command: Path, tmp_path: Path) -> None:
    for name in ("seeds", "configs"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    code = "\n".join(block["code"] for block in blocks(page) if not block["why"])
    code = re.sub(r"\b8080\b", free_port(), code)
    code = (
        f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{code}"  # whatever fails, nothing stays
    )
    write_command(tmp_path / "bin" / "python", "")
    (tmp_path / "implicit").mkdir()
    (tmp_path / "implicit" / "als.py").write_text(IMPLICIT)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(CHECKOUT / "src"),
            "PATH": f"{tmp_path / 'bin'}:{deeprec_command.parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def write_command(path: Path, words: str) -> None:
    """A command of a page, which runs this checkout; a process of its own, that can be ended."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
    path.chmod(0o755)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return str(listening.getsockname()[1])
