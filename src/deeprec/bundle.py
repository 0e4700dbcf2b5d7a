"""The bundle: names, layout and the words a serving team reads. `serve.py` reads it without us.

manifest.json          SHA-256 of every file, what it was made from, with which versions
model.pt               TorchScript: scripted, aten operations only, on the CPU
catalog.parquet        item_index, item_id, item attributes; row = item_index
signature.json         inputs and outputs of model.pt: name, type, shape, range, meaning
preprocess.json        what of an event log a history is made of
policy.json            what is answered when: seen items, unknown items, ties, padding, limits
vocabularies.json      per user attribute, its values in index order, or {"hashed": rows}
golden/requests.jsonl  requests, one a line
golden/expected.jsonl  their answers, line by line
model.pt2              the same as a program of torch.export, where it can be one
model.onnx             the same in ONNX, where it was asked for
ids.pt                 item ids to indices and back, for who reads no Parquet, likewise
weights.safetensors    the same weights without code, and
architecture.json      what `deeprec.trainer.rebuilt` builds of them, where deeprec is installed
eval.json              what the run scored, where it was evaluated
README.md              how to ask
MODEL_CARD.md          for whom, of what, how good, within which limits
LICENSE                and NOTICE, where export was given them
train_config.yaml      the parts of the run's config, without places and trackers
provenance.json        from which data, settings and software it came
privacy.json           what it holds of persons
sbom.cdx.json          its software, as CycloneDX
triton/NAME/           a model folder for Triton, and kserve.yaml, where they were asked for
MLmodel                and requirements-serve.txt: the same folder for MLflow
serve.py               the client: verifies, maps ids, answers
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deeprec import folder

KIND = "bundle"
VERSION = 1
MODEL = "model.pt"
CATALOG = "catalog.parquet"
SIGNATURE = "signature.json"
POLICY = "policy.json"
PREPROCESS = "preprocess.json"
VOCABULARIES = "vocabularies.json"
GOLDEN_REQUESTS = "golden/requests.jsonl"
GOLDEN_EXPECTED = "golden/expected.jsonl"
PROGRAM = "model.pt2"
ONNX = "model.onnx"
IDS = "ids.pt"
WEIGHTS = "weights.safetensors"
ARCHITECTURE = "architecture.json"
TRAIN_CONFIG = "train_config.yaml"
EVALUATION = "eval.json"
README = "README.md"
CARD = "MODEL_CARD.md"
CLIENT = "serve.py"


@dataclass(frozen=True)
class Limits:
    """What one call of the model may ask for; more is a clear error."""

    max_users: int = 4_096
    max_events: int = 16_777_216  # 128 MiB of item indices
    max_k: int = 10_000


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a whole bundle, every file compared with its hash.

    Raises:
        ConfigError: there is no such folder, or it is of another kind.
        IntegrityError: the first file that differs, by name.
    """
    return folder.verify(path, KIND)


def write_catalog(draft: Path, items: pa.Table) -> None:
    """Writes `items`, in index order, with the index that the model answers with."""
    indices = pa.array(np.arange(items.num_rows))
    table = items.add_column(0, "item_index", indices)
    pq.write_table(table, draft / CATALOG, compression="zstd", write_page_checksum=True)


def write_json(path: Path, content: object) -> None:
    """Writes one readable JSON document."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON document a line; NaN and infinity are refused."""
    path.parent.mkdir(exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON documents of a file that has one a line."""
    with path.open(encoding="utf-8") as file:  # splitlines() would cut inside an id, at a U+2028
        return [json.loads(line) for line in file]


def signature(
    num_items: int,
    fields: Mapping[str, int],
    limits: Limits,
    *,
    ids_are_numbers: bool = False,
    program: str | None = None,
    onnx_rules: Sequence[str] | None = None,
    ids: bool = False,
) -> dict[str, Any]:
    """Inputs and outputs of model.pt, in the order of its `forward`.

    Args:
        num_items: V.
        fields: user attribute name -> number of its values, in the order the model takes them.
        limits: what one call may ask for.
        ids_are_numbers: whether `by_id` can be asked.
        program: why there is no model.pt2; None: there is one.
        onnx_rules: what model.onnx checks, by number from 1; None: there is no model.onnx.
        ids: whether there is an ids.pt.
    """
    return {
        "num_items": num_items,
        "inputs": [*_of_users(num_items, fields), *_of_answers(num_items, limits)],
        "outputs": _outputs(num_items),
        "by_id": BY_ID if ids_are_numbers else None,
        PROGRAM: OF_PROGRAM if program is None else program,
        ONNX: None if onnx_rules is None else of_onnx(onnx_rules),
        IDS: OF_IDS if ids else None,
    }


def _item(num_items: int) -> dict[str, Any]:
    return {"dtype": "int64", "minimum": 0, "maximum": num_items - 1}


OFFSETS = {"dtype": "int64", "shape": ["users + 1"]}


def _of_users(num_items: int, fields: Mapping[str, int]) -> list[dict[str, Any]]:
    """Inputs that say who is asked about."""
    return [
        {
            "name": "item_ids",
            **_item(num_items),
            "shape": ["events"],
            "meaning": "item_index of each event, user after user, oldest first, repeats kept",
        },
        {
            "name": "offsets",
            **OFFSETS,
            "meaning": "user b owns item_ids[offsets[b]:offsets[b + 1]]; starts at 0, never "
            "falls, ends at the number of events",
        },
        {
            "name": "ages",
            "dtype": "float32",
            "shape": ["events, or 0 where times are unknown"],
            "minimum": 0.0,
            "meaning": "days from each event to the moment of prediction",
        },
        {
            "name": "attribute_values",
            "dtype": "list of int64",
            "fields": [
                {"name": name, "shape": ["values"], "minimum": 0, "maximum": size - 1}
                for name, size in fields.items()
            ],
            "meaning": "per user attribute, the indices of the users' values in "
            f"{VOCABULARIES}; a user whose value is unknown owns none. Where that says hashed, "
            f"a value's index is {HASH}",
        },
        {
            "name": "attribute_offsets",
            "dtype": "list of int64",
            "fields": [{"name": name, "shape": ["users + 1"]} for name in fields],
            "meaning": "per user attribute, as offsets, for attribute_values",
        },
    ]


def _of_answers(num_items: int, limits: Limits) -> list[dict[str, Any]]:
    """Inputs that say what may be answered."""
    return [
        {
            "name": "k",
            "dtype": "int",
            "minimum": 1,
            "maximum": limits.max_k,
            "meaning": "recommendations per user",
        },
        {
            "name": "exclude_seen",
            "dtype": "bool",
            "meaning": "whether items of the user's own history are left out",
        },
        {
            "name": "denied_items",
            **_item(num_items),
            "shape": ["denials"],
            "meaning": "item_index of items never to be answered, user after user",
        },
        {"name": "denied_offsets", **OFFSETS, "meaning": "as offsets, for denied_items"},
        {
            "name": "allowed_items",
            **_item(num_items),
            "shape": ["allowances"],
            "optional": True,
            "meaning": "item_index of the only items that may be answered, user after user; "
            "absent: all",
        },
        {
            "name": "allowed_offsets",
            "dtype": "int64",
            "shape": ["users + 1, or 2"],
            "optional": True,
            "meaning": "as offsets, for allowed_items; of 2 entries, it is one list for all",
        },
    ]


def _outputs(num_items: int) -> list[dict[str, Any]]:
    return [
        {
            "name": "items",
            "dtype": "int64",
            "shape": ["users", "k"],
            "minimum": -1,
            "maximum": num_items - 1,
            "meaning": "item_index, best first; -1 where there are no more candidates",
        },
        {
            "name": "scores",
            "dtype": "float32",
            "shape": ["users", "k"],
            "meaning": "score of each item; -inf where the item is -1",
        },
    ]


def policy(*, exclude_seen: bool, uses_times: bool, limits: Limits) -> dict[str, Any]:
    """What is answered when, for people and for `serve.py`."""
    return {
        "exclude_seen": exclude_seen,
        "uses_times": uses_times,
        "history": "every event, oldest first, repeats kept, none cut off",
        "ages": "days from event to moment of prediction; a later event has age 0",
        "unknown_items": "left out of the history and counted",
        "unknown_attributes": "the user has no value of that attribute",
        "empty_history": "answered from the attributes and what is known of items alone",
        "score": "any real number, comparable within one answer; not a probability",
        "ties": "the lower item_index comes first",
        "denied_items": "never answered, whatever else is said",
        "allowed_items": "where given, no other item is answered; a user whose list is empty gets "
        "nothing",
        "not_a_number": "an error, never a recommendation",
        "padding": {"item_index": -1, "score": "-inf"},
        "limits": asdict(limits),
    }


BY_ID = (
    "model.by_id takes and gives the same, but with the item_id of the catalog, int64, in the "
    "place of item_index. An id that the catalog does not hold is left out; where a score is -inf, "
    "the id is -1 and is none"
)
OF_PROGRAM = (
    "as forward, in this order: item_ids, offsets, ages (-1 where a time is unknown), "
    "attribute_values, attribute_offsets, k, exclude_seen (bool tensor of no dimension), "
    "denied_items, denied_offsets, only_allowed (such a tensor, whether what follows counts), "
    "allowed_items, allowed_offsets (users + 1)"
)
OF_ONNX = (
    "by name what model.pt2 takes in order, attribute_values_0 and attribute_offsets_0 of the "
    "first user attribute. What breaks rule n is refused as an index n that is not there: the "
    "message of the runtime says idx=n"
)
OF_IDS = (
    "forward takes item ids, a list of text, and their offsets, and gives the item_ids and offsets "
    "that model.pt takes, an id that the catalog does not hold left out, and bool, one for each id "
    "given: whether it is known, as its age counts. of takes items as model.pt answers, and gives "
    "lists of ids, an empty text for -1"
)
HASH = "the BLAKE2b digest of 8 bytes of its text in UTF-8, little-endian, modulo the rows"


def of_onnx(rules: Sequence[str]) -> dict[str, Any]:
    """What a signature says of model.onnx: its rules by number, as text, from 1.

    Example:
        >>> of_onnx(["no user is asked twice"])["rules"]
        {'1': 'no user is asked twice'}
    """
    return {"takes": OF_ONNX, "rules": {str(n): rule for n, rule in enumerate(rules, 1)}}


EXAMPLE = """\
import pyarrow.parquet as pq
import torch

model = torch.jit.load("model.pt")
item_ids = pq.read_table("catalog.parquet")["item_id"]
history = torch.arange(min(2, len(item_ids)))  # of one user: places in item_ids
offsets = torch.tensor([0, len(history)])
ages = torch.full([len(history)], 1.0)  # each event was a day ago
none, nowhere = torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])
values, ends = [none] * {num_fields}, [nowhere] * {num_fields}  # no attribute of the user is known
k, exclude_seen = 10, {exclude_seen}
items, scores = model(history, offsets, ages, values, ends, k, exclude_seen, none, nowhere)
for item, score in zip(items[0].tolist(), scores[0].tolist()):
    print(item_ids[item].as_py() if item >= 0 else "no further candidate", score)
"""


def readme(
    name: str,
    num_items: int,
    fields: Sequence[str],
    *,
    exclude_seen: bool,
    hashed: Collection[str] = (),
) -> str:
    """What a serving team reads first; its example is run by a test."""
    named = (f"`{field}` (any text)" if field in hashed else f"`{field}`" for field in fields)
    attributes = ", ".join(named) or "none"
    if hashed:
        attributes += f". Of any text, one never seen in training too, the row is\n  {HASH}"
    seen = "left out" if exclude_seen else "kept as candidates"
    return f"""\
# {name}

Recommends from {num_items:,} items, given what a user did. It needs `torch` and `pyarrow`, not
deeprec.

- User attributes it takes: {attributes}.
- Items of the user's own history are {seen}, unless a call says otherwise.
- `signature.json` says what `model.pt` takes and gives; `policy.json` what it answers when;
  `preprocess.json` which events make a history, and in which order.
- Before loading, compare every file with its SHA-256 in `manifest.json`: a damaged or foreign
  `model.pt` can run code. `serve.py` in this folder does this, maps item ids both ways and answers;
  it is one file and may be copied.
- `golden/` holds requests with the answers this model was evaluated with. Scores agree within
  1e-5 relative on any machine; run `python serve.py .` here to compare.
- `model.pt2`, where it is there, holds the same as a program of `torch.export`, for those who do
  without TorchScript: `torch.export.load("model.pt2").module()`. `signature.json` says what it
  takes.
- `model.onnx`, where it was asked for, holds the same in ONNX.
- `ids.pt`, where it was asked for, maps item ids to indices and back for those who read no
  Parquet: `signature.json` says what it takes.
- `weights.safetensors` holds the same weights without code, by name; `architecture.json` says what
  they are the weights of, and `deeprec.trainer.rebuilt.rebuild` makes the model again of the two.
  Items that it lists as `retired` are for its caller to leave out.
- torch says once that NumPy is missing where it is; nothing here needs it.

Run this inside the folder:

```python
{EXAMPLE.format(num_fields=len(fields), exclude_seen=exclude_seen)}```
"""
