"""deeprec trains sparse-embedding recommenders and hands them to production."""

import os
from os import PathLike
from typing import TYPE_CHECKING, Any

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


def run(verb: str, *words: str, **settings: Any) -> Any:
    """Runs a verb as `deeprec VERB WORDS` does, from a notebook or a program.

    Args:
        verb: `prepare`, `train`, `sweep`, `blend`, `refit`, `evaluate`, `export`, `recommend`,
            `neighbours` or `serve`.
        words: as on the command line, such as `"trainer.max_epochs=5"`.
        settings: the same by key and value, for keys without a dot: `experiment="auto"`.

    Returns:
        The path of what was made; of `evaluate`, what report.json holds.

    Raises:
        DeeprecError: with the message that the command would end with.

    Example:
        >>> run("train", "trainer.max_epochs=many", prepared="p", output_dir="r")
        Traceback (most recent call last):
        deeprec.errors.ConfigError: deeprec train cannot start:
          - trainer.max_epochs: expected a whole number, got 'many'
    """
    from deeprec import cli, config, override

    plain = {k: os.fspath(v) if isinstance(v, PathLike) else v for k, v in settings.items()}
    said = [override.word_of(key, value) for key, value in plain.items()]
    return cli.call(verb, config.compose(verb, [*words, *said]))
