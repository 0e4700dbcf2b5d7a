"""`deeprec <verb> [key=value ...]`: compose, check, call the verb of the same name."""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from deeprec import __version__
from deeprec.errors import ConfigError, DeeprecError, did_you_mean

if TYPE_CHECKING:
    from deeprec.verb import VerbConfig

VERBS = (
    *("prepare", "train", "sweep", "blend", "refit", "evaluate", "export", "recommend"),
    *("neighbours", "serve", "bundle", "doctor", "dsstne"),
)
MODULES = {"serve": "deeprec.server.process"}  # deeprec.serve is the client, which may be copied
OPTIONS = ("--multirun", "--config-dir", "--cfg", "--help")
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + the signal, as a shell says it


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, after one message if a person can mend it."""
    _open_what_is_closed()
    try:
        code = _command(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except DeeprecError as error:
        print("\n".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"the name of a file is too long; shorten it: {error.filename}", file=sys.stderr)
        return ConfigError.exit_code


def _open_what_is_closed() -> None:
    """A process started without an output (`>&-`) would take the next file it opens for one."""
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(nowhere)
    if sys.stdout is None:
        sys.stdout = open(1, "w")  # noqa: SIM115  # as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w")  # noqa: SIM115  # likewise


def _command(arguments: list[str]) -> int:
    verb, *words = arguments or ["--help"]
    if verb in ("-h", "--help", "help"):
        return _show_help(words)
    if verb in ("-V", "--version"):
        print(f"deeprec {__version__}")
        return 0
    if verb not in VERBS:
        raise ConfigError(f"deeprec has no verb {verb!r}; {did_you_mean(verb, VERBS)}")
    if verb == "dsstne":  # whose commands have flags, and their own help
        from deeprec.dsstne import command

        return command.run(words)
    if "-h" in words or "--help" in words:
        return _show_help([verb, *words])
    if verb == "bundle":
        importlib.import_module("deeprec.operation.command").run(words)
        return 0
    return _doctor(words) if verb == "doctor" else _run(verb, words)


def _show_help(words: Sequence[str]) -> int:
    from deeprec import manual  # what only help needs

    if words and words[0] in VERBS:
        print(manual.page(words[0], words[1:]))
    else:
        print(manual.overview())
    return 0


def _doctor(words: Sequence[str]) -> int:
    """Must run in an installation where nothing else does, so nothing else is imported."""
    if words:
        raise ConfigError(f"deeprec doctor takes no {' '.join(words)}")
    code: int = importlib.import_module("deeprec.doctor").run()
    return code


def _run(verb: str, words: Sequence[str]) -> int:
    options = _options(words)
    if options.multirun and verb in ("sweep", "serve"):
        raise ConfigError(f"deeprec {verb} is one command for all; leave -m out")
    if options.multirun:
        from deeprec.multirun import multirun

        multirun(verb, options.words, lambda config: call(verb, config), options.config_dir)
        return 0
    from deeprec import config

    one = config.compose(verb, options.words, config_dir=options.config_dir)
    if options.cfg:
        print(config.to_yaml(one), end="")
        return 0
    call(verb, one)
    return 0


def call(verb: str, config: "VerbConfig") -> Any:
    """What the verb returns.

    Torch and the rest are imported here, once the config is known to be right.
    """
    module = importlib.import_module(MODULES.get(verb, f"deeprec.{verb}"))
    return getattr(module, verb)(config)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("words", nargs="*")
    options, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        raise ConfigError(f"{unknown[0]}: unknown option; {did_you_mean(unknown[0], OPTIONS)}")
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)
