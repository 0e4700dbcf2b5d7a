"""Folders that are either whole or absent: what every verb writes and reads.

A folder is written under a temporary name beside its place, each file is hashed into
`manifest.json`, which is written last, and one rename puts it in place. A folder without a manifest
was never finished; a file that differs from the manifest is damaged. Both are errors that name it.
The manifest's own `seal` is the SHA-256 of its text with the seal left empty.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deeprec.errors import ConfigError, IntegrityError

FORMAT = 1
MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(folder: Path, kind: str, manifest: dict[str, Any]) -> Iterator[Path]:
    """Yields an empty folder to fill; on success it becomes `folder`, on failure it vanishes.

    `manifest` may be filled while the folder is; it is written after the block, with the hash of
    every file. A finished folder of the same kind at that place is replaced; anything else is kept.

    Raises:
        ConfigError: something that is not a finished folder of this kind is in the way.
    """
    folder = folder.absolute()
    refuse_to_replace(folder, kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        yield draft
        seal(draft, kind, manifest)
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def seal(
    folder: Path, kind: str, manifest: Mapping[str, Any], paths: Iterable[Path] | None = None
) -> None:
    """Writes the manifest of a filled folder: every file's size and hash, flushed to the disk.

    Args:
        folder: a draft, or a folder that lives on and is sealed as it is.
        kind: of folder.
        manifest: what else it says.
        paths: the files of `folder` that it names; None: all.
    """
    if paths is None:
        paths = [p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST]
    files = {}
    for path in sorted(paths):
        _flush(path)
        files[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
    sealed = {"format": FORMAT, "kind": kind, **manifest, "files": files, "seal": ""}
    text = json.dumps(sealed, indent=2, ensure_ascii=False) + "\n"
    sealed["seal"] = hashlib.sha256(text.encode()).hexdigest()
    text = json.dumps(sealed, indent=2, ensure_ascii=False) + "\n"
    with writing_file(folder / MANIFEST) as draft:
        draft.write_text(text, encoding="utf-8")


def refuse_to_replace(folder: Path, kind: str) -> None:
    """Only a finished folder of the same kind, or nothing, may be in the way."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if folder.is_dir() and (folder / MANIFEST).is_file():
        found = _read(folder).get("kind")  # a damaged folder may be made again, so no seal is asked
        if found == kind:
            return
        raise ConfigError(
            f"{folder} holds a {found} folder; output_dir must be new, empty or a {kind} folder"
        )
    raise ConfigError(
        f"{folder} holds files that deeprec did not finish; output_dir must be new, empty or a "
        f"{kind} folder. Move them away, or give another output_dir"
    )


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished folder of this kind; sizes are compared, hashes are not.

    Raises:
        ConfigError: there is no such folder, or it is of another kind.
        IntegrityError: the folder is unfinished, or a file is missing or has another size.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; expected a {kind} folder")
    if not (folder / MANIFEST).is_file():
        raise IntegrityError(
            f"{folder}: no {MANIFEST}, so this is not a finished {kind} folder; make it again"
        )
    manifest = _parse(folder)
    if manifest.get("kind") != kind:
        raise ConfigError(f"{folder} is a {manifest.get('kind')} folder; expected a {kind} folder")
    if manifest.get("format") != FORMAT:
        raise IntegrityError(
            f"{folder}: format {manifest.get('format')} was written by another deeprec "
            f"({manifest.get('versions', {}).get('deeprec', 'unknown')}); this one reads {FORMAT}"
        )
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise IntegrityError(f"{path}: named in {MANIFEST} but missing; make {folder} again")
        if path.stat().st_size != expected["bytes"]:
            raise IntegrityError(
                f"{path}: {path.stat().st_size} bytes, but {MANIFEST} says {expected['bytes']}; "
                f"make {folder} again"
            )
    return manifest


def verify(folder: Path, kind: str, *, unread: Collection[str] = ()) -> dict[str, Any]:
    """As `read_manifest`, and every file's hash is compared; files not named are refused.

    Args:
        unread: names of files that must be there and whose content is not looked at.

    Raises:
        IntegrityError: the first file that differs, by name.
    """
    manifest = verify_named(folder, kind, unread=unread)
    named = {*manifest["files"], MANIFEST}
    for path in folder.rglob("*"):
        # Python leaves a __pycache__ where a bundle's client is imported
        if path.parent.name == "__pycache__" or not path.is_file():
            continue
        if path.relative_to(folder).as_posix() not in named:
            raise IntegrityError(f"{path}: not named in {MANIFEST}; remove it")
    return manifest


def verify_named(folder: Path, kind: str, *, unread: Collection[str] = ()) -> dict[str, Any]:
    """As `verify`, for a folder that others write to as well: files not named are let be.

    Raises:
        IntegrityError: the first named file that differs, by name.
    """
    manifest = read_manifest(folder, kind)
    for name, expected in manifest["files"].items():
        if name not in unread and sha256(folder / name) != expected["sha256"]:
            raise IntegrityError(
                f"{folder / name}: its content is not what {MANIFEST} says (SHA-256 differs); "
                f"make {folder} again or copy it again"
            )
    return manifest


def remove(folder: Path) -> None:
    """Takes a finished folder away; whoever looks meanwhile finds it whole or not at all."""
    retired = folder.parent / f".{folder.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}-removed"
    folder.rename(retired)
    shutil.rmtree(retired)


@contextmanager
def locked(folder: Path, held: Callable[[], str]) -> Iterator[None]:
    """Keeps other processes from writing to a folder; the system drops the lock if this one dies.

    Args:
        held: says what to tell a person where another process has it.

    Raises:
        ConfigError: another process writes to it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(held()) from error
        yield
    finally:
        os.close(descriptor)


def identity(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the names and hashes of a folder's files: equal content, equal identity."""
    lines = sorted(f"{name} {file['sha256']}" for name, file in manifest["files"].items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path`; on success it becomes `path`, on failure it vanishes."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield draft
        _flush(draft)
        draft.replace(path)
        _flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _put_in_place(draft: Path, folder: Path) -> None:
    retired = draft.with_name(draft.name + "-replaced")
    if folder.exists():
        folder.rename(retired)
    draft.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(folder: Path) -> dict[str, Any]:
    manifest = _read(folder)
    seal = str(manifest.get("seal", ""))
    text = (folder / MANIFEST).read_bytes()
    unsealed = text.replace(f'"seal": "{seal}"'.encode(errors="replace"), b'"seal": ""')
    if hashlib.sha256(unsealed).hexdigest() != seal:
        raise IntegrityError(
            f"{folder / MANIFEST}: its content is not what its seal says (SHA-256 differs); "
            f"make {folder} again or copy it again"
        )
    return manifest


def _read(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except ValueError as error:
        raise IntegrityError(
            f"{folder / MANIFEST}: not readable as JSON ({error}); make {folder} again"
        ) from error
    if not isinstance(manifest, dict):
        raise IntegrityError(f"{folder / MANIFEST}: expected a JSON object; make {folder} again")
    return manifest
