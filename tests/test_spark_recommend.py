"""Spark's executors give the lists that `deeprec recommend` gives."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeprec.recommend import recommend
from deeprec.verb import RecommendConfig
from standin import bundle_folder

DAY = 86_400
SCRIPT = Path(__file__).parents[1] / "scripts" / "spark_recommend.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed"
    ),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
]


def spark(*words: object) -> None:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    env["SPARK_MASTER"] = env["MASTER"] = "local[2]"
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def rows(path: Path) -> dict[str, tuple[list[str], list[float]]]:
    table = pq.read_table(path).select(["user_id", "item_ids", "scores"])
    return {row["user_id"]: (row["item_ids"], row["scores"]) for row in table.to_pylist()}


@pytest.mark.parametrize("timed", [True, False])
def test_the_lists_are_those_of_recommend(tmp_path: Path, timed: bool) -> None:
    bundle_folder(tmp_path / "made")
    draw = np.random.default_rng(0)
    number = 400
    columns = {
        "customer": [f"u{user:02}" for user in draw.integers(0, 60, number)],
        "sku": [f"{item:03}" if item < 33 else None for item in draw.integers(0, 34, number)],
    }
    if timed:
        columns["at"] = (draw.permutation(number) * DAY // 10).tolist()
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    denied = tmp_path / "denied.parquet"
    pq.write_table(pa.table({"sku": ["002", "009", "no item"]}), denied)
    words = ["--time", "at"] if timed else ["--denied", str(denied)]
    spark(
        *("--bundle", tmp_path / "made", "--events", tmp_path / "events.parquet"),
        *("--user", "customer", "--item", "sku", "--k", 7, "--output", tmp_path / "spark", *words),
    )
    recommend(
        RecommendConfig(
            str(tmp_path / "made"),
            str(tmp_path / "events.parquet"),
            str(tmp_path / "ours.parquet"),
            k=7,
            user="customer",
            item="sku",
            time="at" if timed else None,
            denied=None if timed else str(denied),
        )
    )
    ours, theirs = rows(tmp_path / "ours.parquet"), rows(tmp_path / "spark")
    assert set(ours) == set(theirs)
    for user, (item_ids, scores) in ours.items():
        assert theirs[user][0] == item_ids
        assert theirs[user][1] == pytest.approx(scores, rel=1e-5, abs=1e-6)
