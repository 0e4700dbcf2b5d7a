"""What `deeprec --help` and `deeprec <verb> --help` say.

Nothing is told twice: a field's meaning is the comment beside it in verb.py, a choice's is the
first comment of its file.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from deeprec import __version__, composition, config
from deeprec.annotation import describe
from deeprec.config import configs_dir
from deeprec.errors import ConfigError, did_you_mean
from deeprec.schema import default_of, plain_fields
from deeprec.verb import VERBS, VerbConfig

WIDTH = 100  # columns
INDENT = 26


OTHERS = {  # verbs without a config
    "bundle": "Verify and inspect a bundle; retire, add or rename its items without training.",
    "doctor": "Check this installation, and print the line that mends it.",
    "dsstne": "Run DSSTNE's commands on its files and networks; see deeprec dsstne -h.",
}
BUNDLE = """\
usage: deeprec bundle <operation> ...     FOLDER is a bundle, or a folder of bundles named 1, 2, ...

operations
  verify FOLDER           compare every file with its hash, ask every golden request
  inspect FOLDER          show what it is, what it was made from, what it holds
  diff FOLDER FOLDER      show which items, golden answers and files differ
  retire ITEM ... bundle=FOLDER            never recommend it again, still read it in histories
  add ITEM like=[ITEM,...] bundle=FOLDER   add an item, as the mean of those it is like
  rename OLD NEW bundle=FOLDER             give an item another id
  rollback FOLDER [to=NUMBER]              make a former version the current one again

retire, add and rename write the next version beside the one they start from (bundles/shop/2 beside
bundles/shop/1), or into output_dir=FOLDER, and print what differs. Nothing is overwritten, and an
index is never given to another item. If a golden request would be answered with other items than
those of the change, nothing is written.

examples
  deeprec bundle verify bundles/shop
  deeprec bundle retire sku-17 bundle=bundles/shop
  deeprec bundle add sku-99 like=[sku-17,sku-18] bundle=bundles/shop
"""
EXAMPLES = {
    "prepare": (
        "deeprec prepare data=complete_journey output_dir=prepared/cj",
        "deeprec prepare data=table data.events=events.csv data.user=user_id data.item=item_id "
        "output_dir=prepared/mine",
        "deeprec prepare data=complete_journey split=leave_last_out output_dir=prepared/last",
    ),
    "train": (
        "deeprec train prepared=prepared/cj output_dir=runs/first experiment=complete_journey",
        "deeprec train prepared=prepared/cj output_dir=runs/second loss=marginal seed=2",
        "deeprec train -m seed=1,2,3 prepared=prepared/cj output_dir='runs/s${seed}'",
        "deeprec train resume=runs/first",
    ),
    "sweep": (
        "deeprec sweep prepared=prepared/cj minutes=30 experiment=complete_journey",
        "deeprec sweep prepared=prepared/ml minutes=10 sweep=linear workers=2",
        "deeprec sweep prepared=prepared/ml trials=40 trainer.max_epochs=5 model.hidden_dims=[256]",
    ),
    "blend": ("deeprec blend runs=[runs/first,runs/second] output_dir=runs/both",),
    "refit": ("deeprec refit run=runs/both prepared=prepared/everything output_dir=runs/final",),
    "evaluate": (
        "deeprec evaluate run=runs/first",
        "deeprec evaluate run=runs/first part=validation cutoffs=[20]",
        "deeprec evaluate recommendations=lists.parquet prepared=prepared/cj "
        "output_dir=reports/mine",
    ),
    "export": ("deeprec export run=runs/first output_dir=bundles/first",),
    "recommend": (
        "deeprec recommend bundle=bundles/first histories=prepared/cj output=lists.parquet k=20",
        "deeprec recommend bundle=bundles/first histories=events.csv output=lists.parquet "
        "user=customer item=sku",
    ),
    "serve": (
        "deeprec serve bundle=bundles/first port=8080",
        "deeprec serve bundle=bundles/shop host=0.0.0.0 page=false",
    ),
    "neighbours": (
        "deeprec neighbours run=runs/first output=items.txt",
        "deeprec neighbours run=runs/first output=users.txt of=users similarity=cosine k=10",
    ),
}


def overview() -> str:
    """All verbs, in the order of the road."""
    verbs = "\n".join(_row(verb, summary(verb)) for verb in (*VERBS, *OTHERS))
    return f"""\
deeprec {__version__}: trains recommenders on large, sparse catalogs and exports them for serving

usage: deeprec <verb> [key=value ...]      deeprec <verb> --help      deeprec --version

verbs
{verbs}

from events to recommendations; each verb reads what the one before it wrote
{_examples([lines[0] for lines in EXAMPLES.values()])}"""


def page(verb: str, words: Sequence[str] = ()) -> str:
    """What one verb does and everything it may be told.

    Args:
        words: `group=choice`, whose settings are then told alone.

    Raises:
        ConfigError: a group has no such choice.
    """
    head = f"deeprec {verb}: {summary(verb)}\n"
    if verb not in VERBS:
        return f"{head}\n{BUNDLE}" if verb == "bundle" else head
    if asked := list(_asked(verb, words)):
        return "\n".join([*asked, f"all that {verb} may be told: deeprec {verb} --help\n"])
    schema, alone = VERBS[verb], verb in ("sweep", "serve")  # one command for all
    comments, hints = field_comments(schema), plain_fields(schema)
    lines = [_field(one, hints[one.name], comments) for one in fields(schema) if one.name in hints]
    return "\n".join(
        [
            head,
            f"usage: deeprec {verb} {'' if alone else '[-m] '}[--config-dir DIR] [--cfg job] "
            "[key=value ...]\n",
            "fields: key=value",
            *lines,
            "",
            *_groups(verb),
            "examples",
            _examples(EXAMPLES[verb]),
            "options",
            *([] if alone else [_row("-m, --multirun", "one run for each value of key=1,2,3")]),
            _row(
                "--config-dir DIR", "a folder with further choices, as in DIR/experiment/mine.yaml"
            ),
            _row("--cfg job", "check and print the whole config without running it"),
        ]
    )


def summary(verb: str) -> str:
    """One line: what a verb reads and writes."""
    return str(VERBS[verb].__doc__) if verb in VERBS else OTHERS[verb]


def field_comments(schema: type[VerbConfig]) -> dict[str, str]:
    """The comment beside each field in the source of a dataclass."""
    source = textwrap.dedent(inspect.getsource(schema))
    lines = source.splitlines()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    comments = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = lines[(node.end_lineno or node.lineno) - 1]
            comments[node.target.id] = last.partition("  # ")[2]
    return comments


def choice_comment(path: Path) -> str:
    """The first sentence of the comment that a config file begins with."""
    head = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    text = " ".join(line.strip("# ") for line in head if "@package" not in line)
    sentence, dot, _ = text.partition(". ")
    return sentence + dot.strip()


def _field(one: Field[Any], hint: Any, comments: dict[str, str]) -> str:
    choices = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal]
    meaning = "; ".join([comments[one.name], *map(describe, choices)])
    default = default_of(one)
    if default == "???":
        return _row(f"{one.name}=...", f"{meaning} (must be given)")
    return _row(f"{one.name}={_as_typed(default)}", meaning)


def _as_typed(value: object) -> str:
    """A value as one types it in an override."""
    if isinstance(value, list):
        return f"[{','.join(map(_as_typed, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _asked(verb: str, words: Sequence[str]) -> Iterator[str]:
    """The settings of each `group=choice` among the words."""
    defaults = config.group_defaults(verb)
    for word in words:
        group, _, choice = word.partition("=")
        if group not in defaults or choice in ("", "null"):
            continue
        choices = composition.choices(group, [configs_dir()])
        if choice in choices:
            file = choices[choice]
            yield f"{word}: {choice_comment(file)}\n"
            yield from _settings(group, file)
            yield f"\nits file: {file}"
        elif not any(other.startswith("--config-dir") for other in words):
            raise ConfigError(f"{word}: there is no such {group}; {did_you_mean(choice, choices)}")


def _groups(verb: str) -> Iterator[str]:
    defaults = config.group_defaults(verb)
    if not defaults:
        return
    yield "groups: group=choice, and group.key=value for a setting of that choice; * is the default"
    told: list[str] = []
    for group, default in defaults.items():
        choices = composition.choices(group, [configs_dir()])
        for choice, file in choices.items():
            star = "*" if choice == default else " "
            yield _row(f"{star} {group}={choice}", choice_comment(file))
            if [choice] == [*choices] == [default]:
                told += ["", f"settings of {group}={choice}", *_settings(group, file)]
    yield f"  The settings of a choice, explained: deeprec {verb} --help <group>=<choice>,"
    yield f"  or {configs_dir()}/<group>/<choice>.yaml"
    yield from told
    yield ""


def _settings(group: str, file: Path) -> Iterator[str]:
    """The settings in a config file, each with the comment beside it."""
    for line in file.read_text().splitlines():
        name, colon, rest = line.partition(": ")
        if not colon or not name.isidentifier() or name.startswith("_"):
            continue  # a comment, what is set deeper, or what the file is of
        value, _, meaning = rest.partition(" # ")
        yield _row(f"{group}.{name}={value.strip()}", meaning.strip())


def _row(left: str, right: str) -> str:
    """A name and its meaning, wrapped in a column of its own."""
    head = f"  {left}"
    wrapped = textwrap.wrap(right, WIDTH - INDENT) or [""]
    if len(head) < INDENT:
        return f"\n{' ' * INDENT}".join([f"{head:{INDENT}}{wrapped[0]}".rstrip(), *wrapped[1:]])
    return f"\n{' ' * INDENT}".join([head, *filter(None, wrapped)])


def _examples(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines) + "\n"
