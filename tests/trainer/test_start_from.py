"""A run that begins with the weights of an older one, on a catalog that has changed since."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from deeprec.blend import blend
from deeprec.config import compose
from deeprec.data import store
from deeprec.data.store import SECONDS_PER_DAY, Events, Prepared
from deeprec.errors import ConfigError, IntegrityError
from deeprec.refit import refit
from deeprec.train import train
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.run import RunFolder, open_run
from deeprec.verb import BlendConfig, RefitConfig, TrainConfig
from deeprec.work import Work

OLD_ITEMS = [f"i{n:02}" for n in range(4, 30)]
NEW_ITEMS = [f"i{n:02}" for n in range(0, 28) if n != 9]  # some came, some went: all have moved
COMMON = sorted({*OLD_ITEMS} & {*NEW_ITEMS})
TOWNS = {"old": ["b", "c", "d", "e", "f"], "new": ["a", "b", "d", "e", "f", "g"]}
MODELS = {
    "autoencoder": ["model.hidden_dims=[6,4]", "model.repeat_scores=false"],
    "autoencoder with one table": ["model.hidden_dims=[6]", "model.tied=true"],
    "linear_autoencoder": ["loss=cosine", "optimizer=rowwise_adagrad", "model.width=6"],
    "recvae": ["model.width=6", "model.code_dim=4"],
    "two_tower": ["model.width=6"],
    "sequence_encoder": ["model.width=8", "model.num_layers=1", "target=reconstruct"],
}


def shop(
    path: Path, items: list[str], users: range, towns: list[str], *, hashed: int | None = None
) -> Prepared:
    """A prepared folder: users of two tastes, ten events each, and the town that each lives in.

    An attribute may be called anything, `items` too.
    """
    draw = np.random.default_rng(len(items))
    tastes = [[n for n, item in enumerate(items) if (item < "i15") == low] for low in (True, False)]
    taken = np.array([draw.permutation(tastes[user % 2])[:10] for user in users], np.int32)

    def part(first: int, last: int) -> Events:
        count = last - first
        times = np.tile(np.arange(first, last) * SECONDS_PER_DAY, len(users))
        offsets = np.arange(len(users) + 1) * count
        return Events(offsets, np.ascontiguousarray(taken[:, first:last]).ravel(), times)

    homes = [towns[user % len(towns)] for user in users]
    popularity = np.bincount(taken[:, :7].ravel(), minlength=len(items))
    store.write(
        path,
        items=pa.table({"item_id": items, "popularity": popularity}),
        users=pa.table(
            {
                "user_id": [f"u{user}" for user in users],
                "role": ["all"] * len(users),
                "town": homes,
                "items": homes,
            }
        ),
        vocabularies={"items": [*reversed(towns)]}
        | {"town": towns if hashed is None else {"hashed": hashed}},
        parts={"train": [part(0, 7)], "validation": [part(7, 9)], "holdout": [part(9, 10)]},
        contract={},
        manifest={
            "repeats": False,
            "columns": {},
            "instants": {
                "train": None,
                "validation": 7 * SECONDS_PER_DAY,
                "holdout": 9 * SECONDS_PER_DAY,
            },
        },
    )
    return Prepared(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    place = tmp_path_factory.mktemp("start")
    return {
        "old": shop(place / "old", OLD_ITEMS, range(60), TOWNS["old"]),
        "new": shop(place / "new", NEW_ITEMS, range(10, 70), TOWNS["new"]),
    }


def told(prepared: Prepared, output: Path, *words: str) -> TrainConfig:
    fixed = [f"prepared={prepared.path}", f"output_dir={output}", "logger.wandb=off"]
    short = ["trainer.max_epochs=1", "trainer.batch_users=16"]
    config = compose("train", [*fixed, *short, *words])
    assert isinstance(config, TrainConfig)
    return config


def begun(config: TrainConfig) -> Any:
    assert config.prepared is not None
    return Work(
        config, Prepared(Path(config.prepared), parts=("train", "validation"))
    ).learner.model


def rows(table: Tensor, prepared: Prepared, ids: list[str]) -> Tensor:
    return table.detach()[torch.from_numpy(prepared.catalog.indices_of(ids))]


def hidden(model: Any, prepared: Prepared, towns: list[str]) -> Tensor:
    """What a model says of two histories of items that both catalogs have."""
    histories = [COMMON[2:9], COMMON[5:7]]
    items = torch.from_numpy(prepared.catalog.indices_of([*histories[0], *histories[1]]))
    offsets = torch.tensor([0, 7, 9])
    homes = torch.tensor([towns.index("b"), towns.index("e")])
    each = torch.tensor([0, 1, 2])
    attributes = {"town": (homes, each), "items": (len(towns) - 1 - homes, each)}
    with torch.no_grad():
        model.eval()
        found = model.encode(items, offsets, torch.ones(9), attributes)
    return found.hidden_BD


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_the_same_of_what_both_catalogs_have(
    name: str, folders: dict[str, Prepared], tmp_path: Path
) -> None:
    words = [f"model={name.split()[0]}", *MODELS[name]]
    run = train(told(folders["old"], tmp_path / "old", *words))
    old = open_run(run).model
    new = begun(told(folders["new"], tmp_path / "new", *words, f"start_from={run}"))
    fresh = begun(told(folders["new"], tmp_path / "new", *words))
    found, known = (
        rows(model.item_weight, folders[which], COMMON)
        for model, which in ((new, "new"), (old, "old"))
    )
    came = sorted({*NEW_ITEMS} - {*OLD_ITEMS})
    torch.testing.assert_close(
        rows(new.item_weight, folders["new"], came), rows(fresh.item_weight, folders["new"], came)
    )
    if name == "linear_autoencoder":  # rows have the lengths of the data at hand
        lengths = torch.linalg.vector_norm(new.item_weight.detach(), dim=1)
        torch.testing.assert_close(lengths, new.row_length_V)
        found, known = (normalize(one) for one in (found, known))
        torch.testing.assert_close(found, known)
        return
    torch.testing.assert_close(found, known, rtol=0, atol=1e-6)
    of_old = hidden(old, folders["old"], TOWNS["old"])
    torch.testing.assert_close(hidden(new, folders["new"], TOWNS["new"]), of_old, rtol=0, atol=1e-6)
    assert not torch.allclose(hidden(fresh, folders["new"], TOWNS["new"]), of_old)
    for one in ("item_bias", "repeat.item_bias"):
        if one in dict(old.named_parameters()) and old.get_parameter(one).requires_grad:
            torch.testing.assert_close(
                rows(new.get_parameter(one), folders["new"], COMMON),
                rows(old.get_parameter(one), folders["old"], COMMON),
                rtol=0,
                atol=0,
            )


def test_it_goes_on_from_there_and_says_so(
    folders: dict[str, Prepared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model.hidden_dims=[8]", "optimizer.lr=0.01"]
    run = train(told(folders["old"], tmp_path / "old", *words, "trainer.max_epochs=8"))
    capsys.readouterr()
    after = train(told(folders["new"], tmp_path / "after", *words, f"start_from={run}"))
    said = " ".join(capsys.readouterr().out.split())
    assert f"weights of {len(COMMON)} of {len(NEW_ITEMS)} items, 4 of 6 values of items," in said
    assert "4 of 6 values of town" in said
    assert f"note 10 users whom {run} learned from are not in this folder" in said
    fresh = train(told(folders["new"], tmp_path / "fresh", *words))
    first = [float(read_metrics(one / "metrics.csv")[0]["loss"]) for one in (after, fresh)]
    assert first[0] < first[1]
    origin = RunFolder(after).origin["start_from"]
    old = open_run(run)
    assert origin == {
        "run": str(run.absolute()),
        "step": old.checkpoint.step,
        "identity": folders["old"].identity,
    }


def test_with_no_rates_nothing_but_what_is_new_differs(
    folders: dict[str, Prepared], tmp_path: Path
) -> None:
    """The singular vectors that rows of a linear autoencoder begin at do not come over it."""
    words = ["experiment=linear", "model.width=6"]
    run = train(told(folders["old"], tmp_path / "old", *words))
    still = [*words, f"start_from={run}", "optimizer.lr=0.0000001"]
    after = open_run(train(told(folders["new"], tmp_path / "new", *still))).model
    found, known = (
        normalize(rows(model.item_weight, folders[which], COMMON))
        for model, which in ((after, "new"), (open_run(run).model, "old"))
    )
    torch.testing.assert_close(found, known, rtol=0, atol=1e-4)


def attributes(model: Any) -> dict[str, Tensor]:
    return {name: one for name, one in model.named_parameters() if name.endswith(":town")}


@pytest.mark.parametrize("kind", ["hashed", "divided", "divided, as before"])
def test_values_of_an_attribute_that_share_rows(kind: str, tmp_path: Path) -> None:
    words = ["model.hidden_dims=[6]"]
    hashed = 3 if kind == "hashed" else None
    if hashed is None:
        words.append("model.quotient_remainder=[town]")
    towns = TOWNS["old"] if kind == "divided, as before" else TOWNS["new"]
    old = shop(tmp_path / "old", OLD_ITEMS, range(60), TOWNS["old"], hashed=hashed)
    new = shop(tmp_path / "new", NEW_ITEMS, range(60), towns, hashed=hashed)
    run = train(told(old, tmp_path / "run", *words))
    model = begun(told(new, tmp_path / "next", *words, f"start_from={run}"))
    fresh = begun(told(new, tmp_path / "next", *words))
    expected = attributes(fresh if kind == "divided" else open_run(run).model)
    assert expected
    for name, table in attributes(model).items():
        torch.testing.assert_close(table, expected[name], rtol=0, atol=0)


@pytest.fixture(scope="module")
def trained(folders: dict[str, Prepared], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "run"
    return train(told(folders["old"], output, "model.hidden_dims=[6]"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=variational"], "holds model=autoencoder"),
        (["model.hidden_dims=[5]"], "layers.bias: [5] here, [6] there"),
        (["model=svd"], "has no weights to begin with"),
        (["experiment=auto"], "keep_weights=true"),
    ],
)
def test_another_model_is_refused(
    words: list[str], said: str, trained: Path, folders: dict[str, Prepared], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        train(told(folders["new"], tmp_path / "next", *words, f"start_from={trained}"))
    assert said in " ".join(str(refused.value).split())
    assert not (tmp_path / "next").exists()


def test_ids_must_be_known(folders: dict[str, Prepared], tmp_path: Path) -> None:
    place, output, words = tmp_path / "prepared", tmp_path / "run", ["model.hidden_dims=[6]"]
    shutil.copytree(folders["old"].path, place)
    run = train(told(Prepared(place), output, *words))
    place.rename(tmp_path / "elsewhere")
    config = told(folders["new"], tmp_path / "next", *words, f"start_from={run}")
    with pytest.raises(ConfigError, match="is not there; put it back"):
        train(config)
    shutil.copytree(folders["new"].path, place)
    with pytest.raises(IntegrityError, match="was prepared anew since"):
        train(config)


def test_a_run_with_weights_of_its_own_needs_the_older_one_no_more(
    trained: Path, folders: dict[str, Prepared], tmp_path: Path
) -> None:
    words, run = ["model.hidden_dims=[6]"], tmp_path / "old"
    shutil.copytree(trained, run)
    whole = train(told(folders["new"], tmp_path / "whole", *words, f"start_from={run}"))
    config = told(folders["new"], tmp_path / "cut", *words, f"start_from={run}")

    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    with pytest.raises(StopError):
        train(config, watch=stop)
    run.rename(tmp_path / "away")
    again = train(replace(config, resume="must"))
    expected, found = (open_run(one).model.state_dict() for one in (whole, again))  # type: ignore[attr-defined]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_refit_keeps_weights_for_a_few_epochs(folders: dict[str, Prepared], tmp_path: Path) -> None:
    words = ["model.hidden_dims=[6]", "optimizer.lr=0.02"]
    run = train(told(folders["old"], tmp_path / "old", *words, "trainer.max_epochs=3"))
    place = f"run={run}", f"prepared={folders['new'].path}", f"output_dir={tmp_path / 'after'}"
    config = compose("refit", [*place, "keep_weights=true", "epochs=1"])
    assert isinstance(config, RefitConfig)
    after = refit(config)
    by_hand = train(told(folders["new"], tmp_path / "hand", *words, f"start_from={run}"))
    expected, found = (open_run(one).model.state_dict() for one in (by_hand, after))  # type: ignore[attr-defined]  # it is a Module
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    told_both = [f"runs=[{after},{by_hand}]", f"output_dir={tmp_path / 'both'}", "weights=[1,1]"]
    both = compose("blend", told_both)
    assert isinstance(both, BlendConfig)
    with pytest.raises(ConfigError, match=r"keep_weights: .* is a blend"):
        refit(replace(config, run=str(blend(both))))
