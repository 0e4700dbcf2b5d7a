"""The server answers as the bundle does, refuses by its rules, and never stops answering."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import deeprec
from browser import CHROMIUM, browsing
from deeprec.cli import main
from deeprec.config import compose
from deeprec.serve import Bundle, same_answer
from deeprec.verb import ServeConfig
from standin import bundle_folder

pytest.importorskip("fastapi", reason="in the extra `serve`")
pytest.importorskip("uvicorn", reason="in the extra `serve`")

from deeprec.server.batcher import Batcher
from deeprec.server.held import Held
from deeprec.server.measured import Measured
from deeprec.server.process import bound, server_of

DAY = 86_400


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_folder(tmp_path_factory.mktemp("server") / "made")


@pytest.fixture(scope="module")
def opened(made: Path) -> Bundle:
    return deeprec.load(made)


@contextmanager
def served(bundle: Path, **settings: Any) -> Iterator[str]:
    """The address of a server in a thread."""
    words = [f"{key}={value}" for key, value in settings.items()]
    config = compose("serve", [f"bundle={bundle}", "port=0", "reload_seconds=0", *words])
    assert isinstance(config, ServeConfig)
    server = server_of(config)
    listening = bound(server, config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield "http://{}:{}".format(*listening.getsockname())
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


@pytest.fixture(scope="module")
def url(made: Path) -> Iterator[str]:
    with served(made) as address:
        yield address


def fetch(url: str, body: object = None) -> tuple[int, Any]:
    """Status and answer; a body that is no bytes goes as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    try:
        with urlopen(Request(url, body), timeout=60) as answer:
            text = answer.read()
            kind = answer.headers["content-type"]
            return answer.status, json.loads(text) if "json" in kind else text.decode()
    except HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else text.decode()


def tensor(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}


def test_many_at_once_get_what_the_bundle_says_to_each(url: str, opened: Bundle) -> None:
    draw = random.Random(0)
    asked: list[dict[str, Any]] = []
    for _ in range(120):
        ids = [f"{draw.randrange(33):03}" for _ in range(draw.randrange(9))]
        timed = draw.random() < 0.5
        items: list[Any] = [[one, draw.randrange(90) * DAY] for one in ids] if timed else ids
        asked.append(
            {
                "items": items,
                "k": draw.choice([1, 5, 40]),
                "exclude_seen": draw.choice([None, True, False]),
                "denied": draw.sample(["002", "009", "no item"], draw.randrange(3)),
                "allowed": draw.choice([None, [], ["002", "011", "021", "no item"]]),
                "attributes": {"age": draw.choice(["old", "no age", None, ["young", "old", "x"]])},
                "now": 100 * DAY,
            }
        )
    with ThreadPoolExecutor(16) as crowd:
        answers = list(crowd.map(lambda body: fetch(f"{url}/recommend", body), asked))
    for body, (status, answer) in zip(asked, answers, strict=True):
        assert status == 200, answer
        events = body["items"]
        history = (
            [tuple(one) for one in events] if events and isinstance(events[0], list) else events
        )
        (expected,) = opened.recommend(
            [history],
            k=body["k"],
            exclude_seen=body["exclude_seen"],
            denied=body["denied"],
            allowed=body["allowed"],
            attributes={name: [value] for name, value in body["attributes"].items()},
            now=body["now"],
        )
        assert answer["item_ids"] == expected.item_ids
        assert answer["scores"] == pytest.approx(expected.scores, rel=1e-5, abs=1e-6)
        assert answer["num_unknown"] == expected.num_unknown


def test_every_golden_request_is_answered_over_the_protocol(url: str, opened: Bundle) -> None:
    folder = opened.path / "golden"
    requests, answers = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("requests.jsonl", "expected.jsonl")
    )
    for request, expected in zip(requests, answers, strict=True):
        inputs = [
            tensor("item_ids", "BYTES", request["item_ids"]),
            tensor("denied_items", "BYTES", request["denied"]),
            tensor("k", "INT64", [request["k"]]),
            *(tensor(f"attribute.{n}", "BYTES", [v]) for n, v in request["attributes"].items()),
        ]
        if request["ages"] is not None:
            inputs.append(tensor("ages", "FP32", request["ages"]))
        if request["allowed"] is not None:
            inputs.append(tensor("allowed_items", "BYTES", request["allowed"]))
        parameters = {"exclude_seen": request["exclude_seen"]}
        status, said = fetch(
            f"{url}/v2/models/made/infer", {"inputs": inputs, "parameters": parameters}
        )
        assert status == 200, said
        items, scores = (one["data"] for one in said["outputs"])
        found = [item for item in items if item]
        assert items[len(found) :] == [""] * (request["k"] - len(found))
        indices = opened.indices_of(found)
        assert same_answer(indices, scores[: len(found)], expected["items"], expected["scores"])


def test_indices_go_in_and_out_as_the_signature_says(url: str, opened: Bundle) -> None:
    inputs = [
        tensor("item_ids", "INT64", [3, 7, 21]),
        tensor("offsets", "INT64", [0, 2, 2, 3]),
        tensor("denied_items", "INT64", [5]),
        tensor("denied_offsets", "INT64", [0, 0, 1, 1]),
        tensor("exclude_seen", "BOOL", [True]),
        tensor("allowed_items", "INT64", [*range(30), 4, 9]),
        tensor("allowed_offsets", "INT64", [0, 30, 30, 32]),
    ]
    body = {"id": "x", "inputs": inputs, "parameters": {"k": 31}, "outputs": [{"name": "items"}]}
    status, said = fetch(f"{url}/v2/models/made/versions/1/infer", body)
    assert (status, said["id"], said["model_version"]) == (200, "x", "1")
    [items] = said["outputs"]
    assert (items["shape"], items["datatype"]) == ([3, 31], "INT64")
    rows = [items["data"][start : start + 31] for start in (0, 31, 62)]
    for row, best in zip(rows, ({*range(30)} - {3, 7}, set(), {4, 9}), strict=True):
        assert sorted(row) == [-1] * (31 - len(best)) + sorted(best)


def test_users_have_as_many_values_as_the_offsets_say(url: str, opened: Bundle) -> None:
    inputs = [
        tensor("item_ids", "BYTES", ["003", "007"]),
        tensor("offsets", "INT64", [0, 1, 1, 2]),
        tensor("attribute.age", "BYTES", ["young", "old", "old"]),
        tensor("attribute_offsets.age", "INT64", [0, 2, 2, 3]),
        tensor("k", "INT64", [5]),
    ]
    status, said = fetch(f"{url}/v2/models/made/infer", {"inputs": inputs})
    assert status == 200, said
    ages = [["old", "young"], [], "old"]
    answers = opened.recommend([["003"], [], ["007"]], attributes={"age": ages}, k=5)
    items, scores = (one["data"] for one in said["outputs"])
    assert items == [item for answer in answers for item in answer.item_ids]
    expected = [score for answer in answers for score in answer.scores]
    assert scores == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_health_metadata_and_metrics(url: str) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/made/ready"):
        assert fetch(url + path)[0] == 200
    status, about = fetch(f"{url}/v2/models/made/versions/1")
    assert (status, about["versions"], about["platform"]) == (200, ["1"], "pytorch_libtorch")
    assert {"name": "attribute.age", "datatype": "BYTES", "shape": [-1]} in about["inputs"]
    fetch(f"{url}/recommend", {"items": ["no item"]})
    text = fetch(f"{url}/metrics")[1]
    assert re.search(r'deeprec_bundle{identity="\w{64}",name="made",version="1"} 1.0', text)
    assert re.search(r"deeprec_unknown_items_total [1-9]", text)
    assert 'deeprec_requests_total{route="/recommend",status="200"}' in text


RECOMMEND = {"items": ["003"]}
INFER = {"inputs": [tensor("item_ids", "BYTES", ["003"])]}


@pytest.mark.parametrize(
    ("path", "body", "status", "rule"),
    [
        ("/recommend", b"{", 400, "Invalid JSON"),
        ("/recommend", b"\xff", 400, "Invalid JSON"),
        ("/recommend", {}, 400, "items: Field required"),
        ("/recommend", {"items": "003"}, 400, "items"),
        ("/recommend", {"items": [3]}, 400, "items must be item ids"),
        ("/recommend", {"items": ["003", ["003", 5]]}, 400, "items must be item ids"),
        ("/recommend", {**RECOMMEND, "k": 0}, 400, r"k must lie in \[1, 1000\], got 0"),
        ("/recommend", {**RECOMMEND, "k": 1001}, 400, r"k must lie in \[1, 1000\], got 1001"),
        ("/recommend", {**RECOMMEND, "kk": 1}, 400, "there is no key 'kk'; did you mean 'k'"),
        ("/recommend", {"history": ["003"]}, 400, "no key 'history'; choose from .*, items"),
        ("/recommend", {"item": ["003"]}, 400, "there is no key 'item'; did you mean 'items'?"),
        ("/v2/models/made/infer", {"input": []}, 400, "no key 'input'; did you mean 'inputs'?"),
        ("/v2/models/made/infer", {"id": "1"}, 400, "inputs: Field required"),
        ("/recommend", {"items": [["003", float("inf")]]}, 400, "items"),
        ("/recommend", {"items": ["003"] * 10_001}, 400, "at most 10000"),
        ("/recommend", {**RECOMMEND, "attributes": {"agee": "old"}}, 400, "takes age, town"),
        ("/recommend", {**RECOMMEND, "attributes": {"age": [1]}}, 400, "attributes.age"),
        ("/recommend", {**RECOMMEND, "attributes": {"age": ["x"] * 10_001}}, 400, "at most 10000"),
        ("/recommend", b" " * 1_048_577, 413, "1048576 bytes"),
        ("/nothing", None, 404, "Not Found"),
        ("/recommend", None, 405, "Not Allowed"),
        ("/v2/models/other/infer", INFER, 404, "there is made, versions 1"),
        ("/v2/models/made/versions/2/infer", INFER, 404, "there is made, versions 1"),
        ("/v2/models/made/infer", {"inputs": []}, 400, "item_ids is missing"),
        (
            "/v2/models/made/infer",
            {"inputs": [tensor("item_ids", "INT64", [2, 30])]},
            400,
            r"item_ids must lie in \[0, 30\), got 30",
        ),
        ("/v2/models/made/infer", {"inputs": [tensor("x", "FP32", [1])]}, 400, "no input 'x'"),
        ("/v2/models/made/infer", {"inputs": INFER["inputs"] * 2}, 400, "twice"),
        ("/v2/models/made/infer", {**INFER, "outputs": [{"name": "x"}]}, 400, "no output 'x'"),
        ("/v2/models/made/infer", {**INFER, "parameters": {"k": True}}, 400, "k must be int"),
        *(
            ("/v2/models/made/infer", {"inputs": [*INFER["inputs"], broken]}, 400, rule)
            for broken, rule in [
                (tensor("offsets", "INT64", [0, 2]), "never fall and end at 1"),
                (tensor("offsets", "INT64", [0, 1, 0, 1]), "never fall"),
                (tensor("offsets", "INT64", [0] * 129 + [1]), "at most 128 in one request"),
                (tensor("offsets", "FP32", [0, 1]), "must be INT64 or INT32"),
                (tensor("offsets", "INT64", [0, "1"]), "must be INT64"),
                (tensor("ages", "FP32", [1, 2]), "as many as item_ids"),
                (tensor("ages", "FP32", [-1]), "at least 0 days"),
                (tensor("k", "INT64", [1, 2]), "one value"),
                (tensor("attribute.age", "BYTES", []), "needs 1 values"),
                (tensor("attribute_offsets.age", "INT64", [0, 0]), "of its values is missing"),
                (tensor("denied_offsets", "INT64", [0]), "users"),
                ({**tensor("k", "INT64", [3]), "shape": [2]}, "its shape"),
            ]
        ),
    ],
)
def test_a_broken_request_is_refused_by_its_rule(
    url: str, path: str, body: object, status: int, rule: str
) -> None:
    found, said = fetch(url + path, body)
    assert found == status
    assert re.search(rule, said["error"])
    assert fetch(f"{url}/recommend", RECOMMEND)[0] == 200


def test_no_request_whatever_is_an_error_of_the_server(url: str) -> None:
    draw = random.Random(0)
    values = ["003", "", 3, -1, 2**70, 1e308, None, True, [], {}, ["003"], [["003", 5]], "\u0000é"]
    keys = ["items", "k", "exclude_seen", "denied", "attributes", "now", "inputs", "id"]
    statuses: Counter[int] = Counter()
    for turn in range(600):
        body: Any = {key: draw.choice(values) for key in draw.sample(keys, draw.randrange(1, 5))}
        path = "/recommend"
        if turn % 2:
            path = "/v2/models/made/infer"
            names = ["item_ids", "offsets", "ages", "k", "denied_items", "denied_offsets", "x"]
            body["inputs"] = [
                {
                    "name": name,
                    "datatype": draw.choice(["INT64", "BYTES", "FP32", "BOOL", "x"]),
                    "shape": draw.choice([[0], [1], [2], [-1], []]),
                    "data": [draw.choice(values) for _ in range(draw.randrange(3))],
                }
                for name in draw.sample(names, draw.randrange(1, 4))
            ]
        text = json.dumps(body).encode()
        if draw.random() < 0.2:
            text = text[: draw.randrange(len(text))]
        status, said = fetch(url + path, text)
        statuses[status] += 1
        assert status in (200, 400), (status, said, body)
    assert statuses[400] > 300


def test_whatever_the_model_fails_by_is_told_and_the_next_is_answered(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Bundle.rank

    def short_of_memory(bundle: Bundle, *args: Any, **told: Any) -> Any:
        if told["k"] == 13:
            raise MemoryError
        return rank(bundle, *args, **told)

    monkeypatch.setattr(Bundle, "rank", short_of_memory)
    status, said = fetch(f"{url}/recommend", {**RECOMMEND, "k": 13})
    assert (status, said["error"]) == (500, "the model failed: MemoryError")
    assert fetch(f"{url}/recommend", RECOMMEND)[0] == 200
    monkeypatch.setattr(Batcher, "is_running", False)  # as after an end that nobody foresaw
    for path in ("/v2/health/ready", "/v2/models/made/ready"):
        status, said = fetch(url + path)
        assert (status, said["ready"]) == (503, False)


def test_too_many_at_once_are_told_to_come_later(made: Path) -> None:
    with (
        served(made, max_waiting=4, max_users=4, batch_users=1) as url,
        ThreadPoolExecutor(48) as crowd,
    ):
        body = {"items": ["003"] * 400, "k": 30}
        found = Counter(
            status for status, _ in crowd.map(lambda _: fetch(f"{url}/recommend", body), range(600))
        )
        assert {*found} <= {200, 429, 503}, found
        assert found[200]
        assert found[429] + found[503]
        assert fetch(f"{url}/recommend", body)[0] == 200


def test_another_version_is_taken_up_and_a_damaged_one_is_not(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop, measured = tmp_path / "shop", Measured()
    shutil.copytree(made, shop / "1")
    held = Held(shop, None, "cpu", measured)
    first = held.served
    assert not held.look()
    assert main(["bundle", "retire", "003", f"bundle={shop}"]) == 0
    assert held.look()
    assert (held.served.version, list(held.loaded)) == ("2", ["1", "2"])
    assert held.version("1") is first
    shutil.copytree(shop / "2", shop / "3")
    content = (shop / "3" / "model.pt").read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    (shop / "3" / "model.pt").write_bytes(damaged)

    def refused() -> float | None:
        return measured.registry.get_sample_value("deeprec_reloads_total", {"outcome": "refused"})

    assert not held.look()
    assert not held.look()
    assert (held.served.version, refused(), len(caplog.messages)) == ("2", 1.0, 2)
    for size in (5, 8):  # the file is being copied, and nothing is opened meanwhile
        (shop / "3" / "model.pt").write_bytes(content[:size])
        assert not held.look()
    assert refused() == 1.0
    assert not held.look()  # the copy has stopped, and something is wrong with it
    assert (refused(), len(caplog.messages)) == (2.0, 3)
    (shop / "3" / "model.pt").write_bytes(content)
    assert [held.look(), held.look()] == [False, True]
    assert (held.served.version, list(held.loaded)) == ("3", ["2", "3"])
    shutil.rmtree(shop / "3")
    (shop / "current").write_bytes(b"\xff")
    assert not held.look()
    (shop / "current").unlink()
    assert main(["bundle", "rollback", str(shop)]) == 0
    assert held.look()
    assert held.served.version == "1"


def test_a_signal_ends_it_once_every_request_is_answered(made: Path) -> None:
    command = [sys.executable, "-m", "deeprec", "serve", f"bundle={made}", "port=0"]
    source = str(Path(deeprec.__file__).parents[1])
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(source)
    )
    assert server.stdout is not None
    line = server.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert address, line + server.communicate()[1]
    with ThreadPoolExecutor(8) as crowd:
        body = {"items": ["003"] * 2_000, "k": 30}
        asked = [crowd.submit(fetch, f"{address[0]}/recommend", body) for _ in range(8)]
        while not any(one.done() for one in asked):
            pass
        server.send_signal(signal.SIGTERM)
        said = [one.exception() or one.result()[0] for one in asked]
    _, errors = server.communicate(timeout=60)
    assert server.returncode == 143, errors
    assert "the server has ended" in errors
    # one that was not connected yet is refused by the system; none is left half answered
    assert all(one == 200 or isinstance(one, OSError) for one in said), said


def environment(source: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"}


def test_items_are_found_by_their_words(url: str) -> None:
    found = fetch(f"{url}/items?search=ITEM%202")[1]["items"]
    assert [item["name"] for item in found][:2] == ["item 2", "item 12"] or len(found) == 12
    assert all("2" in item["name"] + item["item_id"] for item in found)
    assert fetch(f"{url}/items?search=zzz")[1]["items"] == []
    one = fetch(f"{url}/items?id=007&id=no")[1]["items"]
    assert one == [{"item_id": "007", "name": "item 7", "attributes": {}}]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_person_types_items_by_name_and_sees_what_the_bundle_says(
    url: str, opened: Bundle, tmp_path: Path
) -> None:
    listed = "JSON.stringify([...document.querySelectorAll('#list li')].map(r => r.dataset.item))"
    named = "firstChild.data === "
    with browsing(tmp_path) as page:
        page.open(url)
        page.wait("document.querySelectorAll('#list li').length === 10")
        for number, name in enumerate(["item 3", "item 21"], 1):
            page.value("document.getElementById('search').focus()")
            page.type(name)
            found = "[...document.querySelectorAll('#found li')]"
            page.wait(f"{found}.some(row => row.{named} '{name}')")
            marked = f"document.querySelector('#found [aria-selected=true]').{named} '{name}'"
            while not page.value(marked):
                page.press("ArrowDown")
            page.press("Enter")
            page.wait(f"document.querySelectorAll('#history li').length === {number}")
        (expected,) = opened.recommend([["003", "021"]], k=10)
        page.wait(f"{listed} === '{compact(expected.item_ids)}'")
        assert page.value("location.hash") == "#003,021"
        shown = page.value("document.querySelector('#list li').textContent")
        assert shown.startswith(f"1item {int(expected.item_ids[0])}")
        page.value("document.getElementById('seen').click()")
        (unseen,) = opened.recommend([["003", "021"]], k=10, exclude_seen=True)
        page.wait(f"{listed} === '{compact(unseen.item_ids)}'")
        assert page.value("document.getElementById('alarm').hidden")


def compact(values: list[str]) -> str:
    return json.dumps(values, separators=(",", ":"))


def test_the_page_asks_nobody_but_its_server(url: str) -> None:
    text = fetch(url)[1]
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text.replace("data:,", ""))


def test_without_a_page_there_is_no_catalog_to_search(made: Path) -> None:
    with served(made, page="false") as url:
        assert [fetch(url + path)[0] for path in ("/", "/items", "/about")] == [404, 404, 404]
