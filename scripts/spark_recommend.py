"""Bundle + events -> recommendation lists, inside Spark: each executor answers its own users.

    spark-submit scripts/spark_recommend.py --bundle bundles/shop/1 --events events.parquet
        --user user_id --item item_id --time time --k 20 --output lists

The executors need torch and pyarrow, not deeprec: the bundle travels to them, and its own serve.py
verifies and asks it. The output is as of `deeprec recommend`: user_id, item_ids, scores, best
first; its rows are in no order. Without --time the order of a history is not known either.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import SparkFiles
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

SCHEMA = "user_id string, item_ids array<string>, scores array<float>"
USERS_AT_ONCE = 1_024  # in one Arrow batch: a thousand histories of a thousand events are 50 MB


def main() -> None:
    """Reads the command, answers everybody, writes the lists."""
    said = command()
    spark = SparkSession.builder.appName("recommend").getOrCreate()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(USERS_AT_ONCE))
    spark.sparkContext.addFile(str(Path(said.bundle).resolve()), recursive=True)
    events = read_table(spark, said.events)
    histories, now = histories_of(events, said.user, said.item, said.time)
    answer = answerer(
        Path(said.bundle).resolve().name,
        k=said.k,
        exclude_seen={None: None, "true": True, "false": False}[said.exclude_seen],
        now=now if said.now is None else said.now,
        timed=said.time is not None,
        allowed=None if said.allowed is None else item_ids_of(spark, said.allowed, said.item),
        denied=[] if said.denied is None else item_ids_of(spark, said.denied, said.item),
    )
    histories.mapInArrow(answer, SCHEMA).write.parquet(said.output)
    spark.stop()


def command() -> argparse.Namespace:
    """What was said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--events", required=True, help="Parquet or CSV, a row for each event")
    parser.add_argument("--output", required=True, help="a folder of Parquet, which must be new")
    parser.add_argument("--user", default="user_id", help="column of the user id")
    parser.add_argument("--item", default="item_id", help="column of the item id")
    parser.add_argument("--time", help="column of the time: a timestamp, or seconds since 1970")
    parser.add_argument("--now", type=float, help="moment of prediction; default: the latest time")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--exclude_seen", choices=["true", "false"], help="default: the policy's")
    parser.add_argument("--allowed", help="Parquet or CSV of item ids: lists hold no others")
    parser.add_argument("--denied", help="Parquet or CSV of item ids: lists hold none of them")
    return parser.parse_args()


def read_table(spark: SparkSession, path: str) -> DataFrame:
    """A table of Parquet or, with a header, CSV."""
    kind = Path(path).suffix.lstrip(".") or "parquet"
    return spark.read.load(path, format=kind, header=True)


def item_ids_of(spark: SparkSession, path: str, item: str) -> list[str]:
    """The ids in a table of one column, or in the item column of a wider one."""
    table = read_table(spark, path)
    name = table.columns[0] if len(table.columns) == 1 else item
    ids = table.select(F.col(name).cast("string").alias("id")).dropna().distinct()
    return [row["id"] for row in ids.collect()]


def histories_of(
    events: DataFrame, user: str, item: str, time: str | None
) -> tuple[DataFrame, float | None]:
    """A row for each user, its events oldest first; and the latest time.

    A user whose events tell nothing has an empty history, and is answered too.
    """
    when = F.lit(0.0) if time is None else seconds(events, time)
    event = F.struct(when.alias("when"), F.col(item).cast("string").alias("item"))
    told = F.when(F.col(item).isNotNull() & when.isNotNull(), event)  # collect_list skips null
    histories = (
        events.where(F.col(user).isNotNull())
        .groupBy(F.col(user).cast("string").alias("user_id"))
        .agg(F.sort_array(F.collect_list(told)).alias("events"))
        .select("user_id", F.col("events.item").alias("items"), F.col("events.when").alias("when"))
    )
    latest = None if time is None else events.agg(F.max(when)).first()
    return histories, None if latest is None else latest[0]


def seconds(events: DataFrame, time: str) -> Column:
    """Seconds since 1970 of a column of times."""
    if dict(events.dtypes)[time].startswith(("timestamp", "date")):
        return F.col(time).cast("timestamp").cast("double")
    return F.col(time).cast("double")


def answerer(
    bundle: str,
    *,
    k: int,
    exclude_seen: bool | None,
    now: float | None,
    timed: bool,
    allowed: list[str] | None = None,
    denied: Sequence[str] = (),
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What an executor does with its part of the histories.

    Args:
        bundle: the name of the folder, as it was given to Spark.
        allowed: the only items that may be answered; None: all.
        denied: items that are never answered.
    """

    def answer(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        opened = open_bundle(Path(SparkFiles.get(bundle)))
        for batch in batches:
            items, when = batch["items"].to_pylist(), batch["when"].to_pylist()
            histories = items
            if timed:
                histories = [list(zip(*events, strict=True)) for events in zip(items, when)]
            answers = opened.recommend(
                histories,
                k=k,
                exclude_seen=exclude_seen,
                now=now,
                allowed=allowed,
                denied=denied,
            )
            yield pa.record_batch(
                [
                    batch["user_id"].cast(pa.string()),
                    pa.array([one.item_ids for one in answers], pa.list_(pa.string())),
                    pa.array([one.scores for one in answers], pa.list_(pa.float32())),
                ],
                names=["user_id", "item_ids", "scores"],
            )

    return answer


def open_bundle(path: Path) -> Any:
    """The bundle, by its own client, which is opened once in a process."""
    import torch

    name = f"bundle_client_{path.name}"
    if name not in sys.modules:
        torch.set_num_threads(1)  # Spark runs a process on each core
        spec = importlib.util.spec_from_file_location(name, path / "serve.py")
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.opened = module.load(path)
        sys.modules[name] = module  # only now: one that cannot be opened is not there
    return sys.modules[name].opened  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
