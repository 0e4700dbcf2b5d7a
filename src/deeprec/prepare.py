"""`deeprec prepare`: event log -> prepared folder.

    read the events -> filter -> split -> core and cap -> indices -> contract -> write

Nothing is written before the data contract is kept, and then the folder is whole or absent.
"""

import platform
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

import deeprec
from deeprec import folder
from deeprec.config import instantiate, to_dict
from deeprec.console import Advance, console, progress
from deeprec.data import contract, store
from deeprec.data.attribute import hashed_column, join_attributes, refuse_unknown, vocabulary
from deeprec.data.contract import Check
from deeprec.data.filter import cap_histories, keep_core, keep_events
from deeprec.data.log import EventLog
from deeprec.data.part import Indexed, index, of_one_moment, pieces, seen_again
from deeprec.data.source import short_names
from deeprec.data.split import Split, with_more_training
from deeprec.data.store import PARTS, Events
from deeprec.data.times import look_at_span, look_at_times
from deeprec.data.user_weight import taken_weights
from deeprec.data.vocabulary import Stored
from deeprec.data.workspace import Workspace, workspace
from deeprec.errors import ConfigError
from deeprec.schema import Part
from deeprec.verb import PrepareConfig

Rule = Callable[[Workspace, EventLog, int], Split]


@dataclass(frozen=True)
class Known:
    """The tables of users and items as they are written."""

    items: pa.Table
    users: pa.Table
    vocabularies: dict[str, Stored]
    checks: list[Check]


def prepare(config: PrepareConfig) -> Path:
    """Writes the prepared folder that the config describes, and says what it found.

    Returns:
        The folder.

    Raises:
        ConfigError: the config contradicts itself, or something else lies at `output_dir`.
        DataError: the events cannot be read or break the contract; nothing is written.
        ResourceError: memory or disk does not suffice.
    """
    output = Path(config.output_dir)
    folder.refuse_inside(output)
    folder.refuse_to_replace(output, store.KIND)
    rule: Rule = instantiate(config.split)
    with workspace(output) as space:
        log, seen = _read(space, config.data)
        split, indexed, lost = _divide(space, log, rule, config)
        known = _describe(space, log, indexed)
        counts = _counts(space, indexed)
        left = contract.look_at_split(counts, config.train_on, repeats=log.repeats)
        memory = contract.look_at_memory(counts["items"])
        files = contract.look_at_files(short_names(_files(log, split)))
        checks = [files, *seen, *split.checks, *lost, *known.checks, *left, memory]
        console.print(contract.shown(checks))
        contract.refuse(checks)
        manifest = _manifest(config, log, split, indexed, counts)
        _write(space, output, indexed, known, checks, manifest)
    console.print(_summary(output, split, counts))
    words = [f"prepared={output}", f"output_dir=runs/{output.name}"]
    chosen = config.train_on != "train"
    after = ["refit", "run=RUN", *words] if chosen else ["train", *words, "experiment=auto"]
    console.print(f"next: {shlex.join(['deeprec', *after])}", soft_wrap=True)
    return output


def _read(space: Workspace, data: Part) -> tuple[EventLog, list[Check]]:
    """The events, looked at and then filtered one by one."""
    with _stage("read the events"):
        log: EventLog = instantiate(data, workspace=space)
    with _stage("checked the events"):
        checks = [*log.checks, *contract.look_at_events(space, log.events, repeats=log.repeats)]
        for column in ("user", "item"):
            checks.extend(contract.look_at_ids(space, log.events, column))
        checks.extend(look_at_times(space, log.events, told=log.time_format is not None))
        checks.extend(contract.look_at_values(space, log.events, log.filters.minimum_value))
    with _stage("filtered the events"):
        events, dropped = keep_events(space, log.events, log.filters)
        far = look_at_span(space, events)
    return replace(log, events=events), [*checks, *dropped, *far]


def _divide(
    space: Workspace, log: EventLog, rule: Rule, config: PrepareConfig
) -> tuple[Split, Indexed, list[Check]]:
    """The parts of the events, and then what must not know the holdout: the core and the cap."""
    with _stage("split the events"):
        split = with_more_training(rule(space, log, config.seed), config.train_on)
    with _stage("indexed users and items"):
        core, outside = keep_core(space, split.events, log.filters)
        capped, cut = cap_histories(space, core, log.filters.max_history, config.seed)
        indexed = index(space, capped, _cold_items(log))
    return split, indexed, [*outside, *cut]


def _cold_items(log: EventLog) -> tuple[ir.Table, ...]:
    """Tables of items that are in the catalog, whether anybody had them or not."""
    if log.filters.cold_items and not log.item_attributes:
        raise ConfigError(
            "data.filters.cold_items=true takes items from a table of items, and there is none; "
            "give data.item_attributes, or leave it false"
        )
    return log.item_attributes if log.filters.cold_items else ()


def _describe(space: Workspace, log: EventLog, indexed: Indexed) -> Known:
    """Users and items with what is known of them."""
    of_items, item_checks = join_attributes(space, indexed.items, log.item_attributes, "item")
    of_users, user_checks = join_attributes(space, indexed.users, log.user_attributes, "user")
    items = space.fetch(indexed.items.order_by("row"))
    users = space.fetch(indexed.users.order_by("row"))
    catalog = {"item_id": items["item"], "popularity": pc.cast(items["popularity"], pa.int64())}
    people = {"user_id": users["user"], "role": users["role"]}
    vocabularies: dict[str, Stored] = {}
    hashed = log.filters.hashed_attributes or {}
    refuse_unknown(hashed, of_users.column_names)
    may_train = np.isin(users["role"].to_numpy(zero_copy_only=False), ["all", "train"])
    known = indexed.lengths["train"] + indexed.lengths["validation"] > 0
    trained = may_train & known  # a user of the holdout alone must not admit a value
    if log.filters.user_weights is not None:
        name = log.filters.user_weights
        people[store.WEIGHT], of_users, check = taken_weights(of_users, name)
        user_checks.append(check)
    for name in of_users.column_names:
        if name in hashed:
            people[name], check = hashed_column(name, of_users[name], hashed[name])
            vocabularies[name] = {"hashed": hashed[name]}
            user_checks.append(check)
            continue
        people[name], vocabularies[name], found = vocabulary(
            name,
            of_users[name].combine_chunks(),
            trained=trained,
            min_users=log.filters.min_users_per_value,
        )
        user_checks.extend(found)
    for name in ("validation", "holdout"):
        people[f"{name}_unknown"] = pa.array(indexed.unknown[name])
    catalog.update({name: of_items[name] for name in of_items.column_names})
    checks = [contract.look_at_catalog(catalog["popularity"]), *item_checks, *user_checks]
    return Known(_plain(catalog), _plain(people), vocabularies, checks)


def _plain(columns: dict[str, Any]) -> pa.Table:
    """A table in one piece: equal content gives equal files."""
    return pa.table(columns).combine_chunks().replace_schema_metadata(None)


def _counts(space: Workspace, indexed: Indexed) -> dict[str, int]:
    """What the manifest and the contract count; "users" of a part are those judged on it."""
    lengths, unknown = indexed.lengths, indexed.unknown
    roles = space.fetch(indexed.users.order_by("row"))["role"].to_numpy(zero_copy_only=False)
    history = lengths["train"] + lengths["validation"]
    judged = (lengths["holdout"] + unknown["holdout"] > 0) & np.isin(roles, ["all", "holdout"])
    trained = np.isin(roles, ["all", "train"])
    counts = {"users": len(roles), "items": indexed.num_items}
    for name in PARTS:
        counts[name] = int(lengths[name].sum())
        has_role = trained if name == "train" else np.isin(roles, ["all", name])
        counts[f"{name}_users"] = int((has_role & (lengths[name] > 0)).sum())
        counts[f"{name}_unknown"] = int(unknown[name].sum())
    counts["judged_users"] = int(judged.sum())
    counts["empty_users"] = int((judged & (history == 0)).sum())
    counts["holdout_seen"] = seen_again(space, indexed.events)
    counts["one_moment_users"] = of_one_moment(space, indexed.events)
    return counts


def _manifest(
    config: PrepareConfig, log: EventLog, split: Split, indexed: Indexed, counts: dict[str, int]
) -> dict[str, Any]:
    engines = {name: version(name) for name in ("duckdb", "pyarrow")}
    files = _files(log, split)
    return {
        "repeats": log.repeats,
        "instants": dict(split.instants),
        "split": {"name": split.name, **split.settings},
        "kinds": indexed.kinds,
        "counts": counts,
        "config": to_dict(config),
        "versions": {
            "deeprec": deeprec.__version__,
            "python": platform.python_version(),
            **engines,
        },
        "made_from": {
            name: {"bytes": file.stat().st_size, "sha256": folder.sha256(file)}
            for name, file in zip(short_names(files), files, strict=True)
        },
    }


def _files(log: EventLog, split: Split) -> list[Path]:
    """What was read, each file once."""
    return list(dict.fromkeys([*log.files, *split.files]))


def _write(
    space: Workspace,
    output: Path,
    indexed: Indexed,
    known: Known,
    checks: list[Check],
    manifest: dict[str, Any],
) -> None:
    total = sum(manifest["counts"][name] for name in PARTS)
    with progress("writing", total=total, unit="events") as advance:
        store.write(
            output,
            items=known.items,
            users=known.users,
            vocabularies=known.vocabularies,
            parts={name: _telling(pieces(space, indexed, name), advance) for name in PARTS},
            contract=contract.report(checks),
            manifest=manifest,
        )


def _telling(written: Iterator[Events], advance: Advance) -> Iterator[Events]:
    for piece in written:
        yield piece
        advance(len(piece.items))


def _summary(output: Path, split: Split, counts: dict[str, int]) -> Table:
    settings = ", ".join(f"{name} {value}" for name, value in split.settings.items())
    table = Table(title=f"Prepared: {output}", title_justify="left", caption_justify="left")
    table.caption = f"{counts['items']:,} items; split {split.name} ({settings})"
    for name in ("part", "events", "users", "left out: items outside the catalog"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for name in PARTS:
        cells = (counts[name], counts[f"{name}_users"], counts[f"{name}_unknown"])
        table.add_row(name, *(f"{count:,}" for count in cells))
    return table


@contextmanager
def _stage(done: str) -> Iterator[None]:
    """Shows that something is going on, and how long it took."""
    started = time.monotonic()
    with console.status(f"{done} ..."):
        yield
    console.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim]  {done}")
