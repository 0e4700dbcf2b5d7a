"""A new run that begins with the weights of an older one, for a catalog that has changed since.

Rows of items are found by item id and rows of attribute values by value, so items may have come,
gone and moved in between. All other parameters are taken as they are, and must have the same shape.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deeprec.catalog import Catalog
from deeprec.data.store import Prepared
from deeprec.data.vocabulary import Hashed, vocabulary_of
from deeprec.errors import ConfigError, IntegrityError
from deeprec.part import called
from deeprec.schema import Part
from deeprec.trainer.facts import Facts
from deeprec.trainer.kinds import PER_ITEM
from deeprec.trainer.run import Run

MORE = 1009  # rows that a table has more of where it has one for each item, or each value
ROWS_AT_ONCE = 2**20
Build = Callable[[Facts], nn.Module]  # a new model of these facts


class Of(NamedTuple):
    """What the rows of a table are of."""

    attribute: str | None = None  # its values; None: items
    by_row: bool = True  # one for each; else more of them depends on how many there are


@dataclass(frozen=True)
class Started:
    """What a model began with."""

    lines: list[str]  # for people
    origin: dict[str, Any]  # for prepared.json


@dataclass(frozen=True)
class Same:
    """Which rows of two tables are of the same thing; without any, all are where they were."""

    kept: int
    new: int
    pairs: tuple[Tensor, Tensor] | None  # int64 [N] of the old table, and of the new one


ITEMS = Of()


def start_from(
    run: Run, part: Part, model: nn.Module, prepared: Prepared, facts: Facts, build: Build
) -> Started:
    """Gives a new model the weights of a run, and says what it took.

    A frozen number of an item is not taken: it says how popular the item is, in the data at hand.

    Args:
        run: opened at its best checkpoint.
        part: the config of the new model.
        model: new; changed in place.
        prepared: what it will be trained on.
        facts: of the new model.
        build: makes a model of that config; asked on the meta device.

    Raises:
        ConfigError: the run is of another model or of other widths, or its folder is not there.
        IntegrityError: that folder was prepared anew since.
    """
    if run.config.model["_target_"] != part["_target_"]:
        raise ConfigError(
            f"start_from: {run.path} holds model={called(run.config.model)}, and this run is to be "
            f"model={called(part)}; weights fit their own model alone"
        )
    source = _prepared_of(run)
    same = _same_rows(source, prepared, facts)
    grown = rows_of(build, facts)
    taken = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or name.rpartition(".")[2] not in PER_ITEM
    ]
    found = dict(run.model.named_parameters())  # type: ignore[attr-defined]  # it is a Module
    new = {name for name, _ in taken if name not in found and grown.get(name, ITEMS) != ITEMS}
    _refuse_unlike(run, [(n, p) for n, p in taken if n not in new], found, grown)
    with torch.no_grad():
        for name, parameter in taken:
            of = grown.get(name)
            if of is None:
                parameter.copy_(found[name])
            elif name not in new and of in same:  # else nobody can tell which row is of what
                _take_rows(parameter, found[name], same[of])
        _restore_lengths(model)
    users = _left(source, prepared)
    origin = {"run": str(run.path.absolute()), "step": run.checkpoint.step}
    return Started(
        [_told(run, same, set(grown.values())), *_told_left(run, users)],
        {**origin, "identity": run.prepared_identity},
    )


def rows_of(build: Build, facts: Facts) -> dict[str, Of]:
    """By parameter whose size depends on how many items there are, or values of an attribute.

    Tables of quotients and remainders have no row for each value.

    Example:
        >>> from deeprec.model.autoencoder import Autoencoder
        >>> facts = Facts(5, 3, {"town": 4}, target_share=1.0, repeats=False)
        >>> found = rows_of(lambda facts: Autoencoder(facts.num_items, fields=facts.fields), facts)
        >>> found["sparse_input.tables.user:town"], found["item_weight"] == Of()
        (Of(attribute='town', by_row=True), True)
    """
    larger: dict[str | None, Facts] = {None: replace(facts, num_items=facts.num_items + MORE)}
    for name, size in facts.fields.items():
        larger[name] = replace(facts, fields={**facts.fields, name: size + MORE})
    with torch.device("meta"):
        before = _shapes(build(facts))
        after = {what: _shapes(build(other)) for what, other in larger.items()}
    found = {}
    for what, shapes in after.items():
        for name, shape in shapes.items():
            if shape != before[name]:
                found[name] = Of(what, shape == (before[name][0] + MORE, *before[name][1:]))
    return found


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _prepared_of(run: Run) -> Prepared:
    """The folder that a run was trained on, which knows the ids of its rows."""
    if not run.prepared.is_dir():
        raise ConfigError(
            f"start_from: the item ids of {run.path} are in the folder that it was trained on, and "
            f"{run.prepared} is not there; put it back, or leave start_from out"
        )
    source = Prepared(run.prepared, parts=("train",))
    if source.identity != run.prepared_identity:
        raise IntegrityError(
            f"start_from: {run.prepared} was prepared anew since {run.path} was trained on it, so "
            "its rows may stand for other items; leave start_from out"
        )
    return source


def _same_rows(source: Prepared, prepared: Prepared, facts: Facts) -> dict[Of, Same]:
    """Which rows go over; a table without a row for each value does as a whole or not at all."""
    found = {ITEMS: _matched(source.catalog, prepared.catalog)}
    for name in facts.fields:
        if name not in source.vocabularies:
            continue
        old, new = (vocabulary_of(one.vocabularies[name]) for one in (source, prepared))
        if isinstance(old, Catalog) and isinstance(new, Catalog):
            found[Of(name)] = _matched(old, new)
            if old.item_ids.equals(new.item_ids):
                found[Of(name, by_row=False)] = Same(len(new), 0, None)
        elif isinstance(old, Hashed) and isinstance(new, Hashed) and len(old) == len(new):
            for by_row in (True, False):  # a value keeps its row
                found[Of(name, by_row)] = Same(len(new), 0, None)
    return found


def _matched(old: Catalog, new: Catalog) -> Same:
    places: npt.NDArray[np.int64] = old.indices_of(new.item_ids)
    here = np.flatnonzero(places >= 0)
    pairs = torch.from_numpy(places[here]), torch.from_numpy(here)
    return Same(len(here), len(new) - len(here), pairs)


def _refuse_unlike(
    run: Run,
    taken: Sequence[tuple[str, nn.Parameter]],
    found: Mapping[str, nn.Parameter],
    grown: Collection[str],
) -> None:
    """Raises ConfigError, naming each parameter that the run has otherwise."""

    def widths(name: str, parameter: Tensor) -> tuple[int, ...]:
        return tuple(parameter.shape[1 if name in grown else 0 :])

    unlike = [
        f"{name}: {list(parameter.shape)} here, {list(found[name].shape)} there"
        if name in found
        else f"{name}: not there"
        for name, parameter in taken
        if name not in found or widths(name, parameter) != widths(name, found[name])
    ]
    if unlike:
        lines = "\n".join(f"  - {one}" for one in unlike)
        raise ConfigError(
            f"start_from: {run.path} has other layers than this run:\n{lines}\ngive model= the "
            "settings of that run; `deeprec refit run=RUN keep_weights=true` takes them"
        )


def _take_rows(parameter: nn.Parameter, old: Tensor, same: Same) -> None:
    if same.pairs is None:
        parameter.copy_(old)
        return
    for there, here in zip(*(torch.split(places, ROWS_AT_ONCE) for places in same.pairs)):
        rows = old.index_select(0, there).to(parameter.device)
        parameter.index_copy_(0, here.to(parameter.device), rows)


def _restore_lengths(model: nn.Module) -> None:
    """Rows that a model keeps at a length have that which the data at hand give them."""
    length_V = getattr(model, "row_length_V", None)
    if length_V is None:
        return
    weight = model.item_weight
    assert isinstance(weight, Tensor)
    lengths = length_V.to(weight.device)  # a table that is shared out lies elsewhere
    for rows_CD, length_C in zip(*(torch.split(one, ROWS_AT_ONCE) for one in (weight, lengths))):
        size_C1 = torch.linalg.vector_norm(rows_CD, dim=1, keepdim=True)
        rows_CD.mul_(length_C[:, None] / size_C1.clamp(min=1e-12))


def _left(source: Prepared, prepared: Prepared) -> int:
    """Users that the run learned from and that are not among those of the new folder."""
    old, new = (
        Catalog(one.users["user_id"].take(one.training_users())) for one in (source, prepared)
    )
    return int((new.indices_of(old.item_ids) < 0).sum())


def _told(run: Run, same: Mapping[Of, Same], read: Collection[Of]) -> str:
    """What was taken of tables; of those of attributes, only where the model has them."""
    told = []
    for of in [ITEMS, *sorted(one for one in read if one.attribute is not None)]:
        what = "items" if of.attribute is None else f"values of {of.attribute}"
        if (rows := same.get(of)) is None:
            told.append(f"none of the {what}, which are others")
        else:
            told.append(f"{rows.kept:,} of {rows.kept + rows.new:,} {what}")
    step = f"starts from {run.path}, step {run.checkpoint.step}"
    return f"{step}: its layers, and weights of {', '.join(told)}"


def _told_left(run: Run, users: int) -> Iterator[str]:
    if users:
        yield (
            f"[yellow]note[/yellow] {users:,} users whom {run.path} learned from are not in this "
            "folder: what it learned from them goes on in the weights. If they asked to be "
            "forgotten, train without start_from"
        )
