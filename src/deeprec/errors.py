"""What can go wrong and what a process says to its caller about it.

Every error that a person can mend is one of these; its message gives the rule, the value and the
way out. The command line prints the message alone and exits with `exit_code`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class DeeprecError(Exception):
    """An error a person can mend."""

    exit_code = 1


class ConfigError(DeeprecError):
    """The command or its config is wrong; nothing was read or written."""

    exit_code = 2


class DataError(DeeprecError):
    """The events, or a file made from them, are not what they must be."""

    exit_code = 3


class IntegrityError(DeeprecError):
    """A prepared folder, checkpoint or bundle is not what its manifest says."""

    exit_code = 4


class ResourceError(DeeprecError):
    """Memory or disk does not suffice."""

    exit_code = 5


class NonFiniteError(DeeprecError):
    """A loss or a score is NaN or infinite."""

    exit_code = 6


class Interrupted(DeeprecError):  # noqa: N818  # a request, no error
    """A signal asked the process to stop, and it did so in good order."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # 130 for SIGINT, 143 for SIGTERM


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that a misspelt word most likely meant, if one is near."""
    return next(iter(get_close_matches(word, sorted(choices), n=1)), None)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The way out of a misspelt word: the nearest choice, or all of them where none is near.

    Example:
        >>> did_you_mean("sead", ["seed", "output_dir"])
        "did you mean 'seed'?"
        >>> did_you_mean("x", ["seed", "output_dir"])
        'choose from output_dir, seed'
    """
    known = sorted(choices)
    near = nearest(word, known)
    if near:
        return f"did you mean {near!r}?"
    return f"choose from {', '.join(known)}" if known else "there are none to choose from"
