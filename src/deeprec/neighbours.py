"""Run -> the nearest neighbours of its items or users, exact, as lines of text.

id TAB id:score id:score ...        nearest first, itself left out
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
from deeprec.config import NeighboursConfig
from deeprec.console import console, progress
from deeprec.data.judge import judged_batch
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, IntegrityError
from deeprec.model.rank import encode
from deeprec.model.topk import top_k
from deeprec.trainer.run import Run, open_run


def neighbours(config: NeighboursConfig) -> Path:
    """Writes a line for each item of the catalog, or each user of the prepared folder.

    A user is what the model says of it as it stands before the holdout.

    Returns:
        The file.

    Raises:
        ConfigError: the model has no vectors, or a path is wrong.
        IntegrityError: the run or the prepared folder is damaged, or another one.
    """
    run = open_run(config.run)
    if run.model.item_weight.shape[1] == 0:
        raise ConfigError(f"{config.run}: this model has no vectors of items and users")
    prepared = Prepared(run.prepared)
    if prepared.identity != run.prepared_identity:
        raise IntegrityError(f"{run.prepared} was prepared anew since the run; train it again")
    ids, vectors = _items(run, prepared) if config.of == "items" else _users(run, prepared, config)
    if config.similarity == "cosine":
        vectors = F.normalize(vectors, dim=1)
    if config.vectors is not None:
        _write_vectors(Path(config.vectors), ids, vectors)
    output = Path(config.output)
    with (
        folder.writing_file(output) as draft,
        draft.open("w", encoding="utf-8") as file,
        progress("searching", len(ids), config.of) as advance,
    ):
        for lines in _found(ids, vectors, config):
            file.writelines(lines)
            advance(len(lines))
    console.print(f"{output}: up to {config.k} neighbours of {len(ids):,} {config.of}")
    return output


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
