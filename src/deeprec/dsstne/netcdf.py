"""NetCDF-4 files, opened with errors in words, and what is asked of their attributes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from deeprec import folder
from deeprec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from netCDF4 import Dataset


Choice = TypeVar("Choice", bound=IntEnum)


class Attributes:
    """The global attributes of a file; a missing one is an error that names it.

    Args:
        path: of the file, for errors.
        values: name -> value.
    """

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self.values = path, values

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str) -> str:
        return str(self._of(name, None))

    def whole(self, name: str, default: int | None = None) -> int:
        found = self.real(name, default)
        if found != int(found):
            raise self._wrong(name, "a whole number")
        return int(self._of(name, default))

    def real(self, name: str, default: float | None = None) -> float:
        found = self._of(name, default)
        if np.ndim(found) or isinstance(found, str) or not math.isfinite(found):
            raise self._wrong(name, "a finite number")
        return float(found)

    def one_of(self, choices: type[Choice], name: str, default: int | None = None) -> Choice:
        found = self.whole(name, default)
        if found not in {*choices}:
            known = ", ".join(f"{int(one)} ({one.name})" for one in choices)
            raise self._wrong(name, f"one of {known}")
        return choices(found)

    def _wrong(self, name: str, rule: str) -> DataError:
        return DataError(f"{self.path}: {name} must be {rule}, got {self.values[name]!r}")

    def _of(self, name: str, default: Any) -> Any:
        found = self.values.get(name, default)
        if found is None:
            raise DataError(f"{self.path}: has no attribute {name!r}, so it is no file of DSSTNE")
        return found


@contextmanager
def reading(path: Path) -> Iterator[tuple["Dataset", Attributes]]:
    """A file opened for reading, and its global attributes.

    Raises:
        ConfigError: netCDF4 is not installed.
        DataError: the file cannot be read as NetCDF.
    """
    _need_library()
    from netCDF4 import Dataset

    try:
        opened = Dataset(str(path), "r")
    except OSError as error:
        raise DataError(f"{path}: cannot be read as NetCDF-4 ({error})") from error
    with opened as file:
        file.set_auto_mask(False)  # a value that happens to be the fill value is a value
        yield file, Attributes(path, {name: file.getncattr(name) for name in file.ncattrs()})


@contextmanager
def writing(path: Path) -> Iterator["Dataset"]:
    """A new file, put in place whole or not at all.

    Raises:
        ConfigError: netCDF4 is not installed.
    """
    _need_library()
    from netCDF4 import Dataset

    with folder.writing_file(path) as draft, Dataset(str(draft), "w", format="NETCDF4") as file:
        yield file


def column(file: "Dataset", path: Path, name: str) -> npt.NDArray[Any]:
    """All of a variable, one number after the other."""
    if name not in file.variables:
        raise DataError(f"{path}: has no variable {name!r}, so it is no file of DSSTNE")
    try:
        found = np.asarray(file.variables[name][:]).reshape(-1)
    except (OSError, RuntimeError, MemoryError) as error:
        raise DataError(f"{path}: variable {name!r} cannot be read ({error})") from error
    if found.dtype.kind not in "iuf":
        raise DataError(f"{path}: variable {name!r} must hold numbers, got {found.dtype}")
    return found


def size(file: "Dataset", path: Path, name: str) -> int:
    """The length of a dimension."""
    if name not in file.dimensions:
        raise DataError(f"{path}: has no dimension {name!r}, so it is no file of DSSTNE")
    return len(file.dimensions[name])


def put(file: "Dataset", name: str, dimension: str, values: npt.NDArray[Any]) -> None:
    """Writes a variable along a dimension that is there already."""
    variable = file.createVariable(name, cast(Any, values.dtype.str[1:]), (dimension,))
    variable[:] = values


def _need_library() -> None:
    if find_spec("netCDF4") is None:
        raise ConfigError(
            "files of DSSTNE need netCDF4, which is not installed; pip install 'deeprec[dsstne]'"
        )
