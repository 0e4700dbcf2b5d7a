"""Answers from a bundle: verify, load, recommend. Needs torch and pyarrow only; may be copied.

    bundle = load("bundles/groceries")
    answer = bundle.recommend([["bread", "milk"]], k=10)[0]
    answer.item_ids, answer.scores

`python serve.py BUNDLE` verifies a bundle and asks it its golden requests.
"""

import hashlib
import json
import math
import sys
import time
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

FORMAT = 1
KIND = "bundle"
NEEDED = ("model.pt", "catalog.parquet", "signature.json", "policy.json", "vocabularies.json")
SECONDS_PER_DAY = 86_400
MANY_ITEMS = 2**20  # of which a dict takes 150 MB, and half a second to make
TOLERANCE = 1e-5  # of a score, relative: what another machine's arithmetic may change

Time = int | float | datetime  # seconds since 1970-01-01 UTC; a datetime without zone is UTC
History = Sequence[str] | Sequence[tuple[str, Time]]
Attributes = Mapping[str, Sequence[str | Sequence[str] | None]]  # each history's value or values


class BundleError(Exception):
    """The folder is not a whole bundle; the message names the file."""


class RequestError(ValueError):
    """A request breaks a rule of the bundle."""


class Answer(NamedTuple):
    """What one history is answered with."""

    item_ids: list[str]  # best first; fewer than k where there are no more candidates
    scores: list[float]
    num_unknown: int  # events of the history whose item the bundle does not know; left out
    user_id: str | None  # None where histories came without


def load(bundle: str | PathLike[str], *, verify: bool = True, device: str = "cpu") -> "Bundle":
    """Opens a bundle for asking.

    Args:
        bundle: the folder.
        verify: compare every file with its SHA-256 before anything in it is run. Without, only the
            manifest itself and the files' sizes are compared.
        device: where the model runs.

    Raises:
        BundleError: the folder is missing, unfinished, damaged or of another kind.
    """
    path = Path(bundle)
    manifest = read_manifest(path)
    check_files(path, manifest, hashes=verify)
    return Bundle(path, manifest, device)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a bundle, if it is what was written."""
    place = path / "manifest.json"
    try:
        text = place.read_bytes()
        manifest = json.loads(text)
    except OSError as error:
        raise BundleError(f"{place}: cannot be read ({error}); is this a bundle?") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{place}: is not JSON ({error}); copy the bundle again") from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{place}: must hold a JSON object; copy the bundle again")
    seal = str(manifest.get("seal", ""))
    unsealed = text.replace(f'"seal": "{seal}"'.encode(errors="replace"), b'"seal": ""')
    if hashlib.sha256(unsealed).hexdigest() != seal:
        raise BundleError(f"{place}: is not what its seal says; copy the bundle again")
    if manifest.get("kind") != KIND or manifest.get("format") != FORMAT:
        raise BundleError(
            f"{path}: expected a {KIND} of format {FORMAT}, this is a {manifest.get('kind')} of "
            f"format {manifest.get('format')}"
        )
    return manifest


def check_files(path: Path, manifest: Mapping[str, Any], *, hashes: bool) -> None:
    """Every file named in the manifest is there and as it was; there is no other."""
    root = path.resolve()
    for name, expected in manifest["files"].items():
        place = path / name
        if not place.resolve().is_relative_to(root):
            raise BundleError(f"{place}: leads out of the bundle")
        if not place.is_file():
            raise BundleError(f"{place}: is missing; copy the bundle again")
        if place.stat().st_size != expected["bytes"]:
            raise BundleError(
                f"{place}: holds {place.stat().st_size} bytes, its manifest says "
                f"{expected['bytes']}; copy the bundle again"
            )
        if hashes and sha256(place) != expected["sha256"]:
            raise BundleError(f"{place}: is not what its SHA-256 says; copy the bundle again")
    files = (p for p in path.rglob("*") if not p.is_dir())
    # what Python leaves where this file is imported inside a bundle is nobody's damage
    found = {p.relative_to(path).as_posix() for p in files if p.parent.name != "__pycache__"}
    for name in sorted(found - {*manifest["files"], "manifest.json"}):
        raise BundleError(f"{path / name}: is not named in the manifest; remove it")
    for name in NEEDED:
        if name not in manifest["files"]:
            raise BundleError(f"{path / name}: every bundle needs one; export it again")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """Loads model.pt, which can run code: only after its hash was compared."""
    with warnings.catch_warnings():
        # torch >= 2.13 calls TorchScript deprecated at each use
        warnings.simplefilter("ignore", DeprecationWarning)
        model: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
            str(path), map_location=device
        )
    return model


class Bundle:
    """A loaded bundle; `load` makes one."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], device: str) -> None:
        self.path, self.manifest, self.device = path, manifest, torch.device(device)
        self.signature: dict[str, Any] = _json(path / "signature.json")
        self.policy: dict[str, Any] = _json(path / "policy.json")
        catalog = pq.read_table(
            path / "catalog.parquet", columns=["item_id"], page_checksum_verification=True
        )
        self.item_ids: pa.Array = catalog["item_id"].combine_chunks()
        self._indices = _Indices(self.item_ids)
        self.vocabularies: dict[str, dict[str, int] | Hashed] = {
            name: Hashed(values["hashed"])
            if isinstance(values, dict)
            else {value: index for index, value in enumerate(values)}
            for name, values in _json(path / "vocabularies.json").items()
        }
        self._model = load_model(path / "model.pt", self.device)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def fields(self) -> list[str]:
        """The user attributes it takes, in the order of the model."""
        return list(self.vocabularies)

    def recommend(
        self,
        histories: Sequence[History] | Mapping[str, History] | pa.Table,
        *,
        k: int = 10,
        exclude_seen: bool | None = None,
        now: Time | None = None,
        attributes: Attributes | None = None,
        denied: Sequence[str] = (),
        allowed: Sequence[str] | None = None,
        batch_users: int = 256,
    ) -> list[Answer]:
        """The k best items for each history.

        Args:
            histories: one of

                - a list of histories. A history is a list of item ids, oldest first, or a list of
                  (item id, time) in any order; it may be empty;
                - a mapping from user id to history;
                - a pyarrow Table with one row per event: user_id, item_id and, where known, time
                  (seconds or a timestamp); without time, its rows are oldest first.
            k: recommendations per history.
            exclude_seen: leave out items of the history; by default as policy.json says.
            now: moment of prediction; by default the present. Only matters where there are times.
            attributes: user attribute -> its value for each history, or a list of its values; None
                where unknown.
            denied: item ids never to be answered.
            allowed: the only item ids that may be answered; None: all of the bundle.
            batch_users: histories ranked at once.

        Returns:
            One Answer per history, in their order; of a table, in the order its users appear.

        Raises:
            RequestError: the request breaks a rule; it is named.
            RuntimeError: a score is not a number, whatever the request.
        """
        if isinstance(histories, pa.Table):
            histories = _histories_of(histories)
        users: list[str | None] = [None] * len(histories)
        if isinstance(histories, Mapping):
            users, histories = list(histories), list(histories.values())
        attributes = self._checked(attributes or {}, len(histories))
        denied_indices = self._listed("denied", denied)
        allowed_indices = None if allowed is None else self._listed("allowed", allowed)
        moment = time.time() if now is None else _seconds(now)
        answers: list[Answer] = []
        for start in range(0, len(histories), batch_users):
            some = slice(start, start + batch_users)
            answers += self._answer(
                users[some],
                histories[some],
                moment,
                {name: values[some] for name, values in attributes.items()},
                denied_indices,
                allowed_indices,
                k,
                exclude_seen,
            )
        return answers

    def rank(
        self,
        items: Tensor,
        offsets: Tensor,
        ages: Tensor | None = None,
        attributes: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        *,
        k: int,
        exclude_seen: bool | None = None,
        denied: tuple[Tensor, Tensor] | None = None,
        allowed: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The model itself, in item indices: one call, within the limits of the policy.

        Args:
            items: int64 [N], item index of each event, user after user, oldest first.
            offsets: int64 [B + 1], user b owns `items[offsets[b]:offsets[b + 1]]`.
            ages: float32 [N], days from each event to the moment of prediction.
            attributes: user attribute -> (value indices int64, offsets int64 [B + 1]).
            k: recommendations per user.
            exclude_seen: leave out items of the history; by default as policy.json says.
            denied: (item indices int64, offsets int64 [B + 1]) never to be answered.
            allowed: (item indices int64, offsets int64 [B + 1], or [2] for one list that holds for
                all users): the only ones that may be answered; None: all.

        Returns:
            int64 [B, k] item indices, -1 where there are no more candidates; float32 [B, k] scores.

        Raises:
            RequestError: an input breaks its rule in signature.json.
            RuntimeError: a score is not a number, whatever the request.
        """
        nothing = (items.new_zeros(0), torch.zeros_like(offsets))
        given = attributes or {}
        rows = [given.get(name, nothing) for name in self.fields]
        denied_items, denied_offsets = denied or nothing
        seen = self.policy["exclude_seen"] if exclude_seen is None else exclude_seen
        try:
            answer: tuple[Tensor, Tensor] = self._model(
                items.to(self.device),
                offsets.to(self.device),
                (torch.zeros(0) if ages is None else ages).to(self.device),
                [values.to(self.device) for values, _ in rows],
                [ends.to(self.device) for _, ends in rows],
                k,
                seen,
                denied_items.to(self.device),
                denied_offsets.to(self.device),
                None if allowed is None else allowed[0].to(self.device),
                None if allowed is None else allowed[1].to(self.device),
            )
        except torch.jit.Error as error:
            # the last line is `builtins.KIND: what is wrong`, those before it the model's source
            kind, _, said = str(error).strip().splitlines()[-1].partition(": ")
            broken = RequestError if kind == "builtins.ValueError" else RuntimeError
            raise broken(said) from None
        return answer[0].cpu(), answer[1].cpu()

    def indices_of(self, item_ids: Sequence[str]) -> list[int]:
        """The item index of each id, -1 for one that the bundle does not know."""
        return [self._indices.index_of(item_id) for item_id in item_ids]

    def _listed(self, name: str, item_ids: Iterable[str]) -> list[int]:
        """The indices of those that the bundle knows, each once."""
        if isinstance(item_ids, str):
            raise RequestError(
                f"{name} is a list of item ids, got the string {item_ids!r}; write [{item_ids!r}]"
            )
        listed = list(item_ids)
        for item_id in listed:
            if not isinstance(item_id, str):
                raise RequestError(
                    f"{name} holds item ids, each a string as catalog.parquet writes it; "
                    f"got {item_id!r}"
                )
        return sorted({*self.indices_of(listed)} - {-1})

    def golden(self) -> Iterator[str]:
        """Asks the golden requests and says, line by line, which answer is not the expected one."""
        requests = _lines(self.path / "golden" / "requests.jsonl")
        for request, expected in zip(
            requests, _lines(self.path / "golden" / "expected.jsonl"), strict=True
        ):
            try:
                items, scores = self.ask(request)
            except (RequestError, RuntimeError) as error:
                yield f"{request['name']}: expected {expected['items']}, got none: {error}"
                continue
            if not same_answer(items, scores, expected["items"], expected["scores"]):
                yield f"{request['name']}: expected {expected['items']}, got {items}"

    def ask(self, request: Mapping[str, Any]) -> tuple[list[int], list[float]]:
        """Item indices and scores for one golden request."""
        indices, ages = self.indices_of(request["item_ids"]), request["ages"]
        known = [place for place, index in enumerate(indices) if index >= 0]
        allowed = request.get("allowed")  # a bundle may be older than this list
        items, scores = self.rank(
            *jagged([[indices[place] for place in known]]),
            None if ages is None else torch.tensor([ages[p] for p in known], dtype=torch.float32),
            self._rows_of_attributes({n: [v] for n, v in request["attributes"].items()}),
            k=request["k"],
            exclude_seen=request["exclude_seen"],
            denied=jagged([self.indices_of(request["denied"])]),
            allowed=None if allowed is None else jagged([self.indices_of(allowed)]),
        )
        found = int((items[0] >= 0).sum())
        return items[0, :found].tolist(), scores[0, :found].tolist()

    def _answer(
        self,
        users: Sequence[str | None],
        histories: Sequence[History],
        moment: float,
        attributes: Attributes,
        denied: list[int],
        allowed: list[int] | None,
        k: int,
        exclude_seen: bool | None,
    ) -> list[Answer]:
        """One batch of `recommend`."""
        timed = _has_times(histories)
        events = [_events(history, timed) for history in histories]
        index = iter(self.indices_of([item for row in events for item, _ in row]))
        known = [[(i, when) for _, when in row if (i := next(index)) >= 0] for row in events]
        ages = [max(moment - when, 0.0) / SECONDS_PER_DAY for row in known for _, when in row]
        items, scores = self.rank(
            *jagged([[i for i, _ in row] for row in known]),
            torch.tensor(ages, dtype=torch.float64).float() if timed else None,
            self._rows_of_attributes(attributes),
            k=k,
            exclude_seen=exclude_seen,
            denied=jagged([denied] * len(histories)),
            allowed=None if allowed is None else jagged([allowed]),
        )
        return [
            Answer(
                self.item_ids.take(pa.array(row[row >= 0].tolist(), pa.int64())).to_pylist(),
                score[row >= 0].tolist(),
                len(before) - len(after),
                user,
            )
            for row, score, before, after, user in zip(
                items, scores, events, known, users, strict=True
            )
        ]

    def _checked(self, attributes: Attributes, num_histories: int) -> Attributes:
        for name, values in attributes.items():
            if name not in self.vocabularies:
                raise RequestError(
                    f"attribute {name!r} is not known; this bundle takes {self.fields or 'none'}"
                )
            if len(values) != num_histories:
                raise RequestError(
                    f"attribute {name!r} needs one value (or None) for each of the "
                    f"{num_histories} histories, got {len(values)}"
                )
        return attributes

    def _rows_of_attributes(self, attributes: Attributes) -> dict[str, tuple[Tensor, Tensor]]:
        rows = {}
        for name, values in attributes.items():
            index_of = self.vocabularies[name]
            rows[name] = jagged([indices_of_values(index_of, value) for value in values])
        return rows


def indices_of_values(index_of: "dict[str, int] | Hashed", said: Any) -> list[int]:
    """The indices of a value, or of several in a list, each once; of what is not known, none.

    >>> indices_of_values({"a": 0, "b": 1}, ["b", "a", "c", "b"]), indices_of_values({}, None)
    ([0, 1], [])
    """
    several = isinstance(said, Iterable) and not isinstance(said, str)
    values = [value for value in (said if several else [said]) if value is not None]
    for value in values:
        if not isinstance(value, str):
            raise RequestError(
                f"a value of an attribute is text, as in vocabularies.json, not {type(value)}"
            )
    return sorted({index_of[value] for value in values if value in index_of})


class Hashed:
    """The rows of an open vocabulary: every text has one, and some share theirs."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str)

    def __getitem__(self, value: str) -> int:
        return hash_row(value, self.rows)


def hash_row(value: str, rows: int) -> int:
    """The row of a value among so many, the same in every process and on every machine.

    It is the BLAKE2b digest of 8 bytes of the value in UTF-8, little-endian, modulo `rows`.

    >>> hash_row("Pécs", 1000)
    655
    """
    digest = hashlib.blake2b(value.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % rows


class _Indices:
    """Item ids to item indices: in a dict, or by halving where a dict would take gigabytes."""

    def __init__(self, item_ids: pa.Array) -> None:
        self._item_ids = item_ids
        rising = pc.less(item_ids.slice(0, max(len(item_ids) - 1, 0)), item_ids.slice(1))
        halve = len(item_ids) > MANY_ITEMS and pc.all(rising).as_py()
        names = [] if halve else item_ids.to_pylist()
        self._index_of = None if halve else {name: index for index, name in enumerate(names)}

    def index_of(self, item_id: str) -> int:
        """-1 for an id that is not among them."""
        if self._index_of is not None:
            return self._index_of.get(item_id, -1)
        place = bisect_left(self._item_ids, item_id, key=pa.StringScalar.as_py)
        here = self._item_ids.slice(place, 1).to_pylist()
        return place if here == [item_id] else -1


def same_answer(
    items: Sequence[int],
    scores: Sequence[float],
    expected_items: Sequence[int],
    expected_scores: Sequence[float],
) -> bool:
    """Whether two answers agree: scores within 1e-5 relative, items equal but for such ties."""
    if len(items) != len(expected_items):
        return False

    def close(a: float, b: float) -> bool:
        return abs(a - b) <= TOLERANCE * max(1.0, abs(a), abs(b))

    last = len(items) - 1
    for place, (item, expected) in enumerate(zip(items, expected_items, strict=True)):
        if not close(scores[place], expected_scores[place]):
            return False
        tied = place == last or any(
            close(expected_scores[place], expected_scores[near])
            for near in (place - 1, place + 1)
            if 0 <= near <= last
        )
        if item != expected and not tied:
            return False
    return True


class Asked:
    """What MLflow asks."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[list[str]]:
        """The best item ids of each row.

        Args:
            model_input: has a column `item_ids`: lists of item ids, oldest first.
            params: of `Bundle.recommend`, such as {"k": 20}.
        """
        histories = [list(row) for row in model_input["item_ids"]]
        return [answer.item_ids for answer in self._bundle.recommend(histories, **(params or {}))]


def _load_pyfunc(path: str) -> Asked:
    """Where MLflow enters."""
    return Asked(load(path))


def jagged(lists: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Values and offsets of rows of different length, both int64."""
    lengths = torch.tensor([0, *(len(row) for row in lists)], dtype=torch.int64)
    values = torch.tensor([value for row in lists for value in row], dtype=torch.int64)
    return values, lengths.cumsum(0)


def _has_times(histories: Sequence[History]) -> bool:
    timed = False
    for history in histories:
        if isinstance(history, str):
            raise RequestError(f"a history is a list of item ids, got the string {history!r}")
        timed = timed or any(not isinstance(event, str) for event in history)
    return timed


def _events(history: Sequence[Any], timed: bool) -> list[tuple[str, float]]:
    """(item id, seconds) of each event, oldest first."""
    if not timed:
        return [(item, 0.0) for item in history]
    for event in history:
        if not (isinstance(event, tuple | list) and len(event) == 2 and isinstance(event[0], str)):
            raise RequestError(
                f"an event is an item id (a string), or every one is (item id, time); got {event!r}"
            )
    return sorted(((item, _seconds(when)) for item, when in history), key=lambda event: event[1])


def _seconds(when: Time) -> float:
    if isinstance(when, datetime):
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if not isinstance(when, int | float) or not math.isfinite(when):
        raise RequestError(f"a time is seconds since 1970 or a datetime, got {when!r}")
    return when


def _histories_of(table: pa.Table) -> dict[str, list[Any]]:
    """User id -> its events in the order of the table."""
    for name in ("user_id", "item_id"):
        if name not in table.column_names or table[name].null_count:
            raise RequestError(f"the table needs a column {name} without nulls")
    users, items = (table[name].cast(pa.string()).to_pylist() for name in ("user_id", "item_id"))
    events: Sequence[Any] = items
    if "time" in table.column_names:
        events = list(zip(items, table["time"].to_pylist(), strict=True))
    histories: dict[str, list[Any]] = {}
    for user, event in zip(users, events, strict=True):
        histories.setdefault(user, []).append(event)
    return histories


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    try:
        opened = load(sys.argv[1])
        differences = list(opened.golden())
    except (IndexError, BundleError) as error:
        sys.exit(f"usage: python serve.py BUNDLE\n{error}")
    if differences:
        sys.exit("\n".join(differences))
    print(f"{sys.argv[1]}: every file is whole, and every golden request is answered as expected")
