"""`deeprec bundle <operation>`: looks at a bundle, and makes the next version of one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deeprec import bundle, folder, versions
from deeprec.console import console
from deeprec.errors import ConfigError, IntegrityError, did_you_mean
from deeprec.forms import foreign_operations
from deeprec.operation import catalog_change
from deeprec.operation.catalog_change import ADDED_IN, RETIRED_IN, catalog_of
from deeprec.operation.difference import difference
from deeprec.serve import Bundle, load_model

KEYS = ("bundle", "like", "output_dir", "to")


@dataclass
class Words:
    """What was said: words, and key=value or --key value."""

    plain: list[str] = field(default_factory=list)
    given: dict[str, list[str]] = field(default_factory=dict)

    def one(self, key: str) -> str | None:
        values = self.given.get(key, [])
        if len(values) > 1:
            raise ConfigError(f"{key}: given {len(values)} times")
        return values[0] if values else None

    def path(self) -> Path:
        """The bundle, or the folder of its versions."""
        said = self.one("bundle")
        if said is None:
            raise ConfigError("bundle: missing; give bundle=FOLDER, a bundle or its versions")
        return Path(said)


def run(words: Sequence[str]) -> None:
    """Runs one operation.

    Raises:
        ConfigError: the command is wrong; nothing was written.
        IntegrityError: a bundle is damaged, or a golden request is answered otherwise.
    """
    if not words or words[0] not in OPERATIONS:
        said = repr(words[0]) if words else "none"
        hint = did_you_mean(words[0] if words else "", OPERATIONS)
        raise ConfigError(f"deeprec bundle needs an operation, got {said}; {hint}")
    parsed = _parsed(words[1:])
    # each golden request is asked once: TorchScript would optimise for ten times as long as it runs
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # is documented
        OPERATIONS[words[0]](parsed)


def _parsed(words: Sequence[str]) -> Words:
    parsed, rest = Words(), list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        if key.startswith("--") and key[2:] in KEYS:
            if not equals and not rest:
                raise ConfigError(f"{word}: a value must follow")
            parsed.given.setdefault(key[2:], []).append(value if equals else rest.pop(0))
        elif equals and key in KEYS:
            parsed.given.setdefault(key, []).append(value)
        elif word.startswith("--"):
            raise ConfigError(f"{word}: unknown option; {did_you_mean(key[2:], KEYS)}")
        else:
            parsed.plain.append(word)
    return parsed


def _allow(words: Words, plain: str, number: int | None, *keys: str) -> None:
    """Refuses what an operation does not take."""
    if number is None and not words.plain:
        raise ConfigError(f"expected {plain} after the operation")
    if number is not None and len(words.plain) != number:
        raise ConfigError(
            f"expected {plain or 'nothing more'}, got {len(words.plain)} words: {words.plain}"
        )
    for key in words.given:
        if key not in keys:
            raise ConfigError(
                f"{key}: not for this operation; it takes {', '.join(keys) or 'none'}"
            )


def verify(words: Words) -> None:
    """Hashes, operations and golden answers of a bundle, or of every version of it."""
    _allow(words, "the path of a bundle", 1)
    path = Path(words.plain[0])
    here = [path / str(number) for number in versions.numbers(path)]
    for one in here or [path]:
        refuse_unsound(one)


def refuse_unsound(path: Path) -> None:
    """A bundle is whole, of operations of torch alone, and answers as it must.

    Raises:
        ConfigError: there is no bundle.
        IntegrityError: it is not sound; the file, operation or request is named.
    """
    manifest = bundle.verify(path)
    opened = Bundle(path, manifest, "cpu")
    foreign = foreign_operations(load_model(path / bundle.MODEL, opened.device))
    if foreign:
        raise IntegrityError(f"{path / bundle.MODEL}: operations of others: {', '.join(foreign)}")
    differences = list(opened.golden())
    if differences:
        raise IntegrityError("\n".join(f"{path}: golden request {line}" for line in differences))
    number = len(bundle.read_lines(path / bundle.GOLDEN_REQUESTS))
    _say(f"{path}: every file is whole, and {number} golden requests are answered as expected")


def inspect(words: Words) -> None:
    """What a bundle is, where it comes from and what it holds."""
    _allow(words, "the path of a bundle", 1)
    path = versions.current(Path(words.plain[0]))
    manifest = bundle.verify(path)
    name, number = versions.name_of(path)
    _say(f"{name}, version {number}   {path}")
    known = versions.numbers(path.parent) if path.name.isdigit() else []
    if known:
        served = versions.current(path.parent).name
        _row("versions", f"{', '.join(map(str, known))}; {served} is served")
    _row("identity", folder.identity(manifest))
    _row("created", f"{manifest.get('created')} with {_pairs(manifest.get('versions', {}))}")
    _row("made from", _pairs(manifest.get("made_from", {})))
    for change in manifest.get("changes", []):
        told = {key: value for key, value in change.items() if key not in ("of", "when", "version")}
        _row(f"version {change['version']}", f"{_pairs(told)}  {change['when']}")
    _row("items", _items(path))
    _row("attributes", ", ".join(_json(path / bundle.VOCABULARIES)) or "none")
    policy = _json(path / bundle.POLICY)
    _row("seen items", "left out" if policy["exclude_seen"] else "may be recommended")
    _row("times", "are used: events weigh by age" if policy["uses_times"] else "are not used")
    _row("limits", _pairs(policy["limits"]))
    for file, about in manifest["files"].items():
        _row(file, f"{about['bytes']:,} bytes")


def _items(path: Path) -> str:
    catalog = catalog_of(path)
    retired, added = (
        catalog.num_rows - catalog[column].null_count for column in (RETIRED_IN, ADDED_IN)
    )
    columns = set(catalog.column_names) - {"item_index", "item_id", RETIRED_IN, ADDED_IN}
    told = f"{catalog.num_rows:,}, {retired:,} of them retired, {added:,} added without training"
    return f"{told}; {', '.join(sorted(columns)) or 'nothing more'} known of each"


def diff(words: Words) -> None:
    """What is different between two bundles."""
    _allow(words, "the paths of two bundles", 2)
    first, second = (versions.current(Path(word)) for word in words.plain)
    _show_difference(first, second)


def _show_difference(first: Path, second: Path) -> None:
    for line in difference(first, second):
        _say(line)


def retire(words: Words) -> None:
    """The next version, which never answers some items."""
    _allow(words, "the ids of items", None, "bundle", "output_dir")
    change = partial(catalog_change.retire, item_ids=words.plain)
    _next_version(words, change, {"retire": words.plain})


def add(words: Words) -> None:
    """The next version, with a further item."""
    _allow(words, "the id of an item", 1, "bundle", "like", "output_dir")
    like = [one for said in words.given.get("like", []) for one in _listed(said)]
    if not like:
        raise ConfigError("like: missing; give like=ITEM or like=[ITEM,ITEM,...], known items")
    change = partial(catalog_change.add, item_id=words.plain[0], like=like)
    _next_version(words, change, {"add": words.plain[0], "like": like})


def _listed(said: str) -> list[str]:
    """[A,B] or A; an id with a comma in it is given alone, like=A like=B.

    Example:
        >>> _listed("[a,b]"), _listed("a,b")
        (['a', 'b'], ['a,b'])
    """
    if said.startswith("[") and said.endswith("]"):
        return [one.strip() for one in said[1:-1].split(",") if one.strip()]
    return [said]


def rename(words: Words) -> None:
    """The next version, in which an item has another id."""
    _allow(words, "the old and the new id of an item", 2, "bundle", "output_dir")
    old, new = words.plain
    _next_version(words, partial(catalog_change.rename, old=old, new=new), {"rename": {old: new}})


def _next_version(
    words: Words, change: Callable[[Path, Path, int], dict[str, str]], told: dict[str, Any]
) -> None:
    """Writes it beside the others, makes it the current one and says what is different.

    Args:
        change: writes it; what it could not make again is returned.
        told: the change, as the manifest of the new version tells it.
    """
    source = versions.current(words.path())
    said = words.one("output_dir")
    if said is None and (whole := _whole_already(source, told)) is not None:
        versions.point(source.parent, int(whole.name))
        _say(f"{whole}: is {source} with this change already; it is served from now on")
        _show_difference(source, whole)
        return
    target = versions.following(source) if said is None else Path(said)
    if target.exists():
        raise ConfigError(f"output_dir={target} is there already; a version is never written over")
    target.parent.mkdir(parents=True, exist_ok=True)
    with folder.locked(target.parent, lambda: f"{target.parent} is being written by another one"):
        left_out = change(source, target, versions.name_of(target)[1])
        if said is None and (target.parent / versions.CURRENT).is_file():
            versions.point(target.parent, int(target.name))
    _say(f"{target}: made from {source}")
    for name, why in left_out.items():
        _say(f"left out: {name}, which could not be made again ({why})")
    _show_difference(source, target)


def _whole_already(source: Path, told: dict[str, Any]) -> Path | None:
    """The newest version, if it is `source` with this change, and not served."""
    known = versions.numbers(source.parent) if source.name.isdigit() else []
    if not known or known[-1] <= int(source.name):
        return None
    newest = source.with_name(str(known[-1]))
    last = {**bundle.verify(newest).get("changes", [{}])[-1]}
    of = folder.identity(folder.read_manifest(source, bundle.KIND))
    return newest if last.get("of") == of and {**last, **told} == last else None


def rollback(words: Words) -> None:
    """Makes a former version the current one again, once it is found sound."""
    if len(words.plain) == 1 and "bundle" not in words.given:
        words.given["bundle"] = [words.plain.pop()]
    _allow(words, "", 0, "bundle", "to")
    path = words.path()
    served = versions.current(path)
    if served == path:
        raise ConfigError(f"{path} is one bundle; give the folder of its versions, {path.parent}")
    known, number = versions.numbers(path), int(served.name)
    to = words.one("to") or next((str(one) for one in reversed(known) if one < number), None)
    if to is None:
        raise ConfigError(f"{path}: version {number} is the first, there is none to go back to")
    if to not in map(str, known):
        raise ConfigError(f"to: expected one of {', '.join(map(str, known))}, got {to}")
    refuse_unsound(path / to)
    versions.point(path, int(to))
    _say(f"{path}: version {to} is served from now on, in place of {number}")
    _show_difference(served, path / to)


OPERATIONS: dict[str, Callable[[Words], None]] = {
    "verify": verify,
    "inspect": inspect,
    "diff": diff,
    "retire": retire,
    "add": add,
    "rename": rename,
    "rollback": rollback,
}


def _say(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)


def _row(name: str, value: str) -> None:
    _say(f"  {name:<22} {value}")


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "unknown"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
