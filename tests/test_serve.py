"""A bundle answers where torch and pyarrow are all there is, and a damaged one never does."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import deeprec
from deeprec import bundle, folder, serve
from deeprec.batch import Jagged
from deeprec.data.translation import ask
from deeprec.errors import DeeprecError, NonFiniteError
from deeprec.serve import Bundle, BundleError, RequestError, same_answer
from standin import bundle_folder

BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ModuleNotFoundError(f"{name} is not there", name=name)
sys.meta_path.insert(0, Absent())
"""
ABSENT = "deeprec torchrec fbgemm_gpu lightning hydra omegaconf numpy scipy pandas ibis duckdb rich"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_folder(tmp_path_factory.mktemp("serve") / "bundle")


@pytest.fixture(scope="module")
def opened(sound: Path) -> Bundle:
    return deeprec.load(sound)


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def run_bare(code: str, place: Path) -> str:
    """Runs code where nothing but torch, pyarrow and Python itself can be imported."""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", BARE % (set(ABSENT.split()),) + code],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_values_of_attributes_are_text_alone_or_in_whatever_holds_them() -> None:
    known = {"tea": 0, "chess": 1}
    for several in (
        ["chess", "tea"],
        ("tea", "chess"),
        {"tea", "chess"},
        np.array(["chess", "tea"]),
    ):
        assert serve.indices_of_values(known, several) == [0, 1]
    assert serve.indices_of_values(known, "chess") == [1]
    for wrong in (35, [19, 78], [["tea"]]):
        with pytest.raises(serve.RequestError, match="is text, as in vocabularies"):
            serve.indices_of_values(known, wrong)


def test_a_copy_of_serve_answers_with_torch_and_pyarrow_alone(
    sound: Path, tmp_path: Path, opened: Bundle
) -> None:
    shutil.copy(serve.__file__, tmp_path / "copied.py")
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
import copied, json
opened = copied.load({str(sound)!r})
answer = opened.recommend([["003", "007"]], k=4)[0]
print(json.dumps([answer.item_ids, answer.scores, list(opened.golden())]))
"""
    item_ids, scores, differences = json.loads(run_bare(code, tmp_path))
    expected = opened.recommend([["003", "007"]], k=4)[0]
    assert (item_ids, scores) == (expected.item_ids, expected.scores)
    assert differences == []


def test_the_example_of_the_readme_runs_with_torch_and_pyarrow_alone(
    sound: Path, opened: Bundle
) -> None:
    example = (sound / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    item_ids = [line.split()[0] for line in run_bare(example, sound).splitlines()]
    now = datetime(2026, 1, 2, tzinfo=UTC)
    history = [("000", datetime(2026, 1, 1, tzinfo=UTC)), ("001", datetime(2026, 1, 1))]
    answer = opened.recommend([history], k=10, now=now)[0]  # as the policy says
    assert item_ids == answer.item_ids


def test_importing_the_client_inside_a_bundle_is_no_damage(copied: Path) -> None:
    run_bare("sys.path.insert(0, '.')\nimport serve\nserve.load('.')", copied)
    (copied / "__pycache__").mkdir(exist_ok=True)
    (copied / "__pycache__" / "serve.cpython-311.pyc").write_bytes(b"left by Python")
    serve.load(copied)
    bundle.verify(copied)


def test_every_changed_byte_is_found_before_anything_is_loaded(copied: Path) -> None:
    draw = random.Random(0)
    files = sorted(path for path in copied.rglob("*") if path.is_file())
    for turn in range(1000):
        path = files[turn % len(files)]
        content = path.read_bytes()
        place, change = draw.randrange(len(content)), draw.randrange(1, 256)
        damaged = bytearray(content)
        damaged[place] ^= change
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=path.name):
            serve.check_files(copied, serve.read_manifest(copied), hashes=True)
        if turn % 10 == 0:
            with pytest.raises(DeeprecError, match=path.name):
                bundle.verify(copied)
        path.write_bytes(content)
    serve.load(copied)


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edits the manifest as one would who knows of the seal."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    text = json.dumps({**manifest, "seal": ""})
    (path / "manifest.json").write_text(text)
    seal = folder.sha256(path / "manifest.json")
    (path / "manifest.json").write_text(text.replace('"seal": ""', f'"seal": "{seal}"'))


def link_out(path: Path) -> None:
    shutil.move(path / "policy.json", path.parent / "policy.json")
    (path / "policy.json").symlink_to(path.parent / "policy.json")


def name_outside(path: Path) -> None:
    content = {"bytes": 1, "sha256": folder.sha256(path.parent / "secret")}
    reseal(path, lambda manifest: manifest["files"].update({"../secret": content}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: (path / "model.pt").unlink(), "model.pt: is missing"),
        (lambda path: (path / "model.pt").write_bytes(b""), "model.pt: holds 0 bytes"),
        (lambda path: (path / "golden" / "more.txt").write_text("x"), "more.txt: is not named"),
        (lambda path: (path / "manifest.json").unlink(), r"manifest.json: cannot be read"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json: is not JSON"),
        (lambda path: (path / "manifest.json").write_text("[]"), "manifest.json: must hold"),
        (lambda path: (path / "manifest.json").write_text("{}"), "manifest.json: is not what its"),
        (lambda path: reseal(path, lambda m: m.update(kind="run")), "this is a run"),
        (lambda path: reseal(path, lambda m: m.update(format=2)), "format 2"),
        (lambda path: reseal(path, lambda m: m["files"].pop("model.pt")), "model.pt: is not named"),
        (link_out, "policy.json: leads out"),
        (name_outside, "secret: leads out"),
    ],
)
def test_damage_is_named(copied: Path, damage: Callable[[Path], None], named: str) -> None:
    (copied.parent / "secret").write_text("x")
    damage(copied)
    with pytest.raises(BundleError, match=named):
        serve.load(copied)


def test_without_verifying_only_the_hashes_are_skipped(copied: Path) -> None:
    content = bytearray((copied / "README.md").read_bytes())
    content[0] ^= 1
    (copied / "README.md").write_bytes(content)
    assert serve.load(copied, verify=False).num_items == 30


def test_golden_requests_are_answered_as_evaluated(opened: Bundle) -> None:
    requests = (opened.path / "golden" / "requests.jsonl").read_text().splitlines()
    assert len(requests) == 4 + 11
    assert list(opened.golden()) == []


def test_golden_notices_another_answer(copied: Path) -> None:
    path = copied / "golden" / "expected.jsonl"
    lines = path.read_text().splitlines()
    answer = json.loads(lines[1])
    answer["scores"][3] += 0.01
    path.write_text("\n".join([lines[0], json.dumps(answer), *lines[2:]]) + "\n")
    size = path.stat().st_size
    reseal(copied, lambda m: m["files"]["golden/expected.jsonl"].update(bytes=size))
    differences = list(serve.load(copied, verify=False).golden())
    assert [line.partition(":")[0] for line in differences] == ["user 1"]


def test_histories_of_every_form_get_the_same_answers(opened: Bundle) -> None:
    rows = {"a": ["003", "007", "003"], "b": ["021"]}
    lists = opened.recommend(list(rows.values()), k=5)
    mapping = opened.recommend(rows, k=5)
    table = pa.table({"user_id": ["a", "a", "b", "a"], "item_id": ["003", "007", "021", "003"]})
    assert [answer.user_id for answer in mapping] == ["a", "b"]
    assert [answer._replace(user_id=None) for answer in mapping] == lists
    assert opened.recommend(table, k=5) == mapping
    assert opened.recommend([], k=5) == []


def test_times_are_ages_at_the_moment_of_prediction(opened: Bundle) -> None:
    day = 86_400
    sorted_history = [[("003", 1 * day), ("007", 5 * day)]]
    answer = opened.recommend(sorted_history, now=6 * day)
    later = [[("007", 15 * day), ("003", 11 * day)]]
    assert opened.recommend(later, now=16 * day) == answer
    assert opened.recommend(sorted_history, now=600 * day) != answer
    times = pa.array([datetime(1970, 1, 2), datetime(1970, 1, 6)], pa.timestamp("us"))
    table = pa.table({"user_id": [1, 1], "item_id": ["003", "007"], "time": times})
    of_table = opened.recommend(table, now=datetime(1970, 1, 7))
    assert [a._replace(user_id=None) for a in of_table] == answer
    future = opened.recommend([[("003", 9 * day)]], now=6 * day)
    assert future == opened.recommend([[("003", 6 * day)]], now=6 * day)


def test_unknown_items_are_left_out_and_counted(opened: Bundle) -> None:
    known, mixed, unknown = opened.recommend([["003"], ["3", "003", "x"], ["x"]], k=5)
    assert mixed == known._replace(num_unknown=2)
    assert unknown == opened.recommend([[]], k=5)[0]._replace(num_unknown=1)


def test_what_a_call_asks_for_is_followed(opened: Bundle) -> None:
    history = [["003", "007"]]
    every = opened.recommend(history, k=30)[0]
    assert sorted(every.item_ids) == [f"{n:03}" for n in range(30)]
    assert every.scores == sorted(every.scores, reverse=True)
    unseen = opened.recommend(history, k=30, exclude_seen=True)[0].item_ids
    assert unseen == [item for item in every.item_ids if item not in history[0]]
    denied = every.item_ids[:2]
    left = opened.recommend(history, k=30, denied=[*denied, "not known"])[0].item_ids
    assert left == every.item_ids[2:]
    allowed = ["not known", *every.item_ids[1:9:2]]
    some = opened.recommend(history, k=30, allowed=allowed, denied=allowed[1:2])[0].item_ids
    assert some == allowed[2:]
    assert opened.recommend(history, allowed=[])[0].item_ids == []


def test_attributes_matter_and_unknown_values_do_not(opened: Bundle) -> None:
    plain, again = opened.recommend([["003"]] * 2, attributes={"age": [None, "not known"]})
    young, old = opened.recommend([["003"]] * 2, attributes={"age": ["young", "old"]})
    assert plain == again
    alone = opened.recommend([["003"]])[0]  # another number of users adds up in another order
    assert alone == plain._replace(scores=pytest.approx(plain.scores, rel=1e-6))
    assert len({str(answer.scores) for answer in (plain, young, old)}) == 3


def test_several_values_of_an_attribute_count_once_each(opened: Bundle) -> None:
    asked = [["young", "old", "not known", "young"], ["old", "young"], [], None, "old"]
    answers = opened.recommend([["003"]] * 5, k=30, attributes={"age": asked})
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
    places = opened.vocabularies["age"]
    both = torch.tensor(sorted([places["young"], places["old"]])), torch.tensor([0, 2])
    history = torch.tensor(opened.indices_of(["003"])), torch.tensor([0, 1])
    items, scores = opened.rank(*history, attributes={"age": both}, k=30)
    assert answers[0].item_ids == opened.item_ids.take(items[0].numpy()).to_pylist()
    assert answers[0].scores == pytest.approx(scores[0].tolist(), rel=1e-5)
    assert answers[0].scores != pytest.approx(answers[4].scores, rel=1e-3)


def test_the_rest_of_the_call_does_not_change_an_answer(opened: Bundle) -> None:
    draw = random.Random(0)
    histories = [[f"{draw.randrange(30):03}" for _ in range(draw.randrange(9))] for _ in range(70)]
    together = opened.recommend(histories, k=7)
    apart = opened.recommend(histories, k=7, batch_users=3)
    for one, other in zip(together, apart, strict=True):
        assert one.item_ids == other.item_ids
        assert one.scores == pytest.approx(other.scores, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("histories", "options", "rule"),
    [
        ([["003"]], {"k": 0}, r"k must lie in \[1, 10000\], got 0"),
        ([["003"]] * 5000, {"batch_users": 5000}, "at most 4096 users in one call, got 5000"),
        (["003"], {}, "list of item ids, got the string '003'"),
        ([[3]], {}, "an event is an item id"),
        ([["003", ("007", 5)]], {}, "got '003'"),
        ([[("003", None)]], {}, "seconds since 1970 or a datetime, got None"),
        ([[("003", float("nan"))]], {}, "got nan"),
        ([[("003", 5)]], {"now": "2026"}, "got '2026'"),
        ([["003"]], {"attributes": {"agee": ["old"]}}, "'agee' is not known"),
        ([["003"]], {"attributes": {"age": ["old", "old"]}}, "each of the 1 histories, got 2"),
        ([["003"]], {"denied": "003"}, r"got the string '003'; write \['003'\]"),
        ([["003"]], {"denied": [1, 2]}, "denied holds item ids, each a string .*; got 1"),
        ([["003"]], {"allowed": "003"}, "allowed is a list of item ids"),
        ([["003"]], {"allowed": ["003", None]}, "got None"),
        (pa.table({"user_id": ["a"]}), {}, "a column item_id"),
        (pa.table({"user_id": ["a", None], "item_id": ["a", "b"]}), {}, "user_id without nulls"),
    ],
)
def test_a_broken_request_is_refused_by_its_rule(
    opened: Bundle, histories: Any, options: dict[str, Any], rule: str
) -> None:
    with pytest.raises(RequestError, match=rule):
        opened.recommend(histories, **options)


def test_a_score_that_is_no_number_is_no_mistake_of_the_request(sound: Path) -> None:
    opened = serve.load(sound, verify=False)
    opened._model.item_bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="a score is NaN; a list"):
        opened.recommend([["003"]])
    different = list(opened.golden())
    assert different
    assert all("got none: a score is NaN" in line for line in different)
    nobody = Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(NonFiniteError, match="bundle: a score is NaN"):
        ask(opened, nobody, None, {}, k=3, exclude_seen=True)


@pytest.mark.parametrize(
    ("items", "scores", "same"),
    [
        ([1, 2, 3], [3.0, 2.0, 1.0], True),
        ([1, 2, 3], [3.000001, 2.0, 1.0], True),
        ([1, 2, 3], [3.001, 2.0, 1.0], False),
        ([2, 1, 3], [3.0, 2.0, 1.0], False),
        ([1, 2], [3.0, 2.0], False),
        ([1, 2, 9], [3.0, 2.0, 1.0], True),  # a tie at the end may let another item in
    ],
)
def test_answers_are_the_same_up_to_ties(items: list[int], scores: list[float], same: bool) -> None:
    assert same_answer(items, scores, [1, 2, 3], [3.0, 2.0, 1.0]) is same
    assert same_answer([2, 1], [1.0, 1.0], [1, 2], [1.0, 1.0])


def test_importing_deeprec_stays_light() -> None:
    code = "import deeprec, sys; assert callable(deeprec.load); assert 'torch' not in sys.modules"
    place = Path(deeprec.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=place, check=True)
