"""Folders that are either whole or absent: what every verb writes and reads.

A folder is written under a temporary name beside its place, each file is hashed into
`manifest.json`, which is written last, and one rename puts it in place. A folder without a manifest
was never finished; a file that differs from the manifest is damaged. Both are errors that name it.
The manifest's own `seal` is the SHA-256 of its text with the seal left empty.

A process may die at any instruction of this file and leaves the old folder or the new one, and at
most one draft, which the next writer takes away. To show it, tests let it die at each `passing`.
"""

import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from deeprec import disk
from deeprec.errors import ConfigError, IntegrityError

FORMAT = 1
MANIFEST = "manifest.json"
CRASH = "DEEPREC_CRASH_AT"  # POINT or POINT:N, for tests: the Nth passing of it is the last
EXCHANGE = 2  # RENAME_EXCHANGE of Linux: two folders change names in one step

log = logging.getLogger(__name__)


class DamagedError(IntegrityError):
    """A folder that is not whole.

    Args:
        what: is wrong with it, and where.
        way_out: what a person can do; a run that has another checkpoint does without.
    """

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what}; {way_out}")
        self.what = what


_passed: dict[str, int] = {}


def passing(point: str) -> None:
    """A moment at which a test may let the process die, as power or `kill -9` would."""
    asked, _, number = os.environ.get(CRASH, "").partition(":")
    if asked == point:
        _passed[point] = _passed.get(point, 0) + 1
        if _passed[point] == int(number or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(
    folder: Path,
    kind: str,
    manifest: dict[str, Any],
    *,
    needed: int | None = None,
    parents: bool = True,
) -> Iterator[Path]:
    """Yields an empty folder to fill; on success it becomes `folder`, on failure it vanishes.

    `manifest` may be filled while the folder is; it is written after the block, with the hash of
    every file. A finished folder of the same kind at that place is replaced; anything else is kept.
    `needed` bytes are told of where the disk is full. Without `parents` the folder around it must
    be there.

    Raises:
        ConfigError: something that is not a finished folder of this kind is in the way.
        ResourceError: the disk is full, or may not be written.
    """
    folder = folder.absolute()
    refuse_to_replace(folder, kind)
    with disk.with_room(folder, needed), drafting(folder, parents=parents) as draft:
        yield draft
        passing("filled")
        seal(draft, kind, manifest)
        passing("sealed")
        _put_in_place(draft, folder)


@contextmanager
def drafting(folder: Path, *, parents: bool = True) -> Iterator[Path]:
    """Yields an empty folder beside `folder`; if it is there still afterwards, it vanishes.

    Drafts of the same folder whose writers have died are taken away first.
    """
    draft = _draft_of(folder)
    with ExitStack() as held:
        with disk.written(folder, refused=disk.ANY):
            if parents:
                folder.parent.mkdir(parents=True, exist_ok=True)
            clear_abandoned(folder)
            draft.mkdir()
            held.enter_context(locked(draft, lambda: f"{draft} is another's"))
        passing("draft begun")
        try:
            yield draft
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
    files, paths = {}, sorted(paths)
    for path in paths:
        _flush(path)
        passing("file flushed")
        files[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
    for inner in {path.parent for path in paths} - {folder}:
        _flush(inner)
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


def refuse_inside(path: Path) -> None:
    """Nothing may be put into a finished folder, whose manifest would not name it.

    A run is none of these: it lives on, and reports are put into it.

    Raises:
        ConfigError: naming the folder.
    """
    for around in path.absolute().parents:
        if (around / MANIFEST).is_file() and (kind := _kind_of(around)) not in (None, "run"):
            raise ConfigError(
                f"{path} would lie inside {around}, a finished {kind} folder, which it would "
                "damage; give another place, beside it"
            )


def _kind_of(folder: Path) -> str | None:
    """The kind that a manifest tells; None: it is none of ours, as other programs have such too."""
    with suppress(OSError, ValueError):
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and {"format", "kind", "seal"} <= manifest.keys():
            return str(manifest["kind"])
    return None


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished folder of this kind; sizes are compared, hashes are not.

    Raises:
        ConfigError: there is no such folder, or it is of another kind.
        IntegrityError: the folder is unfinished, or a file is missing or has another size.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; expected a {kind} folder")
    if not (folder / MANIFEST).is_file():
        raise DamagedError(
            f"{folder}: no {MANIFEST}, so this is not a finished {kind} folder", "make it again"
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
        _refuse_outside(folder, name)
        if not path.is_file():
            raise DamagedError(f"{path}: named in {MANIFEST} but missing", f"make {folder} again")
        if path.stat().st_size != expected["bytes"]:
            raise DamagedError(
                f"{path}: {path.stat().st_size} bytes, but {MANIFEST} says {expected['bytes']}",
                f"make {folder} again",
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
            raise DamagedError(
                f"{folder / name}: its content is not what {MANIFEST} says (SHA-256 differs)",
                f"make {folder} again or copy it again",
            )
    return manifest


def place(draft: Path, folder: Path) -> None:
    """Gives a draft its place, where there is nothing or an empty folder.

    Raises:
        ConfigError: another process has put something there.
    """
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise ConfigError(f"{folder} was just taken by another process") from error
    _flush(folder.absolute().parent)


def remove(folder: Path) -> None:
    """Takes a finished folder away; whoever looks meanwhile finds it whole or not at all."""
    retired = _draft_of(folder)
    folder.rename(retired)
    passing("retired")
    shutil.rmtree(retired)


def clear_drafts(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Takes away what writers of these names in `folder` left that died; none may be alive."""
    for name in names:
        for left in folder.glob(f".{name}.tmp-*"):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def clear_abandoned(path: Path) -> None:
    """Takes away the drafts of one folder or file whose writers have died; others are let be."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        if left.name.endswith("-replaced") and not path.exists():
            continue  # the only copy there is: the writer died between two renames
        with suppress(ConfigError, OSError), locked(left, lambda: "in use"):
            shutil.rmtree(left)


@contextmanager
def locked(folder: Path, held: Callable[[], str]) -> Iterator[int]:
    """Keeps other processes from writing to a folder; the system drops the lock if this one dies.

    Args:
        held: says what to tell a person where another process has it.

    Yields:
        A descriptor of the folder, wherever it is moved.

    Raises:
        ConfigError: another process writes to it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(held()) from error
        except OSError as error:  # NFS, for one, locks no folders
            log.warning(
                "%s cannot be locked here (%s): let no two commands write it", folder, error
            )
        yield descriptor
    finally:
        os.close(descriptor)


def place_of(descriptor: int) -> Path | None:
    """Where an opened folder is now; None: nowhere, or the system does not tell."""
    try:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # of Linux
        return place if os.path.samestat(place.stat(), os.fstat(descriptor)) else None
    except OSError:
        return None


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of a folder."""
    try:
        with locked(folder, lambda: ""):
            return False
    except ConfigError:
        return True


def identity(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the names and hashes of a folder's files: equal content, equal identity."""
    lines = sorted(f"{name} {file['sha256']}" for name, file in manifest["files"].items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` for a new file; on success it becomes `path`, else it vanishes.

    Raises:
        ConfigError: a folder is in the way.
        ResourceError: the disk is full, or the file cannot be made at that place.
    """
    path = path.absolute()
    with disk.written(path, refused=disk.ANY):
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; expected a file, or a place where none is yet")
    with drafting(path) as room:  # a folder, for it can be locked while others write into it
        draft = room / path.name
        with disk.with_room(path):
            draft.touch()
            yield draft
        passing("file written")
        with disk.written(path):
            _flush(draft)
            draft.replace(path)
        passing("file renamed")
        _flush(path.parent)


def _draft_of(path: Path) -> Path:
    return path.parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"


def _put_in_place(draft: Path, folder: Path) -> None:
    if not folder.exists():
        draft.rename(folder)
    elif not _exchange(draft, folder):
        retired = draft.with_name(draft.name + "-replaced")
        folder.rename(retired)
        draft.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)
    passing("renamed")
    _flush(folder.parent)
    passing("committed")


def _exchange(draft: Path, folder: Path) -> bool:
    """Lets two folders change names in one step; False: this system or its disk cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here = -100  # AT_FDCWD
    names = os.fsencode(draft), os.fsencode(folder)
    return rename is not None and rename(here, names[0], here, names[1], EXCHANGE) == 0


def _refuse_outside(folder: Path, name: str) -> None:
    """A manifest names files of its own folder only."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        raise IntegrityError(f"{folder / MANIFEST}: names {name!r}, which lies outside {folder}")


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
        raise DamagedError(
            f"{folder / MANIFEST}: its content is not what its seal says (SHA-256 differs)",
            f"make {folder} again or copy it again",
        )
    return manifest


def _read(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{folder / MANIFEST}: not readable as JSON ({error})", f"make {folder} again"
        ) from error
    if not isinstance(manifest, dict):
        raise DamagedError(f"{folder / MANIFEST}: expected a JSON object", f"make {folder} again")
    return manifest
