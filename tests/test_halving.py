"""Where memory does not suffice for a batch of users, half of them are asked, and lists stay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deeprec.errors import ResourceError
from deeprec.halving import Halving, Lists, denies_memory

# a process whose address space may not grow once everything is open
STARVED = """
import json, resource, sys
from pathlib import Path
import pyarrow.parquet as pq
from deeprec import evaluate, recommend
from deeprec.config import compose
from standin import bundle_folder

place = Path(sys.argv[1])
bundle = bundle_folder(place / "bundle", num_users=3000, num_items=17_000)
prepared = place / "bundle-prepared"


def starved(asked, megabytes):
    def limited(*arguments):
        told = Path("/proc/self/status").read_text().partition("VmSize:")[2].split()[0]
        most = int(told) * 1024 + megabytes * 10**6
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        return asked(*arguments)
    return limited


def judged(name, users):
    words = [f"bundle={bundle}", f"prepared={prepared}", f"output_dir={place / name}"]
    words += ["baselines=[popularity]", "examples=0", "slices=[]", "cutoffs=[10]"]
    words += ["bootstrap_samples=2"]
    report = evaluate.evaluate(compose("evaluate", [*words, f"batch_users={users}"]))
    return report["controls"], [one["metrics"] for one in report["systems"]]


def listed(name, users):
    words = [f"bundle={bundle}", f"histories={prepared}", f"output={place / name}"]
    lists = recommend.recommend(compose("recommend", [*words, "k=500", f"batch_users={users}"]))
    return pq.read_table(lists).to_pydict()


metrics, lists = judged("whole", 400), listed("whole.parquet", 400)
evaluate.judge = starved(evaluate.judge, 90)
same = judged("starved", 3000) == metrics
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
recommend.answers = starved(recommend.answers, 60)
again = listed("starved.parquet", 3000)
same_lists = [again[name] == lists[name] for name in ("user_id", "item_ids", "scores")]
print(json.dumps([same, same_lists]))
"""


def test_a_starved_process_gives_the_same_figures_and_lists_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARVED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, [True, True, True]]
    ranked, recommended = done.stdout.split("note from a prepared folder")[1:]  # reference, starved
    assert "memory does not suffice" in " ".join(ranked.split())
    assert "memory does not suffice" in " ".join(recommended.split())


def wants(most: int) -> tuple[list[int], Halving]:
    """What a fresh one asks of 100 users where memory has room for so many."""
    asked: list[int] = []
    halving = Halving()

    def lists(start: int, stop: int) -> Lists:
        asked.append(stop - start)
        if stop - start > most:
            torch.empty(2**60)
        rows = torch.arange(start, stop).unsqueeze(1)
        return rows, rows.float()

    for _ in range(2):
        items, scores = halving(lists, 100)
        assert items.flatten().tolist() == scores.flatten().tolist() == list(range(100))
    return asked, halving


def test_what_fits_is_found_once_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert wants(100)[0] == [100, 100]
    assert capsys.readouterr().out == ""
    asked, halving = wants(40)
    assert asked == [100, 50, 25, 25, 25, 25, 25, 25, 25, 25]
    assert halving.most == 25
    assert capsys.readouterr().out.count("note") == 1


def test_one_user_too_many_is_an_error_of_ours_and_other_errors_are_theirs() -> None:
    with pytest.raises(ResourceError, match=r"for one user .*can't allocate memory"):
        wants(0)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Halving()(lambda *_: (torch.zeros(2, 3) @ torch.zeros(2, 3),) * 2, 5)


def test_what_a_scripted_model_says_of_memory_is_understood() -> None:
    def greedy(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros([1152921504606846976]) + x

    with pytest.raises(RuntimeError) as error:
        torch.jit.script(greedy)(torch.zeros(1))
    assert denies_memory(error.value)
    assert not denies_memory(RuntimeError("a score is NaN"))
    assert not denies_memory(KeyError("out of memory"))
