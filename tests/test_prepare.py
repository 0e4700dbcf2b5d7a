"""From a file of events to the prepared folder, as the command line composes it."""

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeprec.config import compose
from deeprec.data.store import PARTS, Prepared
from deeprec.errors import ConfigError, DataError
from deeprec.prepare import prepare
from deeprec.verb import PrepareConfig

DATA_FILES = ("catalog.parquet", "users.parquet", "vocabularies.json", "contract.json",
              *(f"{name}.arrow" for name in PARTS))  # fmt: skip
Write = Callable[..., str]


def composed(*overrides: str) -> PrepareConfig:
    config = compose("prepare", overrides)
    assert isinstance(config, PrepareConfig)
    return config


def drawn(count: int = 1500) -> list[tuple[str, str, int, str, int]]:
    """user, item, time, kind, quantity; seconds often equal, so that their order must be a rule."""
    draw = random.Random(0)
    return [
        (
            f"{draw.randint(0, 40):03d}", f"é{draw.randint(0, 60)}", 10**9 + draw.randint(0, 300),
            draw.choice(["view", "buy"]), draw.randint(1, 3),
        )
        for _ in range(count)
    ]  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(rows: list[tuple[Any, ...]], name: str = "events.csv") -> str:
        lines = [",".join(map(str, row)) for row in rows]
        (tmp_path / name).write_text("\n".join(["u,i,t,k,q", *lines]) + "\n")
        return str(tmp_path / name)

    return make


COLUMNS = ["data=table", "data.user=u", "data.item=i"]
ALL_COLUMNS = [*COLUMNS, "data.time=t", "data.kind=k", "data.value=q", "data.price=q"]


def lists(prepared: Prepared, part: str) -> dict[str, list[tuple[Any, ...]]]:
    """What a part holds, by user id, items by their ids."""
    users = prepared.users["user_id"].to_pylist()
    found = {}
    for row, user in enumerate(users):
        events = prepared.parts[part].take(pa.array([row]).to_numpy())
        columns = [column.tolist() for column in events.columns.values()]
        columns[0] = prepared.catalog.ids_of(events.items)
        if len(columns[0]):
            found[user] = list(zip(*columns, strict=True))
    return found


def test_a_time_cut_gives_back_every_event_in_order(tmp_path: Path, write: Write) -> None:
    rows = drawn()
    output = prepare(
        composed(
            *ALL_COLUMNS, f"data.events={write(rows)}", f"output_dir={tmp_path / 'out'}",
            "split=time_cut", f"split.validation_from={10**9 + 200}",
            f"split.holdout_from={10**9 + 250}",
        )
    )  # fmt: skip
    prepared = Prepared(output)
    kinds = prepared.manifest["kinds"]
    assert kinds == ["buy", "view"]
    expected: dict[str, Any] = {part: defaultdict(list) for part in PARTS}
    for user, item, time, kind, quantity in rows:
        part = PARTS[(time >= 10**9 + 200) + (time >= 10**9 + 250)]
        event = (time, item.encode(), kinds.index(kind), float(quantity), float(quantity))
        expected[part][user].append(event)
    for part in PARTS:
        assert lists(prepared, part) == {
            user: [(item.decode(), time, *rest) for time, item, *rest in sorted(events)]
            for user, events in expected[part].items()
        }
    assert prepared.users["user_id"].to_pylist() == sorted({row[0] for row in rows})
    assert prepared.catalog.item_ids.to_pylist() == sorted(
        {row[1] for row in rows if row[2] < 10**9 + 250}, key=str.encode
    )
    assert prepared.instant("holdout") == 10**9 + 250
    assert prepared.manifest["counts"]["train"] == sum(map(len, expected["train"].values()))
    assert list(prepared.manifest["made_from"]) == ["events.csv"]


@pytest.mark.parametrize("split", ["auto", "leave_last_out", "random_fraction", "user_holdout"])
def test_the_order_of_rows_does_not_change_a_byte(tmp_path: Path, write: Write, split: str) -> None:
    rows = drawn(400)
    filters = ["data.filters.min_users_per_item=3", "data.filters.max_history=12"]
    outputs = []
    for seed in (1, 2):
        path = write(random.Random(seed).sample(rows, len(rows)))
        output = tmp_path / f"out-{seed}"
        prepare(
            composed(
                *ALL_COLUMNS, *filters, f"data.events={path}", f"split={split}",
                f"output_dir={output}",
            )
        )  # fmt: skip
        outputs.append(output)
    for name in DATA_FILES:
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes(), name


def test_the_format_of_the_file_does_not_change_a_byte(tmp_path: Path, write: Write) -> None:
    rows = drawn(300)
    plain = Path(write(rows))
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    columns = dict(zip("uitkq", zip(*rows, strict=True), strict=True))
    columns["t"] = pa.array([t * 1000 for t in columns["t"]], pa.timestamp("ms"))  # type: ignore[assignment]
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    outputs = []
    for name in ("events.csv", "packed.csv.gz", "table.parquet"):
        events = f"data.events={tmp_path / name}"
        (tmp_path / f".o-{name}.events.tmp-1-dead").mkdir()  # of a process that was killed
        outputs.append(prepare(composed(*ALL_COLUMNS, events, f"output_dir={tmp_path}/o-{name}")))
    assert not list(tmp_path.glob(".*"))
    for name in set(DATA_FILES) - {"contract.json"}:  # which says what the times looked like
        first, *others = ((output / name).read_bytes() for output in outputs)
        assert all(other == first for other in others), name


def test_without_times_a_random_fraction_and_a_given_holdout(tmp_path: Path, write: Write) -> None:
    rows = sorted({(user, item, 0, "x", 0) for user, item, *_ in drawn()})
    path = write(rows)
    random_split = Prepared(
        prepare(composed(*COLUMNS, f"data.events={path}", f"output_dir={tmp_path / 'a'}"))
    )
    assert random_split.manifest["split"]["name"] == "random_fraction"
    assert not random_split.has_times
    test = write(
        [("000", "é0", 0, "", 0), ("new", "é1", 0, "", 0), ("001", "new", 0, "", 0)], "t.csv"
    )
    given = Prepared(
        prepare(
            composed(
                *COLUMNS, f"data.events={path}", "split=given", f"split.holdout={test}",
                f"output_dir={tmp_path / 'b'}",
            )
        )
    )  # fmt: skip
    assert lists(given, "holdout") == {"000": [("é0",)], "new": [("é1",)]}
    unknown = dict(
        zip(
            given.users["user_id"].to_pylist(),
            given.users["holdout_unknown"].to_pylist(),
            strict=True,
        )
    )
    assert unknown["001"] == 1
    assert sum(unknown.values()) == 1
    both = [lists(given, part) for part in ("train", "validation")]
    found = sorted(
        (user, item) for part in both for user, events in part.items() for (item,) in events
    )
    assert found == [(user, item) for user, item, *_ in rows]
    assert list(given.manifest["made_from"]) == ["events.csv", "t.csv"]
    checks = json.loads((given.path / "contract.json").read_text())["checks"]
    assert checks[0]["says"] == "2 read: events.csv, t.csv"


def test_the_seeds_with_their_attributes(tmp_path: Path) -> None:
    prepared = Prepared(prepare(composed("data=seeds", f"output_dir={tmp_path / 'out'}")))
    assert prepared.repeats
    assert prepared.num_users == 200
    assert prepared.vocabularies == {"region": [f"r{n:02d}" for n in range(6)]}
    names = dict(
        zip(prepared.catalog.item_ids.to_pylist(), prepared.items["name"].to_pylist(), strict=True)
    )
    assert names["t03-0000"] == "thing 3 of taste 3"
    assert {"validation_unknown", "holdout_unknown"} <= set(prepared.users.column_names)
    report = json.loads((prepared.path / "contract.json").read_text())
    assert report["level"] == "ok"


def test_unseen_users_have_their_roles(tmp_path: Path) -> None:
    prepared = Prepared(
        prepare(
            composed(
                "data=synthetic",
                "data.num_users=300",
                "data.num_items=80",
                "split=user_holdout",
                f"output_dir={tmp_path / 'out'}",
            )
        )
    )
    for part, role in (("validation", "validation"), ("holdout", "holdout")):
        rows = prepared.judged_users(part)  # type: ignore[arg-type]
        assert len(rows) > 10
        assert set(prepared.roles[rows]) == {role}
    assert set(prepared.roles[prepared.training_users()]) == {"train"}


def test_cold_items_make_the_catalog_that_of_the_item_table(tmp_path: Path) -> None:
    few = ["data=synthetic", "data.num_users=50", "data.num_items=9000", "data.events_per_user=4"]
    cold = Prepared(
        prepare(composed(*few, "data.filters.cold_items=true", f"output_dir={tmp_path / 'cold'}"))
    )
    had = Prepared(prepare(composed(*few, f"output_dir={tmp_path / 'had'}")))
    assert cold.num_items == 9000 > had.num_items
    assert cold.items["name"].null_count == 0
    places = cold.catalog.indices_of(had.catalog.item_ids)
    assert cold.popularity[places].tolist() == had.popularity.tolist()
    assert cold.popularity.sum() == had.popularity.sum()
    known = {user: events for user, events in lists(had, "train").items() if events}
    assert lists(cold, "train") == known
    checks = json.loads((cold.path / "contract.json").read_text())["checks"]
    facts = next(check["facts"] for check in checks if check["name"] == "catalog")
    assert facts == {"items": 9000, "cold": int((cold.popularity == 0).sum())}


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (["data.user=user"], DataError, r"no column 'user'.*it has 'u', 'i'"),
        (["data.events=nowhere.csv"], DataError, r"nowhere\.csv"),
        (["data.filters.minimum_value=99"], DataError, r"minimum_value=99.* left none of 400"),
        (["data.filters.min_users_per_item=99"], DataError, "min_users_per_item=99"),
        (["data.filters.kinds=[sale]"], DataError, "kinds"),
        (["data.filters.cold_items=true"], ConfigError, "there is none; give data.item_attributes"),
        (["split=time_cut", "split.holdout_from=2050-01-01"], DataError, "leaves a part empty"),
        (["split=random_fraction", "split.validation=1e-9"], DataError, "validation: 0 events"),
    ],
)
def test_a_mistake_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, write: Write, overrides: list[str], error: type[Exception], says: str
) -> None:
    config = composed(
        *ALL_COLUMNS,
        f"data.events={write(drawn(400))}",
        f"output_dir={tmp_path / 'new' / 'out'}",
        *overrides,
    )
    with pytest.raises(error, match=says):
        prepare(config)
    assert [path.name for path in tmp_path.iterdir()] == ["events.csv"]


def test_something_else_at_the_place_is_kept(tmp_path: Path, write: Write) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="did not finish"):
        prepare(composed("data=seeds", f"output_dir={tmp_path / 'out'}"))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_who_is_in_the_holdout_alone_admits_no_value(tmp_path: Path) -> None:
    days = "a,x,01 a,y,02 b,x,01 b,y,12 c,y,03 c,x,22 d,x,23"
    rows = "".join(f"{row[:-2]}2020-01-{row[-2:]}\n" for row in days.split())
    (tmp_path / "events.csv").write_text(f"user,item,time\n{rows}")
    (tmp_path / "users.csv").write_text("id,city\na,Rome\nb,Oslo\nc,Rome\nd,Oslo\n")
    words = [
        "data=table",
        f"data.events={tmp_path / 'events.csv'}",
        *("data.user=user", "data.item=item", "data.time=time"),
        f"data.user_attributes={{file: {tmp_path / 'users.csv'}, key: id, columns: [city]}}",
        "data.filters.min_users_per_value=2",
        *("split=time_cut", "split.validation_from=2020-01-10", "split.holdout_from=2020-01-20"),
        f"output_dir={tmp_path / 'prepared'}",
    ]
    prepare(composed(*words))
    found = json.loads((tmp_path / "prepared" / "vocabularies.json").read_text())
    assert found == {"city": ["Rome"]}
