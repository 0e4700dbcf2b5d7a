"""Versions of a bundle: a folder of bundles named by numbers, one of which is served.

    bundles/groceries/1/        a bundle, as export wrote it; never changed
    bundles/groceries/2/        the same without an item, as `deeprec bundle retire` wrote it
    bundles/groceries/current   the number that is served; where there is none, the highest

Torch is not needed here, and a version that is being written is none yet.
"""

from pathlib import Path

from deeprec import folder
from deeprec.errors import ConfigError

CURRENT = "current"


def numbers(path: Path) -> list[int]:
    """The versions in a folder, ascending; empty where it holds none.

    Example:
        >>> numbers(Path("no such folder"))
        []
    """
    if not path.is_dir():
        return []
    found = (child for child in path.iterdir() if child.name.isascii() and child.name.isdigit())
    return sorted(int(child.name) for child in found if (child / folder.MANIFEST).is_file())


def current(path: Path) -> Path:
    """The bundle that is served from `path`: itself, or the current one of its versions.

    Raises:
        ConfigError: it holds no version, or the one that `current` names is not there.
    """
    if (path / folder.MANIFEST).is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such folder")
    known = numbers(path)
    if not known:
        raise ConfigError(f"{path}: neither a bundle nor a folder of bundles named 1, 2, ...")
    pointer = path / CURRENT
    if not pointer.is_file():
        return path / str(known[-1])
    said = pointer.read_text(encoding="utf-8").strip()
    if said not in map(str, known):
        raise ConfigError(
            f"{pointer}: says {said[:40]!r}, but the versions here are "
            f"{', '.join(map(str, known))}; say which with `deeprec bundle rollback {path} to=...`"
        )
    return path / said


def point(path: Path, number: int) -> None:
    """Makes a version the current one, at once or not at all."""
    with folder.writing_file(path / CURRENT) as draft:
        draft.write_text(f"{number}\n", encoding="utf-8")


def following(bundle: Path) -> Path:
    """Where the version after all others goes, beside one of them.

    Raises:
        ConfigError: the bundle is not named by a number, so it is no version of anything.
    """
    if not bundle.name.isdigit():
        raise ConfigError(
            f"{bundle} is not named by a number, so there is no next one; move it to {bundle}/1 "
            "(or export there), or say output_dir=FOLDER"
        )
    return bundle.with_name(str(max(numbers(bundle.parent)) + 1))


def name_of(bundle: Path) -> tuple[str, int]:
    """What a bundle is called, and its version; 1 where it is no version of anything.

    Example:
        >>> name_of(Path("bundles/groceries/12")), name_of(Path("bundles/trial"))
        (('groceries', 12), ('trial', 1))
    """
    path = bundle.absolute()
    if path.name.isdigit():
        return path.parent.name, int(path.name)
    return path.name, 1
