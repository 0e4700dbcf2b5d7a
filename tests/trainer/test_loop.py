"""Who makes batches, and whether steps may be a graph, where nobody says so."""

import os

import pytest

from deeprec.trainer import loop
from deeprec.trainer.loop import MOST_MAKERS, Loop


def test_on_cuda_processes_make_batches_unasked_as_cores_and_shared_memory_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "_shared_memory", lambda: loop.SHARED_MEMORY)
    for cores, processes, expected in ((64, 1, MOST_MAKERS), (6, 1, 5), (8, 2, 3), (1, 1, 0)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert Loop(processes=processes).makers("cuda") == expected
        assert Loop(processes=processes).makers("cpu") == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert Loop(prefetch_batches=0).makers("cuda") == 0
    for asked in (0, 3):
        assert Loop(prefetch_processes=asked).makers("cuda") == asked
    monkeypatch.setattr(loop, "_shared_memory", lambda: loop.SHARED_MEMORY - 1)
    assert Loop().makers("cuda") == 0
    assert Loop(prefetch_processes=3).makers("cuda") == 3


def test_shared_memory_is_what_the_system_has_of_it() -> None:
    assert (loop._shared_memory() > 0) == os.path.isdir("/dev/shm")


def test_why_steps_are_no_graph() -> None:
    assert Loop().why_no_graph is None
    assert Loop(cuda_graph=False).why_no_graph == "trainer.cuda_graph=false"
    assert Loop(deterministic=True).why_no_graph == "trainer.deterministic=true"
