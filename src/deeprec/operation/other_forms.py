"""The other forms of a changed bundle's model, made again from its weights: no run is needed.

Each is asked the golden requests of the changed bundle; one that cannot be made again is left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deeprec import bundle, forms
from deeprec.catalog import Catalog
from deeprec.data.vocabulary import Vocabulary, vocabulary_of
from deeprec.errors import ConfigError, DeeprecError
from deeprec.golden import Answering
from deeprec.operation.scripted import add_item
from deeprec.papers import triton
from deeprec.serve import Bundle, load_model

# Files of the weights in another form than model.pt.
FORMS = (bundle.PROGRAM, bundle.ONNX, bundle.WEIGHTS, bundle.ARCHITECTURE)


@dataclass(frozen=True)
class Names:
    """What a bundle knows by name."""

    opened: Bundle

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.opened.item_ids)

    def vocabulary(self, name: str) -> Vocabulary:
        path = self.opened.path / bundle.VOCABULARIES
        return vocabulary_of(json.loads(path.read_text(encoding="utf-8"))[name])


def make_again(
    source: Path, draft: Path, new: Bundle, *, retired: Sequence[int], like: Sequence[int]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Writes the forms that `source` has into `draft`, whose model.pt and goldens are there.

    Args:
        source: the verified bundle of before.
        draft: the changed one.
        new: the same, opened.
        retired: indices of all items that are never answered.
        like: indices of the items whose mean is a new last item; empty: none is added.

    Returns:
        What the signature says of model.pt2 and model.onnx, and why a form was left out, by file.
    """
    had = [name for name in FORMS if (source / name).is_file()]
    told: dict[str, Any] = {bundle.PROGRAM: "absent, as before the change", bundle.ONNX: None}
    try:
        asked = answering(source, draft, new, retired=retired, like=like)
    except (DeeprecError, RuntimeError, ValueError) as error:
        # these may be there, and answer otherwise
        for name in (bundle.WEIGHTS, bundle.ARCHITECTURE):
            (draft / name).unlink(missing_ok=True)
        why = str(error).partition("\n")[0].replace(f"{draft}/", "")
        told[bundle.PROGRAM] = f"absent, because it could not be made again: {why}"
        return told, dict.fromkeys(had, why)
    left_out = {}
    if bundle.PROGRAM in had:
        why_not = forms.save_program(draft, asked)
        told[bundle.PROGRAM] = why_not or bundle.OF_PROGRAM
        if why_not:
            left_out[bundle.PROGRAM] = why_not
    if bundle.ONNX in had:
        try:
            told[bundle.ONNX] = bundle.of_onnx(forms.save_onnx(draft, asked))
        except DeeprecError as error:
            (draft / bundle.ONNX).unlink(missing_ok=True)
            left_out[bundle.ONNX] = str(error)
    return told, left_out


def answering(
    source: Path, draft: Path, new: Bundle, *, retired: Sequence[int], like: Sequence[int]
) -> Answering:
    """The changed model, built of weights that are written into `draft`.

    Raises:
        ConfigError: the bundle of before has no weights, or a table of them has no mean.
        IntegrityError: the model answers otherwise than model.pt.
    """
    from deeprec.trainer import rebuilt  # here, not above: only it needs Lightning

    if not (source / bundle.ARCHITECTURE).is_file():
        raise ConfigError(f"the bundle has no {bundle.WEIGHTS} to make it of")
    described = json.loads((source / bundle.ARCHITECTURE).read_text(encoding="utf-8"))
    model: Any = rebuilt.built(source)
    fields: dict[str, int] = described["facts"]["fields"]
    if like:
        with torch.no_grad():
            add_item(model, described["facts"]["num_items"], like)
        described["facts"]["num_items"] += 1
        tell_members(described["model"], described["facts"]["num_items"])
    if retired:
        described["retired"] = list(retired)
    asked = Answering(model, {name: fields[name] for name in new.fields}, Names(new), retired)
    forms.save_weights(draft, asked, described)
    return replace(asked, model=rebuilt.built(draft))


def tell_members(model: Mapping[str, Any], num_items: int) -> None:
    """Tells the members of a blend how many items there are; they hold it each for itself."""
    for member in model.get("members", []):
        member["num_items"] = num_items
        tell_members(member, num_items)


def rewrite_triton(draft: Path, names: Mapping[str, Any], *, uses_times: bool) -> None:
    """Makes the model of every Triton folder again, of the model.pt of `draft`."""
    for name in names:
        if name.startswith("triton/") and name.endswith("/model.pt"):
            served = load_model(draft / bundle.MODEL, torch.device("cpu"))
            fields = json.loads((draft / bundle.VOCABULARIES).read_text(encoding="utf-8"))
            inputs = triton.arguments(len(fields), uses_times=uses_times)
            forms.save_in_tensors(draft / name, served, inputs)
