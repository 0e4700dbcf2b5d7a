"""A bundle with a changed catalog, without training: items retired, added, renamed.

A change never touches the bundle it starts from: it writes another one, whose goldens are asked
anew, or nothing. An item index is never given to another item. Nothing is written unless every
golden request is answered as before, but for the items of the change.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deeprec import bundle, folder, forms
from deeprec.errors import ConfigError, IntegrityError, did_you_mean
from deeprec.operation.other_forms import FORMS, make_again, rewrite_triton
from deeprec.operation.scripted import rewrite
from deeprec.serve import Bundle, same_answer

RETIRED_IN, ADDED_IN = "retired_in", "added_in"  # columns of catalog.parquet: a version, or null
LISTS_OF_IDS = ("item_ids", "denied", "allowed")  # of a request; not every one has all of them
MOST_CHOICES = 100_000  # ids among which a misspelt one is looked for

Request = dict[str, Any]  # a line of golden/requests.jsonl
Answer = dict[str, Any]  # a line of golden/expected.jsonl


@dataclass(frozen=True)
class Change:
    """What a bundle becomes of another one."""

    words: Mapping[str, Any]  # as the manifest tells it
    retired: Sequence[str] = ()
    added: str | None = None
    like: Sequence[str] = ()
    renamed: Mapping[str, str] | None = None  # old id -> new id


def retire(source: Path, target: Path, version: int, item_ids: Sequence[str]) -> dict[str, str]:
    """Writes the bundle at `source` anew, never answering these items; they are still read.

    Returns:
        The files that were left out, for they could not be made again, and why.

    Raises:
        ConfigError: an item is not in the catalog, or is retired already.
        IntegrityError: the bundle is damaged, or would answer otherwise than it must.
    """
    catalog = catalog_of(source)
    for item_id in item_ids:
        if catalog[RETIRED_IN][place_of(catalog, item_id)].as_py() is not None:
            raise ConfigError(f"item {item_id!r} is retired already")
    return _write(source, target, version, Change({"retire": [*item_ids]}, retired=item_ids))


def add(
    source: Path, target: Path, version: int, item_id: str, like: Sequence[str]
) -> dict[str, str]:
    """Writes the bundle at `source` anew, with a further item: the mean of those it is like.

    Args:
        item_id: an id that no item of this bundle ever had.
        like: item ids, none of them retired.

    Raises:
        ConfigError: an item is not what it must be, or the model cannot be added to.
        IntegrityError: the bundle is damaged, or would answer otherwise than it must.
    """
    catalog = catalog_of(source)
    _refuse_known(catalog, item_id)
    for other in like:
        if catalog[RETIRED_IN][place_of(catalog, other)].as_py() is not None:
            raise ConfigError(f"item {other!r} is retired, so none can be added like it")
    change = Change({"add": item_id, "like": [*like]}, added=item_id, like=like)
    return _write(source, target, version, change)


def rename(source: Path, target: Path, version: int, old: str, new: str) -> dict[str, str]:
    """Writes the bundle at `source` anew, in which item `old` is called `new`.

    Raises:
        ConfigError: there is no item `old`, or there is an item `new`.
        IntegrityError: the bundle is damaged, or would answer otherwise than it must.
    """
    catalog = catalog_of(source)
    place_of(catalog, old)
    _refuse_known(catalog, new)
    return _write(source, target, version, Change({"rename": {old: new}}, renamed={old: new}))


def catalog_of(path: Path) -> pa.Table:
    """catalog.parquet, in index order, with the columns that tell what became of items."""
    table = pq.read_table(path / bundle.CATALOG, page_checksum_verification=True)
    for name in (ADDED_IN, RETIRED_IN):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.int64()))
    return table


def place_of(catalog: pa.Table, item_id: str) -> int:
    """The index of an item that must be there."""
    place: int = catalog["item_id"].index(item_id).as_py()
    if place < 0:
        many = catalog.num_rows > MOST_CHOICES
        hint = "" if many else f"; {_shortened(did_you_mean(item_id, _ids(catalog)))}"
        raise ConfigError(f"there is no item {item_id!r} in this bundle{hint}")
    return place


def _refuse_known(catalog: pa.Table, item_id: str) -> None:
    if not item_id:
        raise ConfigError("an item needs an id of at least one letter")
    if catalog["item_id"].index(item_id).as_py() >= 0:
        raise ConfigError(f"there is an item {item_id!r} already; ids are never used twice")


def _ids(catalog: pa.Table) -> list[str]:
    ids: list[str] = catalog["item_id"].to_pylist()
    return ids


def _shortened(text: str) -> str:
    return text if len(text) < 200 else "see catalog.parquet"


def _write(source: Path, target: Path, version: int, change: Change) -> dict[str, str]:
    manifest = bundle.verify(source)
    old = Bundle(source, manifest, "cpu")
    with folder.writing(target, bundle.KIND, _about(manifest, version, change)) as draft:
        for name in manifest["files"]:
            if change.renamed is not None or name not in FORMS:
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, draft / name)
        catalog = changed_catalog(catalog_of(source), version, change)
        bundle.write_catalog(draft, catalog.drop_columns(["item_index"]))
        if bundle.IDS in manifest["files"]:
            forms.save_ids(draft, _ids(catalog))
        signature = {**old.signature, "by_id": None}
        tables_change = change.renamed is None
        if tables_change or old.signature.get("by_id"):
            _write_model(source, draft, catalog, change)
            rewrite_triton(draft, manifest["files"], uses_times=old.policy["uses_times"])
        if change.added is not None:
            _tell_of_one_more(draft, signature, old.num_items)
        new = _write_goldens(old, draft, change)
        left_out: dict[str, str] = {}
        if tables_change:
            retired, like = _retired(catalog), [place_of(catalog, one) for one in change.like]
            told, left_out = make_again(source, draft, new, retired=retired, like=like)
            signature |= told
        bundle.write_json(draft / bundle.SIGNATURE, signature)
    return left_out


def _about(manifest: Mapping[str, Any], version: int, change: Change) -> dict[str, Any]:
    """The new manifest but for its files: what was, and the change as the last of all."""
    kept = {k: v for k, v in manifest.items() if k not in ("format", "kind", "files", "seal")}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = {**change.words, "of": folder.identity(manifest), "version": version, "when": now}
    return {**kept, "created": now, "changes": [*manifest.get("changes", []), told]}


def changed_catalog(catalog: pa.Table, version: int, change: Change) -> pa.Table:
    """The catalog after the change: rows stay where they are, a new one comes last."""
    if change.added is not None:
        row: dict[str, Any] = dict.fromkeys(catalog.column_names)
        row |= {"item_index": catalog.num_rows, "item_id": change.added, ADDED_IN: version}
        catalog = pa.concat_tables([catalog, pa.Table.from_pylist([row], catalog.schema)])
    if change.renamed is not None:
        ids = [change.renamed.get(item_id, item_id) for item_id in _ids(catalog)]
        catalog = _with_column(catalog, "item_id", ids)
    if change.retired:
        retired = catalog[RETIRED_IN].to_pylist()
        for item_id in change.retired:
            retired[place_of(catalog, item_id)] = version
        catalog = _with_column(catalog, RETIRED_IN, retired)
    return catalog


def _with_column(table: pa.Table, name: str, values: Sequence[object]) -> pa.Table:
    place = table.column_names.index(name)
    one = table.schema.field(place)
    return table.set_column(place, one, pa.array(values, one.type))


def _write_model(source: Path, draft: Path, catalog: pa.Table, change: Change) -> None:
    like = [place_of(catalog, item_id) for item_id in change.like]
    rewrite(source / bundle.MODEL, draft / bundle.MODEL, retired=_retired(catalog), like=like)


def _retired(catalog: pa.Table) -> list[int]:
    retired = catalog[RETIRED_IN].to_pylist()
    return [index for index, when in enumerate(retired) if when is not None]


def _tell_of_one_more(draft: Path, signature: dict[str, Any], num_items: int) -> None:
    """Signature, README and card of one item more than there were."""
    signature["num_items"] = num_items + 1
    for one in (*signature["inputs"], *signature["outputs"]):
        if one.get("maximum") == num_items - 1 and "item" in one["name"]:
            one["maximum"] = num_items
    for name, said in ((bundle.README, "from {} items"), (bundle.CARD, "**Catalog**: {} items")):
        before, now = (said.format(f"{number:,}") for number in (num_items, num_items + 1))
        text = (draft / name).read_text(encoding="utf-8")
        (draft / name).write_text(text.replace(before, now), encoding="utf-8")


def _write_goldens(old: Bundle, draft: Path, change: Change) -> Bundle:
    """The requests as before and those of the change, with what the new bundle answers.

    Raises:
        ConfigError: the model cannot be added to, for a further item changes other answers.
        IntegrityError: an answer changed by more than the items of the change.
    """
    new = Bundle(draft, {}, "cpu")
    before = bundle.read_lines(draft / bundle.GOLDEN_REQUESTS)
    requests = [_renamed(request, change.renamed or {}) for request in before]
    for was, request in zip(before, requests, strict=True):
        _refuse_other_answer(old, was, new, request, change)
    requests += _further(requests[0], change)
    bundle.write_lines(draft / bundle.GOLDEN_REQUESTS, requests)
    answers = (_answer(new, request) for request in requests)
    bundle.write_lines(draft / bundle.GOLDEN_EXPECTED, answers)
    return new


def _renamed(request: Request, names: Mapping[str, str]) -> Request:
    """The request with the new names, in every list of item ids that it has."""
    return {
        key: [names.get(one, one) for one in value] if key in LISTS_OF_IDS and value else value
        for key, value in request.items()
    }


def _refuse_other_answer(
    old: Bundle, was: Request, new: Bundle, request: Request, change: Change
) -> None:
    """Without the items of the change both must say the same."""
    added = [] if change.added is None else [change.added]
    denied = [*dict.fromkeys([*was["denied"], *change.retired])]
    expected = old.ask({**was, "denied": denied})
    try:
        answer = new.ask({**request, "denied": [*request["denied"], *added]})
        new.ask(request)
    except (RuntimeError, ValueError) as error:  # what a model says that is no longer whole
        rule = str(error).strip().splitlines()[-1]
        raise IntegrityError(
            f"the changed model cannot be asked ({rule}), so nothing was written; its tables of "
            "items cannot be told from others of the same length"
        ) from None
    if same_answer(*answer, *expected):
        return
    if change.added is not None:
        raise ConfigError(
            "this model cannot be added to: what it says of an item depends on all others, or a "
            f"layer of it has {old.num_items:,} units, as many as there are items, and cannot be "
            f"told from a table of them; golden request {was['name']!r} would be answered "
            "otherwise. Train (solve, blend) it again with the item in its catalog"
        )
    raise IntegrityError(
        f"golden request {was['name']!r} would be answered with other items than those of the "
        f"change: {answer[0][:5]} in place of {expected[0][:5]}, to look at the first five; "
        "nothing was written"
    )


def _further(like: Request, change: Change) -> list[Request]:
    """Requests about the items of the change."""
    bare = {**like, "ages": None, "attributes": {}, "denied": []}
    requests = [
        {**bare, "name": f"item {item_id} is retired", "item_ids": [item_id]}
        for item_id in change.retired
    ]
    if change.added is not None:
        requests.append({**bare, "name": f"item {change.added} is new", "item_ids": [change.added]})
    return requests


def _answer(opened: Bundle, request: Request) -> Answer:
    items, scores = opened.ask(request)
    item_ids = opened.item_ids.take(pa.array(items, pa.int64())).to_pylist()
    return {"items": items, "item_ids": item_ids, "scores": scores}
