"""What is different between two bundles: items, golden answers, rules, files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from deeprec import bundle, folder
from deeprec.operation.catalog_change import RETIRED_IN, catalog_of
from deeprec.serve import same_answer

MOST_LINES = 20  # of one kind; the rest is counted


def difference(first: Path, second: Path) -> list[str]:
    """Line by line, what the second bundle has otherwise than the first; empty: nothing.

    Raises:
        ConfigError: there is no such bundle.
        IntegrityError: one of them is damaged; the file is named.
    """
    manifests = bundle.verify(first), bundle.verify(second)
    return [
        *_items(first, second),
        *_golden_answers(first, second),
        *_files(*manifests),
    ]


def _items(first: Path, second: Path) -> Iterator[str]:
    before, after = catalog_of(first), catalog_of(second)
    ids_before, ids_after = before["item_id"].to_pylist(), after["item_id"].to_pylist()
    gone_before, gone_after = before[RETIRED_IN].to_pylist(), after[RETIRED_IN].to_pylist()
    same = {*ids_before} & {*ids_after}
    yield from _few(
        f"item {old!r} is now called {new!r}" for old, new in _renamed(before, after).items()
    )
    known_before, known_after = {*ids_before}, {*ids_after}
    fewer, more = ids_before[len(ids_after) :], ids_after[len(ids_before) :]
    yield from _few(f"item {one!r} is not there" for one in fewer if one not in known_after)
    yield from _few(f"item {one!r} is new" for one in more if one not in known_before)
    moved = sum(old != new and old in same for old, new in zip(ids_before, ids_after))
    if moved:
        yield f"{moved:,} items have another index: these are not versions of one catalog"
    yield from _few(
        f"item {item_id!r} is {'retired' if after is not None else 'recommended again'}"
        for item_id, before, after in zip(ids_after, gone_before, gone_after)
        if (before is None) != (after is None)
    )


def _renamed(before: pa.Table, after: pa.Table) -> dict[str, str]:
    """Old id -> new id of items that kept their index under another name."""
    ids_before, ids_after = before["item_id"].to_pylist(), after["item_id"].to_pylist()
    known_before, known_after = {*ids_before}, {*ids_after}
    return {
        old: new
        for old, new in zip(ids_before, ids_after)
        if old not in known_after and new not in known_before
    }


def _golden_answers(first: Path, second: Path) -> Iterator[str]:
    """Where two bundles are asked the same, what they are to say."""
    names = _renamed(catalog_of(first), catalog_of(second))
    before, after = _goldens(first), _goldens(second)
    for answer in before.values():
        answer["item_ids"] = [names.get(item_id, item_id) for item_id in answer["item_ids"]]
    shared = [name for name in before if name in after]
    changed = [name for name in shared if not _agree(before[name], after[name])]
    yield f"{len(changed)} of {len(shared)} golden requests are answered differently"
    yield from _few(f"  {name!r}: {_told(before[name], after[name])}" for name in changed)
    yield from _few(f"golden request {name!r} is new" for name in after if name not in before)


def _goldens(path: Path) -> dict[str, dict[str, Any]]:
    requests = bundle.read_lines(path / bundle.GOLDEN_REQUESTS)
    answers = bundle.read_lines(path / bundle.GOLDEN_EXPECTED)
    return {asked["name"]: answer for asked, answer in zip(requests, answers, strict=True)}


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["item_ids"] == other["item_ids"] and same_answer(
        one["items"], one["scores"], other["items"], other["scores"]
    )


def _told(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Which items left and entered a list; or that only order or scores are others."""
    was, now = before["item_ids"], after["item_ids"]
    left = [
        f"{item!r} is not recommended any more (was at {was.index(item) + 1})"
        for item in was
        if item not in now
    ]
    entered = [
        f"{item!r} is recommended at {now.index(item) + 1}" for item in now if item not in was
    ]
    told = [*left[:3], *entered[:3]]
    more = len(left) + len(entered) - len(told)
    if not told:
        return "another order" if was != now else "other scores"
    return ", ".join(told) + (f", and {more} more" if more else "")


def _files(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if folder.identity(before) == folder.identity(after):
        return
    files = {**before["files"], **after["files"]}
    for name in sorted(files):
        one, other = before["files"].get(name), after["files"].get(name)
        if one is None or other is None:
            yield f"file {name} is {'new' if one is None else 'not there'}"
        elif one["sha256"] != other["sha256"]:
            sizes = f"{one['bytes']:,} -> {other['bytes']:,} bytes"
            yield f"file {name} has changed, {sizes}"


def _few(lines: Iterator[str]) -> Iterator[str]:
    """So many lines, and how many more there were."""
    listed: Sequence[str] = list(lines)
    yield from listed[:MOST_LINES]
    if len(listed) > MOST_LINES:
        yield f"  and {len(listed) - MOST_LINES:,} more like this"
