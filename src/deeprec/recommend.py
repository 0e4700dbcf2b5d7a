"""Bundle + histories -> recommendation lists: in bounded memory, gone on with where it stopped."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from deeprec import bundle, folder, serve, versions
from deeprec.batch import Jagged
from deeprec.catalog import Catalog
from deeprec.console import console, progress
from deeprec.data.column import as_id, as_seconds, instant
from deeprec.data.filter import in_order
from deeprec.data.judge import judged_batch
from deeprec.data.source import Source, find, listed, open_files, typed
from deeprec.data.store import SECONDS_PER_DAY, Prepared
from deeprec.data.translation import Translation, known_only
from deeprec.data.workspace import Workspace, workspace
from deeprec.device import choose_device
from deeprec.errors import ConfigError, DataError
from deeprec.listing.answering import Histories, Wanted
from deeprec.listing.crew import answers
from deeprec.listing.named import Named, digest, events_of, places_in, read_ids
from deeprec.listing.row_groups import RowGroups, held
from deeprec.papers.preprocess import NOT_RECORDED
from deeprec.serve import Bundle
from deeprec.verb import RecommendConfig

ROWS_AT_ONCE = 262_144  # events read at once
ROW_GROUP = 1_048_576  # recommendations in one row group of the output

Int64 = npt.NDArray[np.int64]


def recommend(config: RecommendConfig) -> Path:
    """Answers every user of `histories`; see `RecommendConfig`.

    Of a prepared folder, the users judged on the holdout are answered as they stood before it (all
    its users, if none is judged); of event files, every user. A user without known items is
    answered too. Users come in ascending order of their ids.

    Row groups that are done are kept beside the output until all are: whatever stops it, the same
    command goes on after the last of them, and gives the same file.

    Returns:
        The file that was written.

    Raises:
        ConfigError: a path or number of the config cannot be.
        IntegrityError: the bundle or the prepared folder is damaged; the file is named.
        DataError: the events are not what they must be.
    """
    output = Path(config.output)
    if output.is_dir():
        raise ConfigError(f"output={output} is a folder; name a Parquet file")
    if output.suffix not in (".parquet", ".pq"):
        raise ConfigError(f"output={output}: lists are written as Parquet; name it .parquet")
    folder.refuse_inside(output)
    path = versions.current(Path(config.bundle))
    device = choose_device(config.device)
    identity = folder.identity(bundle.verify(path))
    opened = serve.load(path, verify=False, device=device.name)
    check(config, opened)
    exclude_seen = config.exclude_seen
    if exclude_seen is None:
        exclude_seen = bool(opened.policy["exclude_seen"])
    wanted = Wanted(config.k, exclude_seen, allowed_items(config, opened))
    about = {"bundle": identity, "k": config.k, "exclude_seen": exclude_seen}
    if wanted.allowed is not None:
        about["allowed"] = digest(wanted.allowed)
    prepared = prepared_of(config)
    with opened_histories(config, opened, prepared) as (total, some_histories), held(output):
        groups = RowGroups(output, {**about, **question(config, prepared)}, about, ROW_GROUP)
        left = after(groups, some_histories)
        if groups.num_kept:
            console.print(f"{groups.num_kept:,} lists are there already; continuing after them")
        try:
            with progress("recommending", total, "users") as advance:
                advance(groups.num_kept)
                lists = answers(opened, left, wanted, config.processes)
                for histories, some_lists in lists:
                    groups.append(histories, some_lists)
                    advance(len(histories.user_ids))
            groups.finish()
        except BaseException:
            if any(groups.path.glob("*.parquet")):
                console.print(f"lists so far are kept in {groups.path}; the same command continues")
            raise
    done = groups.done
    console.print(
        f"{output}: {done.users:,} lists of up to {config.k} items; {done.unknown:,} of "
        f"{done.events:,} events are on items that the bundle does not know",
        soft_wrap=True,
    )
    if done.unknown == done.events > 0:
        console.print(
            "[yellow]note[/yellow] it knows none of them, so each list is that of a user with no "
            "history; see that the item column holds ids as catalog.parquet of the bundle writes "
            "them",
            soft_wrap=True,
        )
    return output


def prepared_of(config: RecommendConfig) -> Prepared | None:
    """The prepared folder whose users are answered, every file of it compared; None: events are."""
    path = Path(config.histories)
    if not (path / folder.MANIFEST).is_file():
        return None
    if config.now is not None:
        raise ConfigError(
            f"{path} is a prepared folder, which has its own moment of prediction; leave now out, "
            "or give event files"
        )
    return Prepared(path)


def question(config: RecommendConfig, prepared: Prepared | None) -> dict[str, object]:
    """What the lists depend on besides bundle, k and seen items; only the same is gone on with."""
    chosen = {} if config.users is None else {"users": folder.sha256(Path(config.users))}
    if prepared is not None:
        return {
            "prepared": folder.identity(prepared.manifest),
            "batch_users": config.batch_users,
            **chosen,
        }
    files = [(str(file), file.stat()) for file in find(config.histories)]
    return {
        "files": [[name, about.st_size, about.st_mtime_ns] for name, about in files],
        "columns": [config.user, config.item, config.time],
        "read_as": [config.time_format, config.delimiter],
        "now": config.now,
        "batch_users": config.batch_users,
        **chosen,
    }


def after(groups: RowGroups, some_histories: Iterator[Histories]) -> Iterator[Histories]:
    """The histories after those whose lists are kept; all of them, where they are others."""
    skipped = list(islice((part.user_ids[-1] for part in some_histories), groups.done.batches))
    if groups.done.batches and skipped[-1:] != [groups.done.last_user]:
        raise DataError(
            f"{groups.path} holds lists of other users than these histories have; remove it"
        )
    return some_histories


def check(config: RecommendConfig, opened: Bundle) -> None:
    limits = opened.policy["limits"]
    for name, limit in (("k", limits["max_k"]), ("batch_users", limits["max_users"])):
        if not 1 <= getattr(config, name) <= limit:
            raise ConfigError(f"{name} must lie in [1, {limit}], got {getattr(config, name)}")


def allowed_items(config: RecommendConfig, opened: Bundle) -> Int64 | None:
    """Indices of the only items that may be in a list, without denied ones; None: all."""
    if config.allowed is None and config.denied is None:
        return None
    catalog, where = Catalog(opened.item_ids), "the bundle"
    allowed = np.arange(opened.num_items)
    with workspace(Path(config.output)) as space:
        if config.allowed is not None:
            named = items_named(space, config.allowed, config)
            otherwise = "every list would be empty"
            allowed = places_in(named, catalog, where=where, otherwise=otherwise)
        if config.denied is not None:
            named = items_named(space, config.denied, config)
            denied = places_in(named, catalog, where=where, otherwise="none would be denied")
            allowed = np.setdiff1d(allowed, denied, assume_unique=True)
    if not len(allowed):
        raise DataError(
            f"{config.denied}: denies every item that may be answered, so every list would be "
            "empty; leave some out"
        )
    return allowed


def items_named(space: Workspace, path: str, config: RecommendConfig) -> Named:
    return read_ids(space, path, "item", column=config.item, delimiter=config.delimiter)


def users_named(space: Workspace, path: str, config: RecommendConfig) -> Named:
    return read_ids(space, path, "user", column=config.user, delimiter=config.delimiter)


@contextmanager
def opened_histories(
    config: RecommendConfig, opened: Bundle, prepared: Prepared | None
) -> Iterator[tuple[int, Iterator[Histories]]]:
    """The number of users in `config.histories`, and their histories, some users at a time."""
    if prepared is not None:
        users = users_of(prepared, config)
        yield len(users), prepared_histories(prepared, opened, users, config.batch_users)
        return
    with workspace(Path(config.output)) as space:
        events = read_events(
            space, open_files(space, config.histories, delimiter=config.delimiter), config
        )
        if opened.fields:
            console.print(
                f"[yellow]note[/yellow] this bundle takes user attributes "
                f"({', '.join(opened.fields)}); event files hold none, so they count as unknown",
                soft_wrap=True,
            )
        if opened.policy["uses_times"] and "time" not in events.columns:
            console.print(
                "[yellow]note[/yellow] this bundle weighs events by their age, and these have no "
                "time, so each counts as just done; if a column holds it, say time=COLUMN",
                soft_wrap=True,
            )
        if kept := events_kept(opened):
            console.print(
                f"[yellow]note[/yellow] this bundle was trained on {kept} alone; give it the "
                "same, because all events of these files count (preprocess.json)",
                soft_wrap=True,
            )
        facts = space.one(events, users=events.user.nunique(), **latest_time(events))
        now = facts["latest"] if config.now is None else instant(config.now)
        num_users = facts["users"]
        if config.users is not None:
            named = users_named(space, config.users, config)
            events, num_users = events_of(space, events, named, **of_histories(config))
        yield num_users, event_histories(space, events, opened, now, config.batch_users)


def users_of(prepared: Prepared, config: RecommendConfig) -> Int64:
    """Rows of the users of a prepared folder who are answered."""
    users = prepared.judged_users("holdout")
    users = users if len(users) else np.arange(prepared.num_users)
    if len(users) < prepared.num_users:
        console.print(
            "[yellow]note[/yellow] from a prepared folder, only users of its holdout get lists, "
            f"from their histories before it: {len(users):,} of {prepared.num_users:,} users; "
            "to answer everybody, give the event files",
            soft_wrap=True,
        )
    if config.users is None:
        return users
    with workspace(Path(config.output)) as space:
        named = users_named(space, config.users, config)
    catalog = Catalog(prepared.users["user_id"].take(pa.array(users)))
    chosen: Int64 = users[places_in(named, catalog, **of_histories(config))]
    return chosen


def of_histories(config: RecommendConfig) -> dict[str, str]:
    """What is said of users that nobody knows."""
    where = f"histories={config.histories}"
    return {"where": where, "otherwise": "nobody would be answered"}


def events_kept(opened: Bundle) -> str:
    """Which events the histories of training were made of, in words; empty: all, or not known."""
    place = opened.path / bundle.PREPROCESS
    if not place.is_file():  # a bundle of an earlier version
        return ""
    told = json.loads(place.read_text(encoding="utf-8"))
    kept = []
    if isinstance(told["events_kept"], dict):
        kept = [f"{name} {value}" for name, value in told["events_kept"].items()]
    if told["read_by"] not in (NOT_RECORDED, "table"):
        kept.append(f"what `data={told['read_by']}` reads")
    return f"events of {', '.join(kept)}" if kept else ""


def prepared_histories(
    prepared: Prepared, opened: Bundle, users: Int64, batch_users: int
) -> Iterator[Histories]:
    """These users of a prepared folder, as evaluation shows them to a model."""
    translation = Translation(prepared, opened)
    for rows in np.split(users, range(batch_users, len(users), batch_users)):
        batch, num_unknown = translation(judged_batch(prepared, rows, "holdout", with_target=False))
        user_ids = prepared.users["user_id"].take(pa.array(rows)).to_pylist()
        yield Histories(user_ids, batch.history, batch.ages, batch.attributes, num_unknown)


def read_events(space: Workspace, source: Source, config: RecommendConfig) -> ir.Table:
    """Events as user (string), item (string or null) and, where known, time (int64 seconds).

    An event without item or time tells nothing, but its user is answered.
    """
    columns = {"user": config.user, "item": config.item}
    if config.time is not None or "time" in source.table.columns:
        columns["time"] = config.time or "time"
    for key, name in columns.items():
        if name not in source.table.columns:
            source.refuse_samples()
            way = f"Say which one it is: {key}=COLUMN"
            if within := source.delimiter_within():
                told = typed("delimiter", within)
                way = f"If {within!r} stands between the columns, say so: {told}"
            raise DataError(
                f"{source.files[0]}: no column {name!r}; it has {listed(source.table.columns)}. "
                f"{way}"
            )
        source.refuse_other_kinds(name)
    raw = space.keep("raw", source.table.select(**columns))
    shown = {key: f"{source.files[0]}: {name}" for key, name in columns.items()}
    converted = {key: as_id(space, raw, key, shown[key])[0] for key in ("user", "item")}
    if "time" in columns:
        converted["time"] = as_seconds(space, raw, "time", shown["time"], config.time_format)[0]
    events = space.keep("events", raw.select(**converted))
    if "time" in columns:
        events = events.mutate(item=ibis.ifelse(events.time.notnull(), events.item, None))
    events = events.filter(events.user.notnull())
    if not space.count(events):
        raise DataError(f"{source.files[0]}: holds no event with a user")
    return events


def latest_time(events: ir.Table) -> dict[str, ir.Value]:
    return {"latest": events.time.max() if "time" in events.columns else ibis.null("int64")}


def event_histories(
    space: Workspace, events: ir.Table, opened: Bundle, now: int | None, batch_users: int
) -> Iterator[Histories]:
    """Every user of the events, oldest event first, as prepared folders order them."""
    catalog = Catalog(opened.item_ids)
    ordered = events.order_by([events.user, *in_order(events)])
    with space.telling_errors():
        batches = space.con.to_pyarrow_batches(ordered, chunk_size=ROWS_AT_ONCE)
        for table in whole_users(batches):
            yield from split_users(table, catalog, now, batch_users)


def whole_users(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Cuts a stream sorted by user between users only."""
    rest = None
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        rows = rows if rest is None else pa.concat_tables([rest, rows])
        ends = user_ends(rows)
        last = int(ends[-2]) if len(ends) > 1 else 0
        if last:
            yield rows.slice(0, last)
        rest = rows.slice(last)
    if rest is not None and rest.num_rows:
        yield rest


def user_ends(rows: pa.Table) -> Int64:
    """int64 [U]: where the rows of each user end."""
    users = rows["user"].combine_chunks()
    return np.asarray(pc.run_end_encode(users, run_end_type=pa.int64()).run_ends, np.int64)


def split_users(
    rows: pa.Table, catalog: Catalog, now: int | None, batch_users: int
) -> Iterator[Histories]:
    """The histories in rows that are sorted by user and hold every event of each."""
    ends = np.concatenate([[0], user_ends(rows)])
    user_ids = rows["user"].take(pa.array(ends[:-1])).to_pylist()
    items = torch.from_numpy(catalog.indices_of(rows["item"].combine_chunks()))
    ages = ages_at(now, rows) if "time" in rows.column_names else None
    for start in range(0, len(user_ids), batch_users):
        offsets = torch.from_numpy(ends[start : start + batch_users + 1])
        events = slice(int(offsets[0]), int(offsets[-1]))
        history, known = known_only(Jagged(items[events], offsets - offsets[0]))
        yield Histories(
            user_ids=user_ids[start : start + batch_users],
            items=history,
            ages=None if ages is None else ages[events][known],
            attributes={},
            num_unknown=int((~known).sum()),
        )


def ages_at(now: int | None, rows: pa.Table) -> torch.Tensor:
    """float32 [N]: days from each event to `now`, 0 for a later one; any number without a time."""
    latest = now or 0  # without `now`, no event has a time
    times = pc.fill_null(rows["time"], latest).to_numpy()
    return torch.from_numpy(((latest - times).clip(0) / SECONDS_PER_DAY).astype(np.float32))
