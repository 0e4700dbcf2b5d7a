"""The generator's events have the properties that its settings name."""

import numpy as np
import pyarrow as pa
import pytest

from deeprec.data import synthetic
from deeprec.data.synthetic import Synthetic
from deeprec.errors import ConfigError


def draw(**settings: float) -> tuple[pa.Table, pa.Table]:
    plain = {
        "num_users": 600, "num_items": 90, "events_per_user": 30, "num_tastes": 6, "zipf": 1.0,
        "taste_strength": 1.0, "drift": 0.0, "repeat_share": 0.0, "days": 10, "seed": 1,
    }  # fmt: skip
    pieces = list(Synthetic(**{**plain, **settings}).pieces())  # type: ignore[arg-type]
    return pa.concat_tables(p[0] for p in pieces), pa.concat_tables(p[1] for p in pieces)


def tastes(table: pa.Table) -> np.ndarray:
    return np.array([item.split("-")[0] for item in table["item"].to_pylist()])


def test_the_same_seed_gives_the_same_events_and_another_others() -> None:
    assert draw()[0].equals(draw()[0])
    assert not draw()[0].equals(draw(seed=2)[0])


def test_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "CHUNK_USERS", 250)  # several chunks
    events, users = draw()
    assert users["user"].to_pylist() == sorted(set(events["user"].to_pylist()))
    assert len(users) == 600
    assert abs(len(events) / 600 - 30) < 5  # geometric: 4 standard deviations
    times = events["time"].to_numpy()
    assert times.min() >= 1_672_531_200
    assert times.max() < 1_672_531_200 + 10 * 86_400


def test_users_keep_to_their_taste_unless_it_drifts() -> None:
    events, users = draw()
    region = dict(zip(users["user"].to_pylist(), users["region"].to_pylist(), strict=True))
    own = np.array([region[user][1:] for user in events["user"].to_pylist()])
    assert (own == np.char.lstrip(tastes(events), "t")).all()
    mixed, _ = draw(drift=1.0)
    per_user: dict[str, set[str]] = {}
    for user, taste in zip(mixed["user"].to_pylist(), tastes(mixed), strict=True):
        per_user.setdefault(user, set()).add(taste)
    assert {len(found) for found in per_user.values()} == {1, 2}


def test_popularity_falls_with_rank_as_told() -> None:
    events, _ = draw(taste_strength=0.0, num_users=4000, num_tastes=1, zipf=1.0)
    _, counts = np.unique(events["item"].to_pylist(), return_counts=True)
    slope = np.polyfit(np.log(np.arange(1, 91)), np.log(counts), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.05)


def test_repeats_are_of_the_users_own_items() -> None:
    def share_of_repeats(**settings: float) -> float:
        events, _ = draw(taste_strength=0.0, num_items=20_000, num_tastes=1, zipf=0.0, **settings)
        pairs = set(zip(events["user"].to_pylist(), events["item"].to_pylist(), strict=True))
        return 1 - len(pairs) / len(events)

    assert share_of_repeats() < 0.01
    assert share_of_repeats(repeat_share=0.5) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_users": 0},
        {"num_items": 5},
        {"events_per_user": 0.5},
        {"drift": 2},
        {"repeat_share": 1},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        draw(**settings)
