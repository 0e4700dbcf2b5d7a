"""No test has a deadline: machines that run them are shared."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

import forked

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


PAGES = "test_readme.py"  # each of its tests walks a page, for a minute and more


class LongestFirst(LoadFileScheduling):
    """A file to one process, the longest first, so that none is left with them at the end."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if PAGES in nodeid else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LongestFirst | None:
    return LongestFirst(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
        items.sort(key=lambda item: (item.path.name != PAGES, item.path not in slow))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def deeprec_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An executable `deeprec` of this checkout that begins at once, in a folder of its own."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent / 'src'}:{tests}"}
    with forked.command(tmp_path_factory.mktemp("bin"), environment) as command:
        yield command
