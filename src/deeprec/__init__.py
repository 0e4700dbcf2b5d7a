"""deeprec trains sparse-embedding recommenders and hands them to production."""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeprec.serve import Bundle

__version__ = "0.1.0"


def load(bundle: str | PathLike[str], *, verify: bool = True, device: str = "cpu") -> "Bundle":
    """Opens a bundle for asking: `deeprec.load("bundle").recommend([["bread", "milk"]], k=10)`.

    As `deeprec.serve.load`, which is imported only now: `import deeprec` alone stays light. Of a
    folder of versions it is the current one.
    """
    from pathlib import Path

    from deeprec import versions
    from deeprec.serve import load as load_bundle

    path = Path(bundle)
    if versions.numbers(path):
        path = versions.current(path)
    return load_bundle(path, verify=verify, device=device)
