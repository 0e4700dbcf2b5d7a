"""The page says what report.json says, to people with any screen, and runs nothing."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import standin
from deeprec.config import compose
from deeprec.evaluate import evaluate
from deeprec.evaluation.page.whole import page
from deeprec.train import train
from deeprec.verb import EvaluateConfig

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run and a file of lists, with everything a page can show."""
    path = tmp_path_factory.mktemp("page")
    prepared = standin.prepared_folder(path / "prepared")
    words = [f"prepared={path / 'prepared'}", f"output_dir={path / 'run'}"]
    train(compose("train", [*words, "trainer.max_epochs=2", "optimizer.warmup_steps=1"]))
    ids = np.array(prepared.catalog.item_ids.to_pylist())
    lists = [np.random.default_rng(u).permutation(ids).tolist() for u in range(prepared.num_users)]
    table = pa.table({"user_id": prepared.users["user_id"], "item_ids": lists})
    pq.write_table(table, path / "random.parquet")
    evaluate(
        EvaluateConfig(
            run=str(path / "run"),
            recommendations=str(path / "random.parquet"),
            cutoffs=[3, 5],
            sampled_negatives=4,
            bootstrap_samples=50,
        )
    )
    content: dict[str, Any] = json.loads((path / "run" / "report.json").read_text())
    assert (path / "run" / "report.html").read_text() == page(content)
    return content


class Tables(HTMLParser):
    """The words of every cell, table by table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True
        elif tag == "small" and self._in_cell:
            self.tables[-1][-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data.strip()


class Attributes(HTMLParser):
    """What a page could load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.update(name for name, _ in attrs)
        self.links += [value for name, value in attrs if name.endswith("href")]

    handle_startendtag = handle_starttag


def metric_table(text: str, report: dict[str, Any]) -> None:
    """The first table holds every system's metrics at the headline's cutoff."""
    heads, *rows = Tables(text).tables[0]
    assert heads[:3] == ["system", "ndcg", "recall"]
    assert [row[0] for row in rows] == [system["name"] for system in report["systems"]]
    for row, system in zip(rows, report["systems"], strict=True):
        for name, cell in zip(heads[1:], row[1:], strict=True):
            mean, _ = cell.removeprefix("≈ ").split("|")
            truth = system["metrics"][f"{name}@{report['headline']}"]["mean"]
            assert float(mean) == pytest.approx(truth, abs=5.1e-5)


def test_the_page_says_what_the_report_says(report: dict[str, Any]) -> None:
    text = page(report)
    metric_table(text, report)
    said = unescape(text)
    for comparison in report["comparisons"]:
        assert f"{comparison['mean']:+.4f}" in said
    for one in (*report["controls"], *report["leakage"], *report["protocol"]["metrics"].values()):
        assert (one if isinstance(one, str) else one["says"]) in said
    assert report["protocol"]["data"] in said
    assert report["command"] in said
    assert all(line in said for line in report["warnings"])
    assert said.count('class="user"') == len(report["examples"]) == 20


def test_what_must_not_be_overlooked_comes_first(report: dict[str, Any]) -> None:
    failed = {"name": "random", "level": "fail", "says": "random lists found all", "facts": {}}
    text = page(report | {"controls": [failed], "forced": ["exclude_seen: true (A), false (B)"]})
    alarms = re.findall(r'<p class="alarm" role="alert"><strong>(.*?)</strong> (.*?)</p>', text)
    assert ("Do not believe this:", "random lists found all") in alarms
    assert ("Compared by force:", "exclude_seen: true (A), false (B)") in alarms
    assert text.index('class="alarm"') < text.index('class="lead"')


def test_it_needs_no_network_and_runs_nothing(report: dict[str, Any]) -> None:
    trap = "<script>alert(1)</script><img src=http://x onerror=alert(2)>"
    told = json.loads(json.dumps(report).replace('"popularity"', json.dumps(trap)))
    told["examples"][0]["taken"][0]["name"] = trap
    text = page(told | {"command": trap, "warnings": [trap]})
    assert escape(trap) in text
    assert "<script" not in text
    assert "<img" not in text
    assert "src" not in Attributes(text).names
    assert all(link and link.startswith("#") for link in Attributes(text).links)
    assert "default-src 'none'" in text
    assert len(page(report).encode()) < 2_000_000


def test_a_report_of_one_system_and_one_of_many_have_a_page(report: dict[str, Any]) -> None:
    one = report | {"systems": report["systems"][:1], "comparisons": [], "examples": []}
    assert "Who is ahead" not in page(one)
    many = [
        report["systems"][at % len(report["systems"])] | {"name": f"system with a long name {at}"}
        for at in range(15)
    ]
    assert page(report | {"systems": many, "examples": []}).count("system with a long name 14") > 3


def chromium(page_file: Path, *arguments: str) -> str:
    assert CHROMIUM is not None
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    still = ["--disable-background-networking", "--disable-component-update"]
    own = f"--user-data-dir={page_file.parent / 'profile'}"
    command = [CHROMIUM, *quiet, *still, own, *arguments, page_file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@needs_chromium
def test_a_browser_shows_the_table(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(report), encoding="utf-8")
    metric_table(chromium(tmp_path / "report.html", "--dump-dom"), report)


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(
    report: dict[str, Any], tmp_path: Path, width: int
) -> None:
    """Wide tables and plots scroll in boxes of their own; the page never does sideways."""
    frame = f'<iframe id="f" style="width:{width}px;height:800px;border:0"></iframe>'
    measure = (
        f"<script>const f = document.getElementById('f'); f.srcdoc = {json.dumps(page(report))}"
        ".replace('', ''); f.onload = () => { document.body.dataset.width = "
        "f.contentDocument.documentElement.scrollWidth; };</script>"
    ).replace('</script>"', '<\\/script>"')
    (tmp_path / "frame.html").write_text(f"<body>{frame}{measure}</body>", encoding="utf-8")
    shown = chromium(tmp_path / "frame.html", "--dump-dom", "--virtual-time-budget=5000")
    found = re.search(r'data-width="(\d+)"', shown)
    assert found, shown[:500]
    assert int(found[1]) <= width
