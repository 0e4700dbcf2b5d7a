"""Writes the seeds anew: `python seeds/generate.py`. The same files come out every time."""

from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from deeprec.data.synthetic import Synthetic

HERE = Path(__file__).parent


def main(folder: Path = HERE) -> None:
    generator = Synthetic(
        num_users=200, num_items=120, events_per_user=18, num_tastes=6, zipf=0.8,
        taste_strength=0.9, drift=0.1, repeat_share=0.2, days=90, seed=2,
    )  # fmt: skip
    pieces = list(generator.pieces())
    write(pa.concat_tables([events for events, _ in pieces]), folder / "events.csv")
    write(pa.concat_tables([users for _, users in pieces]), folder / "users.csv")
    write(generator.item_table(), folder / "items.csv")


def write(table: pa.Table, path: Path) -> None:
    csv.write_csv(table, path, csv.WriteOptions(quoting_style="none"))


if __name__ == "__main__":
    main()
