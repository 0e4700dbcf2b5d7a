"""A small recommender with every freedom the contract gives: attributes, ages, repeat scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from deeprec import export
from deeprec.batch import Encoded
from deeprec.data.store import Events, Prepared
from deeprec.data.store import write as write_prepared
from deeprec.golden import Trained


class StandInEncoder(nn.Module):
    def __init__(self, num_items: int, sizes: list[int], width: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, width)
        self.fields = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.num_items = num_items

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        users_N = owners(offsets_B1)
        num_users = offsets_B1.numel() - 1
        fresh_N = torch.ones(items_N.numel(), device=items_N.device)
        if ages_N.numel() > 0:
            fresh_N = torch.exp(-ages_N / 30)
        hidden = torch.zeros(num_users, self.items.weight.shape[1], device=items_N.device)
        hidden = hidden.index_add(0, users_N, self.items(items_N) * fresh_N.unsqueeze(1))
        for place, table in enumerate(self.fields):
            rows = owners(attribute_offsets[place])
            hidden = hidden.index_add(0, rows, table(attribute_values[place]))
        pairs, place_N = torch.unique(users_N * self.num_items + items_N, return_inverse=True)
        repeat_scores = torch.zeros(pairs.numel(), device=pairs.device).index_add(
            0, place_N, fresh_N
        )
        counts = torch.bincount(
            torch.div(pairs, self.num_items, rounding_mode="floor"), minlength=num_users
        )
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Encoded(torch.tanh(hidden), pairs % self.num_items, ends, repeat_scores)


class StandIn(nn.Module):
    """Random weights, drawn from `seed`."""

    def __init__(self, num_items: int, fields: dict[str, int], *, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = StandInEncoder(num_items, list(fields.values()), 4)
            self.item_weight = nn.Parameter(torch.randn(num_items, 4))
            self.item_bias = nn.Parameter(torch.randn(num_items))
        self.fields = fields
        self.requires_grad_(False)

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: dict[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        rows = [attributes[name] for name in self.fields]
        encoded: Encoded = self.encoder(
            items_N, offsets_B1, ages_N, [row[0] for row in rows], [row[1] for row in rows]
        )
        return encoded

    def serving_encoder(self) -> nn.Module:
        return self.encoder


def owners(offsets_B1: Tensor) -> Tensor:
    users_B = torch.arange(offsets_B1.numel() - 1, device=offsets_B1.device)
    return torch.repeat_interleave(users_B, offsets_B1.diff())


INSTANT = 1_700_000_000  # moment of prediction of every prepared folder made here
FIELDS = {"age": 3, "town": 2}


def of_lists(report: dict[str, Any]) -> dict[str, Any]:
    """The first system's metrics but for those that need the embeddings of a run."""
    metrics = report["systems"][0]["metrics"]
    return {name: found for name, found in metrics.items() if "embedding" not in name}


def prepared_folder(
    path: Path,
    *,
    num_users: int = 40,
    num_items: int = 30,
    times: bool = True,
    seed: int = 0,
    ids: list[int] | None = None,
) -> Prepared:
    """Random histories of 0 to 9 events; ids that look like numbers; some attributes unknown."""
    draw = np.random.default_rng(seed)

    def part(start: int) -> Events:
        lengths = draw.integers(0, 6, num_users)
        total = int(lengths.sum())
        return Events(
            np.concatenate([[0], np.cumsum(lengths)]),
            draw.integers(0, num_items, total).astype(np.int32),
            times=np.sort(draw.integers(start, start + 10_000_000, total)) if times else None,
        )

    vocabularies = {"age": ["old", "young", "ärter"], "town": ["a", "b"]}
    write_prepared(
        path,
        items=pa.table(
            {
                "item_id": [f"{n:03}" if ids is None else str(ids[n]) for n in range(num_items)],
                "popularity": [1] * num_items,
                "name": [f"item {n}" for n in range(num_items)],
            }
        ),
        users=pa.table(
            {
                "user_id": [f"person {n}" for n in range(num_users)],
                "role": ["all"] * num_users,
                **{
                    name: draw.choice(np.array([*values, None], object), num_users).tolist()
                    for name, values in vocabularies.items()
                },
            }
        ),
        vocabularies=vocabularies,
        parts={
            "train": [part(INSTANT - 30_000_000)],
            "validation": [part(INSTANT - 15_000_000)],
            "holdout": [part(INSTANT)],
        },
        contract={},
        manifest={
            "repeats": True,
            "instants": {
                "train": None,
                "validation": INSTANT - 15_000_000,
                "holdout": INSTANT if times else None,
            },
        },
    )
    return Prepared(path)


def trained(prepared: Prepared, fields: dict[str, int] = FIELDS) -> Trained:
    model = StandIn(prepared.num_items, fields)
    return Trained(model, fields, prepared, {"run": "none"}, ids=True)


def bundle_folder(path: Path, **settings: int) -> Path:
    """A bundle of a stand-in, with the prepared folder it was made with beside it."""
    prepared = prepared_folder(path.with_name(path.name + "-prepared"), **settings)
    export.write(path, trained(prepared), golden_users=4, compare_users=10)
    return path
