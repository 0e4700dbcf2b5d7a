"""A run that went wrong says so, and no sound one does, whatever its loss and however short."""

import pytest

from deeprec.errors import DataError
from deeprec.trainer.sound import few_taught, warning

SOUND = {"first_loss": 20.0, "last_loss": 15.0, "best_score": 0.4, "last_score": 0.39}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"last_loss": 1e32}, "the loss was 20 at the first step, 1e+32 at the end"),
        ({"last_loss": 1e3}, None),  # another batch, or a penalty that comes later
        ({"first_loss": -0.01, "last_loss": 60.0}, None),  # as contrastive divergence begins
        ({"first_loss": None, "last_loss": 1e32}, None),  # begun by a deeprec that did not look
        ({"first_loss": None, "last_loss": None, "best_score": None, "last_score": None}, None),
        ({"last_score": 0.1}, "ndcg@100 was 0.4000 at its best, 0.1000 at the end"),
        ({"last_score": 0.1, "judged": 9}, None),  # nine users say nothing
        ({"best_score": 0.0, "last_score": 0.0}, None),
    ],
)
def test_what_went_wrong_is_told(changes: dict[str, float | None], told: str | None) -> None:
    found = warning(**{**SOUND, "judged": 500, **changes})  # type: ignore[arg-type]
    assert (found is None) == (told is None)
    if found is not None and told is not None:
        assert found.startswith(f"{told}: training went wrong. Lower the learning rates")


def test_a_solved_model_is_not_told_of_learning_rates() -> None:
    found = warning(first_loss=None, last_loss=None, best_score=0.4, last_score=0.1, judged=500)
    assert found is not None
    assert "learning rates" not in found


def test_an_epoch_that_teaches_nobody_ends_a_run_and_few_are_told() -> None:
    assert few_taught(5, 100) is None
    assert "4 of 100 users had something to learn" in str(few_taught(4, 100))
    assert "0 of 2 users" in str(few_taught(0, 2))  # the next epoch draws other cuts
    with pytest.raises(DataError, match="none of 100 users had both"):
        few_taught(0, 100)
