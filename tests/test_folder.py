"""A folder is whole, or absent, or refused: there is nothing in between."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import traced
from deeprec import folder
from deeprec.errors import ConfigError, IntegrityError, ResourceError


def make(path: Path, text: str = "bread") -> Path:
    with folder.writing(path, "prepared", {"seed": 3}) as draft:
        (draft / "a.txt").write_text(text)
        (draft / "deep").mkdir()
        (draft / "deep" / "b.txt").write_text("milk")
    return path


def leftovers(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_a_finished_folder_verifies_and_keeps_what_was_said_of_it(tmp_path: Path) -> None:
    manifest = folder.verify(make(tmp_path / "out"), "prepared")
    assert manifest["seed"] == 3
    assert sorted(manifest["files"]) == ["a.txt", "deep/b.txt"]
    assert leftovers(tmp_path) == ["out"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), folder.writing(tmp_path / "out", "prepared", {}) as draft:
        (draft / "a.txt").write_text("half")
        raise RuntimeError
    assert leftovers(tmp_path) == []


def test_a_failure_keeps_the_folder_that_was_there(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), folder.writing(tmp_path / "out", "prepared", {}) as draft:
        (draft / "a.txt").write_text("new")
        raise RuntimeError
    folder.verify(tmp_path / "out", "prepared")
    assert (tmp_path / "out" / "a.txt").read_text() == "old"


def test_a_folder_of_the_same_kind_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    make(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    assert leftovers(tmp_path) == ["out"]
    with (
        pytest.raises(ConfigError, match="holds a prepared folder"),
        folder.writing(tmp_path / "out", "bundle", {}),
    ):
        pass
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter").write_text("ten years")
    with pytest.raises(ConfigError, match="did not finish"), folder.writing(precious, "bundle", {}):
        pass
    assert (precious / "chapter").read_text() == "ten years"


def test_nothing_is_put_into_a_finished_folder(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    for inside in (out / "run", out / "deep" / "run"):
        with pytest.raises(ConfigError, match=r"would lie inside .*out, a finished prepared"):
            folder.refuse_inside(inside)
    folder.refuse_inside(out)
    folder.refuse_inside(tmp_path / "beside")
    for foreign in ("{", "[]", '{"kind": "app"}'):  # of other programs
        (tmp_path / "manifest.json").write_text(foreign)
        folder.refuse_inside(tmp_path / "beside")


def test_a_damaged_folder_of_the_same_kind_may_be_made_again(tmp_path: Path) -> None:
    manifest = make(tmp_path / "out", "old") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 3', '"seed": 4'))
    make(tmp_path / "out", "new")
    folder.verify(tmp_path / "out", "prepared")


def test_every_flipped_bit_of_a_file_is_found_and_named(tmp_path: Path) -> None:
    path = make(tmp_path / "out") / "deep" / "b.txt"
    sound = path.read_bytes()
    draw = random.Random(0)
    for _ in range(50):
        damaged = bytearray(sound)
        damaged[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"b\.txt"):
            folder.verify(tmp_path / "out", "prepared")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda out: (out / "a.txt").unlink(), "a.txt"),
        (lambda out: (out / "a.txt").write_text("longer than it was"), "a.txt"),
        (lambda out: (out / "manifest.json").unlink(), "manifest.json"),
        (lambda out: (out / "manifest.json").write_text("{"), "manifest.json"),
        (lambda out: (out / "manifest.json").write_text("[]"), "manifest.json"),
        (lambda out: (out / "manifest.json").write_text("[" * 9999), "manifest.json"),
        (lambda out: (out / "extra").write_text("x"), "extra"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, named: str) -> None:
    out = make(tmp_path / "out")
    damage(out)  # type: ignore[operator]
    with pytest.raises(IntegrityError, match=named):
        folder.verify(out, "prepared")


@pytest.mark.parametrize("edit", [("3", "4"), (" ", "\n"), ("kind", "kinb"), ("seal", "saal")])
def test_an_edited_manifest_is_refused(tmp_path: Path, edit: tuple[str, str]) -> None:
    path = make(tmp_path / "out") / "manifest.json"
    path.write_text(path.read_text().replace(*edit, 1))
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        folder.read_manifest(tmp_path / "out", "prepared")


def test_another_format_and_another_kind_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make(tmp_path / "out")
    with pytest.raises(ConfigError, match="expected a bundle folder"):
        folder.read_manifest(out, "bundle")
    with monkeypatch.context() as later:
        later.setattr(folder, "FORMAT", 99)
        make(out)
    with pytest.raises(IntegrityError, match="format 99"):
        folder.read_manifest(out, "prepared")
    with pytest.raises(ConfigError, match="no such folder"):
        folder.read_manifest(tmp_path / "nowhere", "prepared")


def test_identity_follows_content_alone(tmp_path: Path) -> None:
    first = folder.verify(make(tmp_path / "one"), "prepared")
    second = folder.verify(make(tmp_path / "two"), "prepared")
    other = folder.verify(make(tmp_path / "three", "cake"), "prepared")
    assert folder.identity(first) == folder.identity(second) != folder.identity(other)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    with folder.writing_file(path) as draft:
        draft.write_text("whole")
    with pytest.raises(RuntimeError), folder.writing_file(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert leftovers(path.parent) == ["report.json"]


def test_what_a_killed_writer_of_a_file_left_goes_with_the_next_and_no_living_draft_does(
    tmp_path: Path,
) -> None:
    with folder.writing_file(tmp_path / "report.json") as living:
        dead = tmp_path / ".report.json.tmp-1-dead"
        shutil.copytree(living.parent, dead)
        with folder.writing_file(tmp_path / "report.json") as other:
            other.write_text("other")
        assert leftovers(tmp_path) == [living.parent.name, "report.json"]
        living.write_text("living")
    assert leftovers(tmp_path) == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "living"


@pytest.mark.parametrize("place", ["a.txt/report.json", "a.txt/deep/report.json", "x" * 300])
def test_a_file_that_cannot_be_made_is_told_of_by_its_place(tmp_path: Path, place: str) -> None:
    (tmp_path / "a.txt").write_text("in the way")
    told = pytest.raises(ResourceError, match="cannot be written")
    with told, folder.writing_file(tmp_path / place):
        raise AssertionError("nothing was to be written")
    told = pytest.raises(ResourceError, match="cannot be written")
    with told, folder.writing(tmp_path / "a.txt" / "deep" / "out", "prepared", {}):
        raise AssertionError("nothing was to be written")
    assert leftovers(tmp_path) == ["a.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_a_place_where_no_one_may_write_is_told_of() -> None:
    for path in (Path("/proc/nobody/report.json"), Path("/proc/report.json")):
        told = pytest.raises(ResourceError, match=f"{path} cannot be written")
        with told, folder.writing_file(path):
            raise AssertionError("nothing was to be written")


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="out is a folder"), folder.writing_file(tmp_path / "out"):
        raise AssertionError("nothing was to be written")
    assert leftovers(tmp_path) == ["out"]


WRITER = """
import sys
from pathlib import Path
import traced
from deeprec import folder
with folder.writing(Path(sys.argv[1]), "prepared", {"seed": 3}) as draft:
    (draft / "a.txt").write_text("new")
"""
POINTS = ("draft begun", "filled", "file flushed", "file renamed", "sealed", "renamed", "committed")


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_a_writer_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, point: str
) -> None:
    make(tmp_path / "out", "old")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), folder.CRASH: point}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out")]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    folder.verify(tmp_path / "out", "prepared")
    new = POINTS.index(point) >= POINTS.index("renamed")
    assert (tmp_path / "out" / "a.txt").read_text() == ("new" if new else "old")
    assert len(leftovers(tmp_path)) == 2  # one draft, or the old one under the draft's name
    make(tmp_path / "out", "newer")
    assert leftovers(tmp_path) == ["out"]


@pytest.mark.skipif(not traced.works(), reason="needs strace")
def test_what_is_named_was_flushed_before_and_its_name_afterwards(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):  # the second time in place of another
        assert traced.disorder(command, tmp_path, tmp_path / "trace", env=environment) == []
    careless = WRITER + "Path(sys.argv[1], 'late').write_text('x')\n"
    careless += "Path(sys.argv[1]).rename(sys.argv[1] + '-again')\n"
    command = [sys.executable, "-c", careless, str(tmp_path / "out")]
    found = traced.disorder(command, tmp_path, tmp_path / "trace", env=environment)
    assert len(found) == 2
    assert "out-again was named before" in found[0]
    assert "was not flushed after" in found[1]


def test_a_draft_that_is_being_written_is_let_be(tmp_path: Path) -> None:
    with folder.writing(tmp_path / "out", "prepared", {}) as draft:
        (draft / "a.txt").write_text("first")
        make(tmp_path / "out", "second")
        assert draft.is_dir()
    assert (tmp_path / "out" / "a.txt").read_text() == "first"


def test_where_two_folders_cannot_change_names_at_once_they_do_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", "old")
    monkeypatch.setattr(folder, "_exchange", lambda draft, place: False)
    make(tmp_path / "out", "new")
    folder.verify(tmp_path / "out", "prepared")
    assert leftovers(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "deep/../../secret"])
def test_a_manifest_names_no_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    out = make(tmp_path / "out")
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": folder.sha256(tmp_path / "secret")}
    manifest["seal"] = ""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    manifest["seal"] = hashlib.sha256(text.encode()).hexdigest()
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (out / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match="lies outside"):
        folder.verify(out, "prepared")


def test_a_disk_without_room_is_said_and_the_folder_that_was_there_is_kept(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2, 2))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", full + WRITER, str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "ResourceError" in done.stderr
    assert "no room on this disk" in done.stderr
    folder.verify(tmp_path / "out", "prepared")
    assert leftovers(tmp_path) == ["out"]
