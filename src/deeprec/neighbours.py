"""Run -> the nearest neighbours of its items or users, exact, as lines of text.

id TAB id:score id:score ...        nearest first, itself left out

Items are near by their vectors, or, in a model that is a table between items, by what one says of
others there: who has it is recommended these.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from deeprec import folder
from deeprec.batch import Encoded
from deeprec.console import console, progress
from deeprec.data.judge import judged_batch
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, IntegrityError
from deeprec.model.base import SaidBetweenItems
from deeprec.model.item_to_item import largest
from deeprec.model.rank import encode
from deeprec.model.topk import top_k
from deeprec.trainer.run import Run, open_run
from deeprec.verb import NeighboursConfig


def neighbours(config: NeighboursConfig) -> Path:
    """Writes a line for each item of the catalog, or each user of the prepared folder.

    A user is what the model says of it as it stands before the holdout. Of what a model says
    nothing, as of items that nobody had in a table between items, there are no neighbours.

    Returns:
        The file.

    Raises:
        ConfigError: the model has neither vectors nor a table between items, or none of what is
            asked; or a path is wrong.
        IntegrityError: the run or the prepared folder is damaged, or another one.
    """
    for place in filter(None, (config.output, config.vectors)):
        folder.refuse_inside(Path(place))
    run = open_run(config.run)
    table = _table(run, config)
    prepared = Prepared(run.prepared)
    if prepared.identity != run.prepared_identity:
        raise IntegrityError(f"{run.prepared} was prepared anew since the run; train it again")
    if table is not None:
        ids = prepared.catalog.item_ids.to_pylist()
        lines = _said(ids, table, config)
    else:
        ids, vectors = (
            _items(run, prepared) if config.of == "items" else _users(run, prepared, config)
        )
        if config.similarity == "cosine":
            vectors = F.normalize(vectors, dim=1)
        if config.vectors is not None:
            _write_vectors(Path(config.vectors), ids, vectors)
        lines = _found(ids, vectors, config)
    output = Path(config.output)
    with (
        folder.writing_file(output) as draft,
        draft.open("w", encoding="utf-8") as file,
        progress("searching", len(ids), config.of) as advance,
    ):
        for some in lines:
            file.writelines(some)
            advance(len(some))
    console.print(f"{output}: up to {config.k} neighbours of {len(ids):,} {config.of}")
    return output


def _table(run: Run, config: NeighboursConfig) -> SaidBetweenItems | None:
    """What an item says of others, where this is all that the model has; None: it has vectors."""
    if run.model.item_weight.any():
        return None
    if not isinstance(run.model, SaidBetweenItems):
        raise ConfigError(
            f"{config.run}: this model has no vectors of items and users, and no table between "
            "items; ask a run of one that has, such as model=ials or model=item_to_item"
        )
    of_vectors = {
        "of=users": config.of == "users",
        "similarity=cosine": config.similarity == "cosine",
        f"vectors={config.vectors}": config.vectors is not None,
    }
    for word, asked in of_vectors.items():
        if asked:
            raise ConfigError(
                f"{word}: the model of {config.run} has no vectors, only a table of what items say "
                "of one another; leave it out, or ask a run of one that has, such as model=ials"
            )
    return run.model


def _said(ids: list[str], table: SaidBetweenItems, config: NeighboursConfig) -> Iterator[list[str]]:
    for some in _batches(len(ids), config.batch):
        lines = []
        for item in some.tolist():
            others, weights = (one.detach().cpu().numpy() for one in table.said_by(item))
            says = (others != item) & (weights != 0.0)
            others, weights = others[says], weights[says]
            best = largest(weights, others, config.k)
            best = best[np.lexsort((others[best], -weights[best]))]
            near = _told(ids, others[best].tolist(), weights[best].tolist(), config)
            lines.append(f"{ids[item]}\t{near}\n")
        yield lines


def _items(run: Run, prepared: Prepared) -> tuple[list[str], Tensor]:
    return prepared.catalog.item_ids.to_pylist(), run.model.item_weight.detach()


def _users(run: Run, prepared: Prepared, config: NeighboursConfig) -> tuple[list[str], Tensor]:
    said = []
    for rows in _batches(prepared.num_users, config.batch):
        batch = judged_batch(prepared, rows, "holdout", with_target=False)
        with torch.no_grad():
            said.append(encode(run.model, batch).hidden_BD)
    return prepared.users["user_id"].to_pylist(), torch.cat(said)


def _batches(count: int, size: int) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _found(ids: list[str], vectors: Tensor, config: NeighboursConfig) -> Iterator[list[str]]:
    no_bias = torch.zeros(len(ids))
    for some in _batches(len(ids), config.batch):
        rows = torch.from_numpy(some)
        none = torch.zeros(0, dtype=torch.int64), torch.zeros(len(rows) + 1, dtype=torch.int64)
        asked = Encoded(vectors[rows], *none, torch.zeros(0))
        itself = rows, torch.arange(len(rows) + 1)
        k = min(config.k, max(1, len(ids) - 1))
        items, scores = top_k(asked, vectors, no_bias, k, *itself)
        yield [
            f"{ids[row]}\t{_told(ids, near, at, config)}\n"
            for row, near, at in zip(some, items.tolist(), scores.tolist(), strict=True)
        ]


def _told(ids: list[str], items: list[int], scores: list[float], config: NeighboursConfig) -> str:
    found = [(ids[item], score) for item, score in zip(items, scores) if item >= 0]
    if config.keys_only:
        return " ".join(name for name, _ in found)
    return " ".join(f"{name}:{score:.{config.score_precision}f}" for name, score in found)


def _write_vectors(path: Path, ids: list[str], vectors: Tensor) -> None:
    """One line a vector: id, tab, numbers with a space between."""
    with folder.writing_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        for name, vector in zip(ids, vectors.tolist(), strict=True):
            file.write(f"{name}\t{' '.join(f'{value:.6g}' for value in vector)}\n")
