"""A version of a bundle that is served: verified, and asked its golden requests."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from deeprec import bundle, folder, serve, versions
from deeprec.errors import IntegrityError
from deeprec.serve import Bundle
from deeprec.server.catalog_search import CatalogSearch


@dataclass(frozen=True)
class Opened:
    """What a request is answered from, from its beginning to its end."""

    name: str
    version: str
    identity: str
    bundle: Bundle
    catalog: CatalogSearch


def open_version(path: Path, name: str | None, device: str) -> Opened:
    """Loads a bundle once nothing speaks against it.

    Args:
        path: the bundle.
        name: what it is called; None: as its folder.
        device: where its model answers.

    Raises:
        ConfigError: there is no such bundle.
        IntegrityError: a file is damaged, or a golden request is answered otherwise.
    """
    manifest = bundle.verify(path)
    opened = serve.load(path, verify=False, device=device)
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # as in batcher.py
        differences = list(opened.golden())
    if differences:
        raise IntegrityError(f"{path}: golden request {differences[0]}")
    called, version = versions.name_of(path)
    return Opened(
        name=name or called,
        version=str(version),
        identity=folder.identity(manifest),
        bundle=opened,
        catalog=CatalogSearch(path / bundle.CATALOG),
    )


class Contents(NamedTuple):
    """What can be seen of the files of a folder without reading any."""

    path: Path
    files: frozenset[tuple[str, int, int]]  # name, bytes, nanoseconds of its last change


def contents(path: Path) -> Contents:
    """Another one when a file comes, goes or changes."""
    files = ((str(file), file.stat()) for file in path.rglob("*") if file.is_file())
    # of the inode: a copy that keeps the times of its source sets the other one back
    return Contents(path, frozenset((name, one.st_size, one.st_ctime_ns) for name, one in files))


def fingerprint(path: Path) -> str:
    """Changes when the bundle at `path` is another one."""
    return f"{path} {hashlib.sha256((path / folder.MANIFEST).read_bytes()).hexdigest()}"
