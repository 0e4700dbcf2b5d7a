"""Which users share a batch: nobody is lost, sizes are as asked, the same seed the same batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprec.data.grouping import Grouping

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)
GROUPINGS = st.builds(Grouping, st.integers(1, 9), st.none(), st.booleans()) | st.builds(
    Grouping, st.none(), st.integers(1, 90), st.booleans()
)


def plan(grouping: Grouping, lengths: np.ndarray, seed: int, world: int) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(lengths))
    return grouping.plan(order, lengths[order], draw, world)


@given(GROUPINGS, LENGTHS, st.integers(1, 3))
def test_every_user_is_in_exactly_one_batch_and_processes_have_as_many(
    grouping: Grouping, lengths: list[int], world: int
) -> None:
    of_users = np.array(lengths)
    for seed in range(2):
        groups = plan(grouping, of_users, seed, world)
        assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
        assert len(groups) == world * grouping.num_batches(of_users, world)
        empty = sum(len(group) == 0 for group in groups)
        if grouping.batch_users is None:
            assert empty == max(0, len(groups) - len(lengths)) < world
        assert world > 1 or not empty


def test_batches_hold_as_many_interactions_as_asked_up_to_one_user() -> None:
    lengths = np.random.default_rng(0).geometric(0.1, 3000)
    groups = plan(Grouping(batch_interactions=500), lengths, 1, 1)
    sizes = np.array([lengths[group].sum() for group in groups])
    assert np.abs(sizes - sizes.mean()).max() <= lengths.max()
    assert 500 * 0.97 <= sizes.mean() <= 500


def test_a_history_longer_than_a_batch_has_one_to_itself() -> None:
    lengths = np.array([1000, 3, 2, 1000, 3, 2, 5])
    groups = plan(Grouping(batch_interactions=5), lengths, 2, 1)
    assert len(groups) == 5  # of 5 interactions each, of 1000 or fewer
    assert sorted(len(group) for group in groups) in ([1, 1, 1, 2, 2], [1, 1, 1, 1, 3])


def test_by_users_batches_are_slices_of_the_shuffled_users() -> None:
    groups = plan(Grouping(batch_users=4), np.full(10, 3), 5, 1)
    order = np.random.default_rng(5).permutation(10)
    assert [group.tolist() for group in groups] == [order[i : i + 4].tolist() for i in (0, 4, 8)]


def test_users_of_a_bucketed_batch_are_alike_and_batches_come_in_any_order() -> None:
    lengths = np.random.default_rng(0).geometric(0.02, 2000)
    even, mixed = (
        plan(Grouping(batch_users=20, bucket_lengths=bucket), lengths, 1, 1)
        for bucket in (True, False)
    )
    spread = [np.mean([lengths[g].std() for g in groups]) for groups in (even, mixed)]
    assert spread[0] < spread[1] / 5
    means = np.array([lengths[group].mean() for group in even])
    assert np.abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


def test_the_same_seed_gives_the_same_batches() -> None:
    grouping, lengths = Grouping(None, 30, True), np.arange(1, 50)
    first, again, other = (plan(grouping, lengths, seed, 2) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("sizes", [(None, None), (4, 100)])
def test_exactly_one_size_is_given(sizes: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match=r"give one of .* as null; got batch_users"):
        Grouping(*sizes)
    with pytest.raises(ValueError, match="batch_interactions must be 1 or more, got 0"):
        Grouping(None, 0)
