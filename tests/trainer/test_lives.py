"""Runs that are killed, stopped and starved end as one that never was, or say why they cannot."""

import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

import breaking
import lives
import small_shop
from deeprec import folder
from deeprec.errors import DeeprecError
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.run import open_run
from lives import SMALL, Life, Live

# every `passing` of a checkpoint on its way to the disk, in order
POINTS = (
    *("draft begun", "weights written", "filled", "file flushed", "file flushed:3"),
    *("file written:2", "file renamed:2", "sealed", "renamed", "committed", "verified"),
    *("retired", "old ones dropped"),
)
CANARY = "canary-5c1d9e"  # a secret of the environment
EVERY_STEP = (*SMALL, "trainer.save_every_minutes=0")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    prepared = small_shop.make(tmp_path_factory.mktemp("data") / "prepared")
    with lives.server(prepared) as one:
        yield one


@pytest.fixture(scope="module")
def whole(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert live(command(run), {"TOKEN": CANARY}).code == 0
    return run


def command(run: Path, *words: str) -> list[str]:
    """The same at first and afterwards, as a scheduler gives it."""
    return ["prepared=PREPARED", f"output_dir={run}", "resume=auto", *EVERY_STEP, *words]


def content(run: Path) -> dict[str, object]:
    """What a run learned: every tensor of its last state, and its metrics but for times."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    tensors = load_file(last / "weights.safetensors") | load_file(last / "optimizer.safetensors")
    rows = read_metrics(run / "metrics.csv")
    timed = ("seconds", "users_per_second", "memory_bytes")
    return {
        "step": last.name,
        "tensors": {name: one.numpy().tobytes() for name, one in tensors.items()},
        "metrics": [{k: v for k, v in row.items() if k not in timed} for row in rows],
    }


def leftovers(run: Path) -> list[Path]:
    return [*run.glob(".*.tmp-*"), *(run / "checkpoints").glob(".*.tmp-*")]


def lost(before: Life, after: Life) -> int:
    """Steps that were done and had to be done again."""
    done = before.steps[-1] if before.steps else before.began or 0
    return done - (after.began or 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("background", "points"), [(False, POINTS), (True, ("weights written", "sealed", "renamed"))]
)
def test_killed_at_every_point_of_a_commit_in_one_chain_a_run_ends_as_if_it_never_was(
    live: Live, whole: Path, tmp_path: Path, background: bool, points: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    words = [f"trainer.save_in_background={str(background).lower()}"]
    chain = [live(command(run, *words), {folder.CRASH: point}) for point in points]
    assert [life.code for life in chain] == [-9] * len(points)
    chain.append(live(command(run, *words)))
    assert chain[-1].code == 0, chain[-1].said
    assert [lost(*pair) for pair in itertools.pairwise(chain) if pair[1].began is not None]
    assert max(lost(*pair) for pair in itertools.pairwise(chain)) <= 1 + background
    assert content(run) == content(whole)
    assert not leftovers(run)
    folder.verify_named(run, "run")


def test_a_run_killed_while_it_is_begun_or_sealed_is_begun_or_sealed_again(
    live: Live, whole: Path, tmp_path: Path
) -> None:
    for point in ("draft begun", "file renamed:3"):
        assert live(command(tmp_path / "run"), {folder.CRASH: point}).code == -9
        assert not (tmp_path / "run").exists()
    words = command(tmp_path / "run", "trainer.save_every_minutes=null")
    for point in ("file written:12", "file written:2"):  # status.json, then the manifest
        assert live(words, {folder.CRASH: point}).code == -9
    assert live(words).code == 0
    assert content(tmp_path / "run") == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("fault", "code", "saved"),
    [
        ("terminated", 143, 7),  # the step at hand is finished and saved
        ("interrupted_twice", 130, 6),  # ends at once; what was saved stays whole
        ("stuck", 143, 6),
        ("terminated_while_saving", 143, 3),
        ("terminated_while_validating", 143, 8),  # the resume validates first
        ("hung_up", 129, 7),
    ],
)
def test_signals_end_a_run_in_good_order(
    live: Live, whole: Path, tmp_path: Path, fault: str, code: int, saved: int
) -> None:
    run = tmp_path / "run"
    assert live(command(run), fault=fault).code == code
    status = json.loads((run / "status.json").read_text())
    assert (status["resumable"], status["next"]) == (True, f"deeprec train resume={run}")
    after = live([f"resume={run}"])
    assert (after.code, after.began) == (0, saved)
    assert " 0 users/s" not in after.said  # of an epoch whose users an earlier life saw
    assert content(run) == content(whole)


@pytest.mark.parametrize(
    ("fault", "code", "saved"), [("terminated_group", 143, 7), ("makers_killed", 5, 6)]
)
def test_a_run_whose_batches_come_from_processes_ends_in_good_order(
    live: Live, whole: Path, tmp_path: Path, fault: str, code: int, saved: int
) -> None:
    run, words = tmp_path / "run", "trainer.prefetch_processes=2"
    ended = live(command(run, words), fault=fault)
    assert ended.code == code, ended.said
    assert ("with fewer trainer.prefetch_processes or 0" in ended.said) is (code == 5)
    after = live([f"resume={run}"])
    assert after.code == 0, after.said
    assert after.began is not None
    # what was made before they died is trained on
    assert saved <= after.began <= saved + 6 * (code == 5)
    assert content(run) == content(whole)


def test_whoever_makes_the_batches_and_whenever_it_is_saved_a_run_is_gone_on_with(
    live: Live, whole: Path, tmp_path: Path
) -> None:
    run, seldom = tmp_path / "run", "trainer.save_every_minutes=null"
    begun = command(run, "trainer.prefetch_processes=2")
    assert live(begun, {folder.CRASH: "verified:3"}).code == -9
    alone = command(run, "trainer.prefetch_batches=0", seldom)
    first = live(alone, {folder.CRASH: "verified:2"})  # of the second epoch
    assert (first.code, first.began) == (-9, 3)
    assert "trainer.prefetch_processes=null, begun with 2" in first.said
    assert "trainer.save_every_minutes=null, begun with 0" in first.said
    second = live([f"resume={run}", "trainer.prefetch_processes=1"], {folder.CRASH: "verified:1"})
    assert (second.code, second.began) == (-9, 8)
    assert (
        "with trainer.prefetch_processes=1, begun with 2, which changes nothing that is learned"
        in second.said
    )
    last = live([f"resume={run}"])
    assert (last.code, last.began) == (0, 9)  # its own setting saves after every step
    assert "begun with" not in last.said
    assert content(run) == content(whole)


def test_a_disk_without_room_stops_a_run_or_costs_it_checkpoints(
    live: Live, whole: Path, tmp_path: Path
) -> None:
    life = live(command(tmp_path / "stop"), fault="full_disk_later")
    assert life.code == 5
    assert "no room on this disk" in life.said
    assert "bytes are needed" in life.said
    assert f"go on with `deeprec train resume={tmp_path / 'stop'}`" in life.said
    assert re.search(r"disk: up to 4 checkpoints of [\d.]+ MB each, and [\d,.]+ MB are", life.said)
    assert live(command(tmp_path / "stop")).began == 9  # the last that had room is whole
    assert content(tmp_path / "stop") == content(whole)
    words = ["trainer.on_disk_full=continue"]
    life = live(command(tmp_path / "on", *words), fault="full_disk_later")
    assert life.code == 5  # the last one must
    assert life.steps[-1] == 16
    assert "not saved" in life.said


def test_a_place_that_cannot_be_written_is_refused_before_a_step(
    live: Live, tmp_path: Path
) -> None:
    life = live(command(Path("/", "nobodys-run")), fault="nobody")
    assert life.code == 5
    assert "cannot be written" in life.said
    assert not life.steps
    life = live(command(tmp_path / "run"), fault="full_disk")
    assert life.code == 5
    assert not any(tmp_path.iterdir())


def test_no_clock_decides_what_a_run_learns_or_where_it_goes_on(
    live: Live, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert live(command(run), {folder.CRASH: "verified:9"}, fault="clock_jumps").code == -9
    assert live(command(run)).began == 9
    assert content(run) == content(whole)


def test_nothing_of_the_environment_is_kept_with_a_run(whole: Path) -> None:
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path.name for path in files if CANARY.encode() in path.read_bytes()] == []


def test_a_flipped_bit_or_a_cut_file_of_a_run_is_never_read(whole: Path) -> None:
    draw = random.Random(5)
    for _ in range(40):
        with breaking.flipped_bit(whole, draw) as what, pytest.raises(DeeprecError) as found:
            open_run(whole)
        assert what.split()[-1] in str(found.value)
    open_run(whole)


def test_the_same_command_goes_on_and_another_one_is_refused(
    live: Live, whole: Path, tmp_path: Path
) -> None:
    again = live(command(whole))
    assert (again.code, again.steps) == (0, [])
    assert "nothing to resume" in again.said
    other = live(command(whole, "optimizer.lr=0.5", "seed=3"))
    assert other.code == 2
    assert "optimizer.lr: asked for 0.5, the run has 0.02" in other.said
    assert "seed: asked for 3, the run has 1" in other.said
    must = [one.replace("auto", "must") for one in command(tmp_path / "nothing")]
    assert live(must).code == 2
    assert live(must, fault=None).said.count("there is no run here") == 1


def test_a_process_that_a_launcher_started_again_goes_on(
    live: Live, whole: Path, tmp_path: Path
) -> None:
    words = [one for one in command(tmp_path / "run") if not one.startswith("resume")]
    first = {"TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": "1"}
    assert live(words, {**first, folder.CRASH: "verified:6"}).code == -9
    assert "holds a run" in live(words, first).said
    again = live(words, {"TORCHELASTIC_RESTART_COUNT": "1", "WORLD_SIZE": "1"})
    assert (again.code, again.began) == (0, 6)
    assert content(tmp_path / "run") == content(whole)
    finished = live(words, {"SLURM_RESTART_COUNT": "2"})
    assert (finished.code, finished.steps) == (0, [])


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_one_of_several_processes_is_refused_and_writes_nothing(
    live: Live, tmp_path: Path, name: str
) -> None:
    life = live(command(tmp_path / "run"), {name: "2"})
    assert life.code == 2
    assert f"{name}=2 says that this is one of several" in life.said
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["unread", "hung_up_under_nohup"])
def test_a_run_does_not_end_where_its_reader_does(
    live: Live, whole: Path, tmp_path: Path, fault: str
) -> None:
    assert live(command(tmp_path / "run"), fault=fault).code == 0
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize(
    ("fault", "told"),
    [("few_files", "Too many open files"), ("starved", "memory does not suffice")],
)
def test_what_the_machine_denies_ends_a_run_with_its_reason(
    live: Live, whole: Path, tmp_path: Path, fault: str, told: str
) -> None:
    life = live(command(tmp_path / "run"), fault=fault)
    assert (life.code, told in life.said) == (5, True), life.said
    after = live(command(tmp_path / "run"))
    assert (after.code, lost(life, after)) == (0, 1 if fault == "few_files" else 0)
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_hangs_is_waited_for_no_longer_than_was_said(
    live: Live, whole: Path, tmp_path: Path, background: bool
) -> None:
    words = [f"trainer.save_in_background={str(background).lower()}"]
    short = "trainer.save_timeout_minutes=0.005"
    life = live(command(tmp_path / "run", *words, short), fault="hanging_disk")
    assert life.code == 5
    assert "too slow or hangs" in life.said
    assert live([f"resume={tmp_path / 'run'}"]).code == 0
    assert content(tmp_path / "run") == content(whole)
    assert not leftovers(tmp_path / "run")


@pytest.mark.parametrize("fault", ["moved", "removed", "replaced"])
def test_a_run_that_is_moved_away_ends_and_leaves_nothing_in_its_old_place(
    live: Live, whole: Path, tmp_path: Path, fault: str
) -> None:
    life = live(command(tmp_path / "run"), fault=fault)
    assert life.code == 5
    assert "it was moved or removed while it trained" in life.said
    assert life.steps[-1] <= 10  # an error within one save
    left = {"moved": ["elsewhere"], "removed": [], "replaced": ["elsewhere", "run"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == left[fault]
    if fault == "replaced":
        assert not any((tmp_path / "run").iterdir())
    if fault != "removed":
        line = f"deeprec train resume={tmp_path / 'elsewhere'}"
        assert f"Go on with `{line}`" in life.said
        status = json.loads((tmp_path / "elsewhere" / "status.json").read_text())
        assert (status["state"], status["next"]) == ("failed", line)
        assert live([f"resume={tmp_path / 'elsewhere'}"]).code == 0
        assert content(tmp_path / "elsewhere") == content(whole)


def test_of_many_processes_on_one_run_one_trains_it_and_each_other_is_told(
    live: Live, whole: Path, tmp_path: Path
) -> None:
    begun = live.together(command(tmp_path / "run"), 4)
    assert sum(bool(life.steps) for life in begun) == 1
    assert {life.code for life in begun} == {0, 2}
    refused = [life.said for life in begun if life.code == 2]
    assert all(re.search("written by process|taken by another", said) for said in refused)
    assert content(tmp_path / "run") == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_many_processes_that_resume_one_run_do_not_meet(
    live: Live, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert live(command(run), {folder.CRASH: "verified:9"}).code == -9
    resumed = live.together([f"resume={run}"], 4)
    assert sum(bool(life.steps) for life in resumed) == 1
    assert all("written by process" in life.said for life in resumed if life.code == 2)
    assert {life.code for life in resumed} <= {0, 2}
    assert content(run) == content(whole)
