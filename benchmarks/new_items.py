"""How well models rank items that nobody had, by the attributes of these items.

    python benchmarks/new_items.py PREPARED OUTPUT --attributes brand product_type \
        --models experiment=linear model=sparse_ease

Of the items of a prepared folder a share, drawn at random, loses all its training events, and each
model is trained on the rest with `item_attributes` and without. Judged are the users who took
such an item in the validation part, on how these items are ranked among each other: ndcg@20, 0 for
whoever is shown none that it took. The last row draws the order of items.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from deeprec.batch import Batch, Jagged
from deeprec.config import compose
from deeprec.data import store
from deeprec.data.dataset import JudgedBatches
from deeprec.data.store import Events, Prepared
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import ndcg
from deeprec.model.base import Recommender
from deeprec.model.rank import encode
from deeprec.model.topk import top_k
from deeprec.train import train
from deeprec.trainer.run import open_run
from deeprec.verb import TrainConfig

K = 20
Plain = argparse.RawDescriptionHelpFormatter
Bools = npt.NDArray[np.bool_]
Ranked = Callable[[Batch], Tensor]  # int64 [B, K], the best new items of each user


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Plain)
    parser.add_argument("prepared", type=Path, help="a prepared folder; it is not changed")
    parser.add_argument("output", type=Path, help="keeps folder and runs; none is made again")
    parser.add_argument("--attributes", nargs="+", required=True, help="of items")
    words = "of `deeprec train`, one a model"
    parser.add_argument("--models", nargs="+", default=["experiment=linear"], help=words)
    parser.add_argument("--share", type=float, default=0.1, help="of the items (%(default)s)")
    told = parser.parse_args()
    whole = Prepared(told.prepared, parts=("train", "validation"))
    is_new = np.random.default_rng(0).random(whole.num_items) < told.share
    folder = told.output / "prepared"
    if not folder.exists():
        without_events(whole, is_new, folder)
    prepared = Prepared(folder, parts=("train", "validation"))
    print(f"| model | item_attributes | ndcg@{K} of new items | validation ndcg@100 |")
    print("|---|---|---|---|")
    for model in told.models:
        for attributes in list[list[str]]([[], told.attributes]):
            name = f"{model.partition('=')[2]}-{len(attributes)}"
            run = trained(prepared, told.output / name, model, attributes)
            score = judged(prepared, is_new, best_new(run.model, is_new))
            shown = ", ".join(attributes)
            print(f"| `{model}` | {shown} | {score:.4f} | {run.checkpoint.score:.4f} |", flush=True)
    draw, best = torch.Generator().manual_seed(0), min(K, int(is_new.sum()))
    new_items = torch.from_numpy(np.flatnonzero(is_new))

    def drawn(batch: Batch) -> Tensor:
        return new_items[
            torch.rand(batch.num_users, len(new_items), generator=draw).topk(best).indices
        ]

    print(f"| drawn | | {judged(prepared, is_new, drawn):.4f} | |")


def without_events(whole: Prepared, is_new: Bools, folder: Path) -> None:
    """The same folder but for the training events of some items; nothing is held out."""
    everybody = np.arange(whole.num_users)
    train = without(whole.parts["train"].take(everybody), is_new)
    users = np.repeat(everybody, train.lengths)
    pairs = np.unique(np.stack([users, train.items]), axis=1)
    popularity = pa.array(np.bincount(pairs[1], minlength=whole.num_items))
    store.write(
        folder,
        items=whole.items.set_column(1, "popularity", popularity),
        users=whole.users,
        vocabularies=whole.vocabularies,
        parts={
            "train": [train],
            "validation": [whole.parts["validation"].take(everybody)],
            "holdout": [without(train, np.ones_like(is_new))],
        },
        contract={},
        manifest={name: whole.manifest[name] for name in ("repeats", "instants")},
    )


def without(events: Events, leaves: Bools) -> Events:
    """The events but for those of some items."""
    kept = ~leaves[events.items]
    offsets = np.concatenate([[0], np.cumsum(kept)])[events.offsets]
    columns: dict[str, Any] = {name: column[kept] for name, column in events.columns.items()}
    return replace(events, offsets=offsets, **columns)


def trained(prepared: Prepared, output: Path, model: str, attributes: list[str]) -> Any:
    if not output.exists():
        place = [f"prepared={prepared.path}", f"output_dir={output}", "logger.wandb=off"]
        words = [*place, model, f"item_attributes=[{','.join(attributes)}]"]
        train(cast(TrainConfig, compose("train", words)))
    return open_run(output)


def best_new(model: Recommender, is_new: Bools) -> Ranked:
    """Ranks the new items by a model: all others are excluded, as what a user has seen is."""
    others = torch.from_numpy(np.flatnonzero(~is_new))

    @torch.no_grad()
    def ranked(batch: Batch) -> Tensor:
        excluded = others.repeat(batch.num_users), torch.arange(batch.num_users + 1) * len(others)
        encoded = encode(model, batch)
        return top_k(encoded, model.item_weight, model.item_bias, K, *excluded)[0]

    return ranked


def judged(prepared: Prepared, is_new: Bools, ranked: Ranked) -> float:
    return float(np.concatenate(list(_judged(prepared, is_new, ranked))).mean())


def _judged(prepared: Prepared, is_new: Bools, ranked: Ranked) -> Iterator[npt.NDArray[np.float64]]:
    for batch in JudgedBatches(prepared, "validation", batch_users=256, exclude_seen=True):
        assert batch.target is not None
        wanted = torch.from_numpy(is_new)[batch.target.values]
        users = torch.repeat_interleave(batch.target.offsets.diff())[wanted]
        offsets = torch.searchsorted(users, torch.arange(batch.num_users + 1))
        target = Jagged(batch.target.values[wanted], offsets)
        found = ndcg(Hits.of(ranked(batch), target), K)
        yield found[~np.isnan(found)]


if __name__ == "__main__":
    main()
