"""Files are read whole and exactly, or refused by name; nothing is guessed."""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeprec.data.source import Source, find, open_files
from deeprec.data.workspace import Workspace
from deeprec.errors import DataError

ROWS = [("007", "a,b"), ("7", 'say "x"'), ("NA", "café"), ("1e3", " blank "), ("0x1", "two\nlines")]
QUOTED = ['007,"a,b"', '7,"say ""x"""', "NA,café", "1e3, blank ", '0x1,"two\nlines"']


def write_csv(path: Path) -> None:
    path.write_text("\n".join(["user_id,item_id", *QUOTED]) + "\n")


def write_bom_and_crlf(path: Path) -> None:
    text = "\r\n".join(["user_id,item_id", *QUOTED]) + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())


def write_latin(path: Path) -> None:
    path.write_bytes("\n".join(["user_id,item_id", *QUOTED]).encode("latin-1"))


def write_tsv(path: Path) -> None:
    lines = [f"{user}\t{item}" for user, item in ROWS[:1] + ROWS[2:4]]
    lines += ['7\t"say ""x"""', '0x1\t"two\nlines"']
    path.write_text("\n".join(["user_id\titem_id", *lines]) + "\n")


def write_gzip(path: Path) -> None:
    with gzip.open(path, "wt") as file:
        file.write("\n".join(["user_id,item_id", *QUOTED]) + "\n")


def write_zstd(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write("\n".join(["user_id,item_id", *QUOTED]).encode())


def write_parquet(path: Path) -> None:
    users, items = zip(*ROWS, strict=True)
    pq.write_table(
        pa.table({"user_id": users, "item_id": pa.array(items).dictionary_encode()}), path
    )


def write_parquet_of_bytes(path: Path) -> None:
    columns = zip(*[(user.encode(), item.encode()) for user, item in ROWS], strict=True)
    pq.write_table(pa.table(dict(zip(["user_id", "item_id"], columns, strict=True))), path)


@pytest.mark.parametrize(
    ("name", "write", "encoding"),
    [
        ("e.csv", write_csv, "utf-8"),
        ("e.csv", write_bom_and_crlf, "utf-8"),
        ("e.csv", write_latin, "latin-1"),
        ("e.tsv", write_tsv, "utf-8"),
        ("e.csv.gz", write_gzip, "utf-8"),
        ("e.csv.zst", write_zstd, "utf-8"),
        ("e.parquet", write_parquet, "utf-8"),
        ("e.parquet", write_parquet_of_bytes, "utf-8"),
    ],
)
def test_every_format_gives_the_same_rows(
    space: Workspace, tmp_path: Path, name: str, write: Callable[[Path], None], encoding: str
) -> None:
    write(tmp_path / name)
    table = space.fetch(open_files(space, str(tmp_path / name), encoding=encoding).table)
    rows = zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)
    assert sorted(rows) == sorted(ROWS)


def test_a_folder_and_a_glob_are_all_their_files(space: Workspace, tmp_path: Path) -> None:
    for place in ("a/1.csv", "a/b/2.csv", "a/_SUCCESS.csv", "a/.hidden.csv"):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        write_csv(tmp_path / place)
    for location in ("a", "a/**/[0-9].csv", "[a]"):
        source = open_files(space, str(tmp_path / location))
        assert [file.name for file in source.files] == ["1.csv", "2.csv"]
        assert space.one(source.table, n=source.table.count())["n"] == 2 * len(ROWS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the file is empty"),
        ("user_id,item_id\na,b\nc\n", "e.csv"),  # a line too short
        ("user_id,item_id\na,b\nc,d,e\n", "e.csv"),  # too long
        ('user_id,item_id\na,"b\n', "unterminated"),
        ("user_id,user_id\na,b\n", "a name of its own"),
        ("user_id,\na,b\n", "a name of its own"),
        ("x" * 2_000_000, "characters or more; it must name the columns"),
        ("x" * 200_000 + "\na\n", "names no columns"),
    ],
)
def test_a_text_file_that_does_not_fit_its_header_is_refused(
    space: Workspace, tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "e.csv").write_text(content)
    with pytest.raises(DataError, match=says):
        space.fetch(open_files(space, str(tmp_path / "e.csv")).table)


@pytest.mark.parametrize("name", ["samples", "samples.txt", "samples.csv"])
def test_samples_of_dsstne_are_no_table_and_stay_out_of_the_message(
    space: Workspace, tmp_path: Path, name: str
) -> None:
    line = "person\t" + ":".join(f"i{item},1112486027" for item in range(500))
    for text in (f"{line}\nother\ti1\n", "person\ti1:i2:i3\n", "person\ti1,2.5\r\n"):
        (tmp_path / name).write_bytes(text.encode())
        with pytest.raises(DataError, match="data=dsstne_text") as caught:
            open_files(space, str(tmp_path / name)).column("user", "user")
        assert "person" not in str(caught.value)
    (tmp_path / name).write_text("user_id:token\titem_id:token\na\tb\n")  # a table
    with pytest.raises(DataError, match="no column 'user'"):
        open_files(space, str(tmp_path / name)).column("user", "user")


def test_a_message_names_some_of_many_columns(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(",".join(f"column{i:090d}" for i in range(900)) + "\n")
    with pytest.raises(DataError, match="and 880 more") as caught:
        open_files(space, str(tmp_path / "e.csv")).column("user", "user")
    assert len(str(caught.value)) < 2_000


def test_text_that_is_not_utf8_is_refused(space: Workspace, tmp_path: Path) -> None:
    write_latin(tmp_path / "near.csv")
    (tmp_path / "far.csv").write_bytes(b"user,item\n" + 50_000 * b"a,b\n" + b"caf\xe9,b\n")
    for name in ("near.csv", "far.csv"):
        with pytest.raises(DataError, match=rf"{name}.*data\.encoding=latin-1"):
            space.fetch(open_files(space, str(tmp_path / name)).table)


def test_a_parquet_file_of_bytes_that_are_not_utf8_is_refused(
    space: Workspace, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"user_id": [b"caf\xe9"]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="UTF8"):
        space.fetch(open_files(space, str(tmp_path / "e.parquet")).table)


@pytest.mark.parametrize("write", [write_gzip, write_zstd])
def test_a_compressed_file_that_is_cut_off_is_refused(
    space: Workspace,
    tmp_path: Path,
    write: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / ("e.csv.gz" if write is write_gzip else "e.csv.zst")
    monkeypatch.setattr(sys.modules[__name__], "QUOTED", [f"{n},{n**2}" for n in range(90_000)])
    write(path)  # long, so that the header alone is whole
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="cut off"):
        open_files(space, str(path))


def test_a_damaged_parquet_file_is_refused_by_name(space: Workspace, tmp_path: Path) -> None:
    write_parquet(tmp_path / "e.parquet")
    whole = (tmp_path / "e.parquet").read_bytes()
    (tmp_path / "e.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"e\.parquet"):
        open_files(space, str(tmp_path / "e.parquet"))


def test_files_of_other_columns_or_formats_are_refused(space: Workspace, tmp_path: Path) -> None:
    write_csv(tmp_path / "1.csv")
    (tmp_path / "2.csv").write_text("item_id,user_id\na,b\n")
    with pytest.raises(DataError, match=r"2\.csv"):
        open_files(space, str(tmp_path))
    write_parquet(tmp_path / "3.parquet")
    with pytest.raises(DataError, match="one format"):
        find(str(tmp_path))
    with pytest.raises(DataError, match="nowhere"):
        find(str(tmp_path / "nowhere"))


def test_a_missing_column_is_named_with_the_nearest(space: Workspace, tmp_path: Path) -> None:
    write_csv(tmp_path / "e.csv")
    source = open_files(space, str(tmp_path / "e.csv"))
    with pytest.raises(DataError, match=r"'user'.*'user_id', 'item_id'.*did you mean 'user_id'"):
        source.column("user", "user")


@pytest.mark.parametrize(
    "line", [b"somebody,b,c", b"somebody", b'"somebody\n\n,b', b"somebody\xe9,b"]
)
def test_a_damaged_line_is_named_by_its_number_not_by_its_user(
    space: Workspace, tmp_path: Path, line: bytes
) -> None:
    (tmp_path / "e.csv").write_bytes(b"user_id,item_id\n" + 50_000 * b"a,b\n" + line + b"\n")
    with pytest.raises(DataError, match="Line: 50002") as refused:
        space.fetch(open_files(space, str(tmp_path / "e.csv")).table)
    assert "somebody" not in str(refused.value)


def test_a_damaged_value_of_a_parquet_file_is_not_shown(space: Workspace, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [b'some"body\xe9']}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="a value is not valid UTF8") as refused:
        space.fetch(open_files(space, str(tmp_path / "e.parquet")).table)
    assert "body" not in str(refused.value)


@pytest.mark.parametrize("name", ["e.csv", "e.tsv", "e.txt.gz", "ml-100k.inter"])
def test_the_name_of_a_file_says_what_stands_between_its_columns(
    space: Workspace, tmp_path: Path, name: str
) -> None:
    mark = "," if name == "e.csv" else "\t"
    text = f"user_id:token{mark}item_id:token\na{mark}b\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    source = open_files(space, str(tmp_path / name))
    assert source.table.columns == ("user_id:token", "item_id:token")


@pytest.mark.parametrize("mark", [";", "|", "\t", ","])
def test_columns_read_as_one_send_to_the_delimiter(
    space: Workspace, tmp_path: Path, mark: str
) -> None:
    name = "e.tsv" if mark == "," else "e.csv"
    (tmp_path / name).write_text(f"user_id{mark}item_id\na{mark}b\n")
    location = str(tmp_path / name)
    source = open_files(space, location)
    with pytest.raises(DataError) as refused:
        source.column("user_id", "user")
    typed = "$'\"\\t\"'" if mark == "\t" else f"'{mark}'"
    assert f"data.delimiter={typed}" in str(refused.value)
    mended = open_files(space, location, delimiter=mark)
    assert mended.table.columns == ("user_id", "item_id")


def test_types_of_several_files_are_one_kind_and_the_widest_of_it(
    space: Workspace, tmp_path: Path
) -> None:
    def opened(*columns: Any) -> Source:
        for number, column in enumerate(columns):
            pq.write_table(pa.table({"x": column, "y": [0]}), tmp_path / f"{number}.parquet")
        return open_files(space, str(tmp_path))

    nothing, narrow, wide = pa.nulls(1), pa.array([7], pa.int32()), pa.array([2**40])
    for columns, kept in (
        ((nothing, narrow, wide), [None, 7, 2**40]),
        ((pa.array([0.5], pa.float32()), [0.1], nothing), [0.5, 0.1, None]),
        ((["7"], pa.array(["007"]).dictionary_encode(), [b"07"]), ["7", "007", "07"]),
    ):
        found = space.fetch(opened(*columns).table.x.name("x").as_table())["x"]
        assert sorted(map(str, found.to_pylist())) == sorted(map(str, kept))
    naive, aware = pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("us", "UTC"))
    for other in (["007"], [0.5], naive, [True]):
        source = opened(narrow, nothing, other)
        with pytest.raises(DataError, match=r"2\.parquet: column 'x'.*0\.parquet whole numbers"):
            source.column("x", "item")
        source.column("y", "user")  # only what is read must agree
    with pytest.raises(DataError, match="of a time zone"):
        opened(nothing, naive, aware).column("x", "time")
    pq.write_table(pa.table({"y": [0]}), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet: no column 'x'"):
        open_files(space, str(tmp_path)).column("x", "item")
