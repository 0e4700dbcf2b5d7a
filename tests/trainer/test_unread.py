"""Settings that a run does not read are told, and are those that change no weight."""

from pathlib import Path

import pytest
import torch

import small_shop
from deeprec.train import train
from deeprec.trainer.run import open_run

SMALL = ("optimizer.lr=0.02", "trainer.batch_users=16", "trainer.max_epochs=1", "logger.wandb=off")
BETWEEN = ("target=after_cut", "target.window_events=2")
LAYERED = ("model=layered", "model.layers.0.units=4")
CASES = [
    (BETWEEN, "target.window_days=3", "which cuts between events"),
    (BETWEEN, "target.cut_days=9", "which cuts between events"),
    (("model.history_weighting=binary",), "model.fade_days=7", "events fade with model.h"),
    (("model=ease",), "model.fade_days=7", "events fade with model.h"),
    (("model.tied=true",), "model.output_init_std=0.5", "there is one table"),
    (("target=reconstruct",), "model.reconstruction=0.9", "none may be asked for again"),
    (("model.pooling=mean",), "model.normalize=false", "knows no scale of weights"),
    ((*LAYERED, "model.input_dropout=0"), "model.dropped_inputs=[]", "drops nothing"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.make(tmp_path_factory.mktemp("data") / "prepared")


@pytest.mark.parametrize(("before", "setting", "why"), CASES)
def test_what_changes_no_weight_is_told(
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: tuple[str, ...],
    setting: str,
    why: str,
) -> None:
    def run(name: str, *words: str) -> Path:
        return train(small_shop.composed(prepared, tmp_path / name, *SMALL, *words))

    without = run("without", *before)
    assert "is not read" not in capsys.readouterr().out
    told = run("told", *before, setting)
    said = " ".join(capsys.readouterr().out.split())
    assert f"note {setting} is not read: " in said
    assert why in said
    one, other = (open_run(path).model.state_dict() for path in (without, told))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_read_is_not_told(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("target=after_cut", "target.window_days=9", "target.cut_days=40")
    again = (*words, "model.reconstruction=0.2", "model.output_init_std=0.3")
    train(small_shop.composed(prepared, tmp_path / "run", *SMALL, *again))
    assert "is not read" not in capsys.readouterr().out
