"""Lists on their way into one Parquet file: row groups that are kept until all are there.

Each row group is a file of its own in a folder beside the output, whole or absent. A process that
is killed loses the row group it was at; the same command goes on after the last one. At the end
they become one file, and the folder goes.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deeprec import disk, folder
from deeprec.listing.answering import LISTS, Histories

ASKED = "asked.json"


@dataclass
class Done:
    """How far it came: batches of histories whose lists are in whole row groups, and what is in."""

    batches: int = 0
    users: int = 0
    events: int = 0
    unknown: int = 0  # events on items that the bundle does not know
    last_user: str | None = None

    def add(self, histories: Histories) -> None:
        """Counts one more batch."""
        self.batches += 1
        self.users += len(histories.user_ids)
        self.events += histories.num_events
        self.unknown += histories.num_unknown
        self.last_user = histories.user_ids[-1]


def place_of(output: Path) -> Path:
    """The folder in which row groups of an output are kept until all are there."""
    return output.absolute().parent / f".{output.name}.row-groups"


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Keeps others from answering into the same output.

    Raises:
        ConfigError: another process does so.
        ResourceError: nothing can be written there.
    """
    path = place_of(output)
    with disk.written(output, refused=disk.ANY):
        path.mkdir(parents=True, exist_ok=True)
    with folder.locked(path, lambda: f"output={output} is being written by another process"):
        try:
            yield
        finally:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


class RowGroups:
    """Takes lists, batch by batch, in the order of the users; its output is `held`.

    Args:
        output: the file that comes of them.
        asked: what they are lists of; row groups of another question are not gone on with.
        about: what the file says of itself.
        size: recommendations in a row group, about.
    """

    def __init__(
        self, output: Path, asked: Mapping[str, Any], about: Mapping[str, Any], size: int
    ) -> None:
        self._output, self._size = output, size
        self._schema = LISTS.with_metadata({"deeprec": json.dumps(about)})
        self.path = place_of(output)
        self._asked = json.dumps(asked, sort_keys=True)
        self._waiting: list[pa.RecordBatch] = []
        self._num_waiting = 0
        self._kept = self._found()
        self.done = self._done_in(self._kept[-1]) if self._kept else Done()
        self.num_kept = self.done.users

    def _found(self) -> list[Path]:
        """Row groups of the same question, from an earlier life."""
        asked = self.path / ASKED
        if not asked.is_file() or asked.read_text(encoding="utf-8") != self._asked:
            return []
        return sorted(self.path.glob("*.parquet"))

    def _done_in(self, row_group: Path) -> Done:
        return Done(**json.loads(pq.read_schema(row_group).metadata[b"done"]))

    def append(self, histories: Histories, lists: pa.RecordBatch) -> None:
        """Takes the lists of the next users."""
        self.done.add(histories)
        self._waiting.append(lists)
        self._num_waiting += len(lists["scores"].values)
        if self._num_waiting >= self._size:
            self._flush()

    def _flush(self) -> None:
        if not self._kept:
            self.forget_others()
        path = self.path / f"{len(self._kept):08}.parquet"
        done = json.dumps(asdict(self.done))
        table = pa.Table.from_batches(self._waiting, LISTS.with_metadata({"done": done}))
        with folder.writing_file(path) as draft:
            _write(draft, table)
        self._kept.append(path)
        self._waiting, self._num_waiting = [], 0

    def forget_others(self) -> None:
        """Empties the folder of what another question left there."""
        with disk.written(self._output, refused=disk.ANY):
            self.path.mkdir(parents=True, exist_ok=True)
        self._disown()
        folder.clear_drafts(self.path)
        for one in self.path.iterdir():
            one.unlink()
        with folder.writing_file(self.path / ASKED) as draft:
            draft.write_text(self._asked, encoding="utf-8")

    def finish(self) -> None:
        """Makes the output of all row groups."""
        if self._waiting or not self._kept:
            self._flush()
        with (
            folder.writing_file(self._output) as draft,
            pq.ParquetWriter(
                draft, self._schema, compression="zstd", write_page_checksum=True
            ) as writer,
        ):
            for path in self._kept:
                table = pq.read_table(path, page_checksum_verification=True)
                writer.write_table(table.replace_schema_metadata(self._schema.metadata))
        self._disown()
        shutil.rmtree(self.path)

    def _disown(self) -> None:
        """Before any row group goes: some of them, taken for all, would make a shorter file."""
        (self.path / ASKED).unlink(missing_ok=True)


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
