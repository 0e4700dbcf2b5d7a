"""Once settings are chosen: the same split, trained on with validation, or with everything."""

from pathlib import Path
from typing import Any

import pytest
import torch

import deeprec
import small_shop
from deeprec.blend import blend
from deeprec.config import compose
from deeprec.data.store import Prepared
from deeprec.errors import DeeprecError
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.prepare import prepare
from deeprec.refit import refit
from deeprec.train import train
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.run import open_run


def told(verb: str, *words: str) -> Any:
    return compose(verb, words)


def prepared(output: Path, *words: str) -> Prepared:
    return Prepared(prepare(told("prepare", "data=seeds", f"output_dir={output}", *words)))


def trained(on: Prepared, output: Path, *words: str) -> Path:
    place = (f"prepared={on.path}", f"output_dir={output}", "logger.wandb=off")
    return train(told("train", *place, *words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("final")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Prepared:
    return prepared(folder / "whole", "train_on=everything")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Prepared:
    return prepared(folder / "plain")


@pytest.fixture(scope="module")
def more(folder: Path) -> Prepared:
    return prepared(folder / "more", "train_on=validation")


def test_with_validation_the_same_holdout_is_judged(
    plain: Prepared, more: Prepared, folder: Path
) -> None:
    count = {name: plain.parts[name].lengths.sum() for name in plain.parts}
    assert more.parts["train"].lengths.sum() >= count["train"] + count["validation"]
    assert more.parts["validation"].lengths.sum() == 0
    assert more.instant("holdout") == plain.instant("holdout")
    runs = [trained(more, folder / name, f"model={name}") for name in ("svd", "item_to_item")]
    assert open_run(runs[0]).checkpoint.score is None  # there is nothing to choose on
    names = ",".join(map(str, runs))
    both = blend(told("blend", f"runs=[{names}]", f"output_dir={folder / 'b'}", "weights=[1,3]"))
    assert open_run(both).config.model["weights"] == [1.0, 3.0]
    report = evaluate(told("evaluate", f"run={both}", "baselines=[]", "examples=0"))
    assert report["systems"][0]["metrics"]["recall@20"]["mean"] > 0.0
    assert report["protocol"]["split"]["train_on"] == "validation"


@pytest.mark.slow
def test_with_everything_a_run_is_served_and_not_judged(whole: Prepared, folder: Path) -> None:
    run = trained(whole, folder / "final", "model=svd")
    export(told("export", f"run={run}", f"output_dir={folder / 'bundle'}"))
    assert deeprec.load(folder / "bundle").recommend([[]], k=3)[0].item_ids
    with pytest.raises(DeeprecError, match="holdout"):
        evaluate(told("evaluate", f"run={run}"))


def test_without_validation_weights_of_a_blend_are_given(whole: Prepared, folder: Path) -> None:
    runs = [trained(whole, folder / f"of {name}", f"model={name}") for name in ("svd", "ease")]
    given = [f'runs=["{runs[0]}","{runs[1]}"]', f"output_dir={folder / 'never'}"]
    with pytest.raises(DeeprecError, match="weights"):
        blend(told("blend", *given))
    with pytest.raises(DeeprecError, match="weights: expected 2, one for each run"):
        told("blend", *given, "weights=[1.0]")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return open_run(run).model.state_dict()


def test_refit_trains_the_same_as_long_as_was_best(
    plain: Prepared, more: Prepared, folder: Path
) -> None:
    words = ["model.hidden_dims=[8]", "optimizer.lr=0.05", "trainer.batch_users=16", "seed=3"]
    stopping = ["trainer.early_stopping_patience=1", "trainer.max_epochs=30"]
    run = trained(plain, folder / "chosen", *words, *stopping)
    epochs = [float(row["val/ndcg@100"]) for row in read_metrics(run / "metrics.csv")]
    best = 1 + epochs.index(max(epochs))
    assert best < len(epochs) < 30, "or this says nothing of which epoch is taken"
    place = f"prepared={more.path}", f"output_dir={folder / 'again'}"
    again = refit(told("refit", f"run={run}", *place))
    by_hand = trained(
        more,
        folder / "by hand",
        *words,
        "trainer.max_epochs=30",
        "trainer.early_stopping_patience=null",
        f"trainer.last_epoch={best}",
    )
    torch.testing.assert_close(weights_of(again), weights_of(by_hand), rtol=0, atol=0)
    same = refit(
        told("refit", f"run={run}", f"prepared={plain.path}", f"output_dir={folder / 's'}")
    )
    torch.testing.assert_close(weights_of(same), weights_of(run), rtol=0, atol=0)
    assert open_run(again).prepared_identity == more.identity
    assert refit(told("refit", f"run={run}", *place)) == again  # is finished, and said so
    with pytest.raises(DeeprecError, match="holds other data than"):
        refit(told("refit", f"run={run}", f"prepared={plain.path}", place[1]))


def test_refit_says_which_user_attributes_are_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {
        known: Prepared(small_shop.make(tmp_path / f"known {known}", attributes=known))
        for known in (True, False)
    }
    words = ["model.hidden_dims=[4]", "trainer.max_epochs=1"]
    for known, other, said in (
        (True, False, "age.band were read by the run"),
        (False, True, "age.band were unknown to the run"),
        (True, True, ""),
    ):
        run = trained(folders[known], tmp_path / f"run {known} {other}", *words)
        capsys.readouterr()
        place = f"prepared={folders[other].path}", f"output_dir={run}.again"
        refit(told("refit", f"run={run}", *place))
        out = " ".join(capsys.readouterr().out.split())
        assert said in out
        assert ("user attributes of" in out) == bool(said)


def test_a_blend_is_refitted_with_its_weights(
    plain: Prepared, more: Prepared, folder: Path
) -> None:
    def blended(on: Prepared, name: str) -> Path:
        runs = [trained(on, folder / f"{name}-{one}", f"model={one}") for one in ("svd", "ease")]
        names = f"runs=[{runs[0]},{runs[1]}]"
        return blend(told("blend", names, f"output_dir={folder / name}", "weights=[1,3]"))

    first = blended(plain, "first")
    place = f"prepared={more.path}", f"output_dir={folder / 'newer'}"
    newer = refit(told("refit", f"run={first}", *place))
    torch.testing.assert_close(weights_of(newer), weights_of(blended(more, "hand")), rtol=0, atol=0)
    assert not (folder / "newer.members").exists()
    export(
        told("export", f"run={newer}", f"output_dir={folder / 'exported'}")
    )  # of weights 1 and 3
    assert refit(told("refit", f"run={first}", *place)) == newer  # is finished, and said so
    with pytest.raises(DeeprecError, match="finished run"):
        refit(told("refit", f"run={first}", f"prepared={plain.path}", place[1]))
    names = f"runs=[{first},{folder / 'first-svd'}]"
    both = blend(told("blend", names, f"output_dir={folder / 'nested'}", "weights=[1,1]"))
    with pytest.raises(DeeprecError, match=r"member 1 of .* is a blend itself"):
        refit(told("refit", f"run={both}", place[0], f"output_dir={folder / 'never'}"))
