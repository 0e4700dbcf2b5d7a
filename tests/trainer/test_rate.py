"""Learning rates over a run, and the brake on losses that leap."""

from pathlib import Path

import numpy as np
import pytest
import torch

import small_shop
from deeprec.errors import ConfigError
from deeprec.train import train
from deeprec.trainer.brake import Brake, Braking
from deeprec.trainer.optimizer import Adam
from deeprec.trainer.rate import ByEpochs, Inverse
from deeprec.trainer.run import open_run
from steps import LOSSES, MODELS, new_batch, training_of


def test_rates_fall_as_the_formulas_say() -> None:
    by_epochs, inverse = ByEpochs(every_epochs=3, factor=0.8), Inverse(decay=0.01)
    alpha, found = 1.0, []
    for epoch in range(10):  # as a loop that multiplies would do it
        if epoch and epoch % 3 == 0:
            alpha *= 0.8
        found += [alpha] * 4
    assert [by_epochs(step, 4) for step in range(40)] == pytest.approx(found)
    assert [inverse(step, 4) for step in (0, 50, 100)] == pytest.approx([1, 1 / 1.5, 1 / 2])
    with pytest.raises(ValueError, match="every_epochs must be 1 or more, got 0"):
        ByEpochs(every_epochs=0)
    with pytest.raises(ValueError, match="decay must be 0 or more and finite, got -1"):
        Inverse(decay=-1)


def settings(prepared: Path, run: Path, *words: str) -> object:
    plain = ["optimizer=sgd", "optimizer.warmup_steps=0", "optimizer.decay=0"]
    return small_shop.settings(prepared, run, *plain, *words)


def weights(run: Path) -> torch.Tensor:
    return open_run(run, "last").model.item_weight.detach()


def test_a_run_trains_by_its_rate(tmp_path: Path) -> None:
    """At a rate that falls to next to nothing, the second epoch changes nothing."""
    prepared = small_shop.make(tmp_path / "prepared", repeats=False)
    for name, words in {
        "one": ["trainer.max_epochs=1"],
        "two": ["rate=by_epochs", "rate.every_epochs=1", "rate.factor=1e-12"],
        "steady": [],
    }.items():
        epochs = [] if name == "one" else ["trainer.max_epochs=2"]
        train(settings(prepared, tmp_path / name, *words, *epochs))  # type: ignore[arg-type]
    first, second, steady = (weights(tmp_path / name) for name in ("one", "two", "steady"))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-7)
    assert (first - steady).abs().max() > 1e-3


def test_a_loss_that_leaps_pulls_the_brake() -> None:
    brake = Brake(times=2.0, smoothing=0.5, after_steps=2, hold_steps=2, factor=0.1)
    braking, factors = Braking(), []
    for batch, loss in enumerate([8.0, 1.0, 9.0, 2.0, 5.0, 40.0, 1.0, 1.0, 1.0]):
        factor, braking = brake.held(torch.tensor(loss), braking, batch)
        factors.append(factor)
    # running means before each: 0, 8, 4.5, 6.75, 4.375, 4.6875, ...; the first two do not pull
    assert factors == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.1, 0.1, 1.0]
    assert brake.held(torch.tensor(100.0), braking, 0)[0] == 1.0  # an epoch begins anew


def test_a_step_that_is_left_out_changes_nothing(tmp_path: Path) -> None:
    """Pulled at every step but the first, a run is one of a single step; without, it is not."""
    prepared = small_shop.make(tmp_path / "prepared", repeats=False)
    words = ["trainer.max_epochs=1", "trainer.batch_users=30"]
    pulled = ["brake=leaps", "brake.after_steps=1", "brake.times=1.000001"]
    train(settings(prepared, tmp_path / "free", *words))  # type: ignore[arg-type]
    train(settings(prepared, tmp_path / "calm", *words, "brake=leaps"))  # type: ignore[arg-type]
    torch.testing.assert_close(weights(tmp_path / "free"), weights(tmp_path / "calm"))
    rising = [*words, *pulled, "optimizer.table_lr=40", "optimizer.lr=4", "trainer.batch_users=12"]
    train(settings(prepared, tmp_path / "held", *rising))  # type: ignore[arg-type]
    train(settings(prepared, tmp_path / "loose", *rising[:2], *rising[5:]))  # type: ignore[arg-type]
    assert not np.allclose(weights(tmp_path / "held").numpy(), weights(tmp_path / "loose").numpy())


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "own targets"])
def test_a_step_under_a_brake_is_that_without_and_one_left_out_is_none(loss: str) -> None:
    ways = []
    for brake in (Brake(after_steps=1, hold_steps=0), None):
        torch.manual_seed(0)
        model = MODELS["plain"]()
        before = [one.detach().clone() for one in model.parameters()]
        catalog = model.get_parameter("item_weight")
        untouched = catalog.detach().clone()
        training = training_of(model, LOSSES[loss](model), Adam(table_weight_decay=0.1), brake)
        if brake is not None:
            training.progress.braking = Braking(mean=1e-9, steps=1)  # any loss is a leap
            training.progress.batch = 1
            training.training_step(training.arrange(new_batch(0), torch.Generator()), 0)
            assert all(map(torch.equal, before, model.parameters()))
            training.progress.braking = Braking()
        training.progress.step = 1
        training.training_step(training.arrange(new_batch(1), torch.Generator()), 1)
        assert (catalog != untouched).any(1).all() == (loss == "softmax")
        ways.append([one.detach() for one in model.parameters()])
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other)


def test_a_solved_model_has_neither(tmp_path: Path) -> None:
    prepared = small_shop.make(tmp_path / "prepared", repeats=False)
    with pytest.raises(ConfigError, match="rate: a model that is solved has no learning rate"):
        small_shop.composed(prepared, tmp_path / "run", "model=ease", "rate=inverse")
