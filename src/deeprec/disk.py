"""What a disk has room for, and what it says where something cannot be written."""

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from deeprec.errors import ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
ANY = (*errno.errorcode,)
FEW_FILES = 100  # inodes; less than a checkpoint and what is beside it may take


class DiskHangsError(ResourceError):
    """What was to be written is neither written nor refused; nothing more is asked of that disk."""


@contextmanager
def written(
    path: Path, needed: int | None = None, *, refused: Collection[int] = REFUSED
) -> Iterator[None]:
    """Makes an error for a person of what the system says while something is written to a place.

    Args:
        path: the place; it need not be there yet.
        needed: bytes that are about to be written; None: few.
        refused: numbers of what the system says that are told besides a full disk; `ANY` where the
            block only makes a place to write to.

    Raises:
        ResourceError: it is full, read-only, not ours or broken; what is free is told.
    """
    if needed is not None and needed > free_bytes(path):
        raise ResourceError(_full(path, needed))
    try:
        with with_room(path, needed):
            yield
    except OSError as error:
        if error.errno in refused:
            raise ResourceError(f"{path} cannot be written: {error}") from error
        raise


@contextmanager
def with_room(path: Path, needed: int | None = None) -> Iterator[None]:
    """As `written`, for a block that reads as well: only a full disk is told of.

    Raises:
        ResourceError: it is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(f"{_full(path, needed)} ({error.strerror})") from error
        raise


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where this path is or will be."""
    return shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place


def _full(path: Path, needed: int | None) -> str:
    files = os.statvfs(_existing(path))
    # a draft that was dropped has given its inodes back by now, and its bytes
    few = files.f_favail < FEW_FILES and needed is not None and needed < free_bytes(path)
    if files.f_files and (not files.f_favail or few):
        return f"{path}: no room on this disk for one more file (no inode is free). Remove some"
    asked = "" if needed is None else f"{needed:,} bytes are needed, "
    return (
        f"{path}: no room on this disk; {asked}{free_bytes(path):,} are free. Make room, or move "
        "the folder to another disk"
    )
