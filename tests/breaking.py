"""Ways to break what deeprec wrote or is told, drawn at random."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deeprec import config
from deeprec.errors import ConfigError
from deeprec.verb import TrainConfig

VALUES = ("three", "-1", "0", "null", "[]", "{a: 1}", "1e9", "true", "0.5", "nan", "[1,x]", "''")
LETTERS = "abcdefghijklmnopqrstuvwxyz_"
PIECES = (
    *(
        b"null",
        b"{}",
        b"[]",
        b"-1",
        b"NaN",
        b"1e999",
        b"true",
        b'""',
        b'"',
        b"{",
        b"]",
        b"\0",
        b"\n",
    ),
    *(
        b"\xff\xfe",
        b"!!python/object/apply:os.system [id]",
        b"${oc.env:HOME}",
        b"&a [*a]",
        b": ",
        b",",
    ),
    *(b"9" * 400, b"[" * 5000, "\u2028".encode(), b"../../x", b"%n%s"),
)
PLACES = ("prepared=known", "output_dir=known")


@contextmanager
def flipped_bit(root: Path, draw: random.Random) -> Iterator[str]:
    """One bit of one file under a folder is another for a while; says which."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    path = draw.choices(files, [file.stat().st_size for file in files])[0]
    sound = path.read_bytes()
    place, bit = draw.randrange(len(sound)), draw.randrange(8)
    damaged = bytearray(sound)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        yield f"bit {bit} of byte {place} of {path.name}"
    finally:
        path.write_bytes(sound)


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a config by its dotted path."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def mutated_word(known: Sequence[str], draw: random.Random) -> str:
    """An override that somebody might give by mistake."""
    path = draw.choice(known)
    for _ in range(draw.choice((0, 1, 1, 2))):
        path = _misspelt(path, draw)
    return f"{draw.choice(('', '', '', '+', '++'))}{path}={draw.choice(VALUES)}"


def dropped_key(word: str) -> str | None:
    """What of this word a run would start without; None: it is refused, or taken as it is."""
    path, _, value = word.lstrip("+").partition("=")
    try:
        composed = config.compose("train", [*PLACES, word])
    except ConfigError:
        return None
    assert isinstance(composed, TrainConfig)
    found: Any = config.to_dict(composed)
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return f"{word}: {path} is nowhere in the config of the run"
        found = found[name]
    return None if _same(found, value) else f"{word}: the run has {found!r}"


def _same(found: object, given: str) -> bool:
    """Whether a value is what a person would say was asked for."""
    plain = {"null": None, "true": True, "''": "", "[]": [], "{a: 1}": {"a": 1}}
    if given in plain:
        return found == plain[given] or found == given
    if isinstance(found, str):
        return found == given
    return str(found) == given or (
        isinstance(found, (int, float)) and (str(float(found)) == str(float(given)))
    )


def _misspelt(path: str, draw: random.Random) -> str:
    place = draw.randrange(len(path))
    changes = (
        path[:place] + path[place + 1 :],
        path[:place] + draw.choice(LETTERS) + path[place:],
        path[:place] + draw.choice(LETTERS) + path[place + 1 :],
        path.split(".")[-1],
        f"{path}.{draw.choice(('extra', 'lr'))}",
        path.replace(".", "_"),
    )
    return draw.choice(changes) or "x"


def garbled(sound: bytes, draw: random.Random) -> bytes:
    """Bytes as a bad editor, a bad disk or somebody with bad intent leaves them."""
    place = draw.randrange(len(sound) + 1)
    other = draw.randrange(len(sound) + 1)
    some = draw.choice(PIECES)
    changes = (
        sound[:place],
        sound[:place] + draw.randbytes(draw.randint(1, 8)) + sound[place:],
        sound[:place] + draw.randbytes(1) + sound[place + 1 :],
        sound[:place] + some + sound[place:],
        sound[:place] + some + sound[place + len(some) :],
        sound[: min(place, other)] + sound[max(place, other) :],
        sound[:place] + sound[min(place, other) : max(place, other)] + sound[place:],
        b"",
    )
    return draw.choices(changes, (2, 2, 3, 3, 3, 2, 2, 0.2))[0]
