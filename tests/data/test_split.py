"""Holdout rules against plain Python: who lands where, and that the order of rows is nothing."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deeprec.data.log import EventLog
from deeprec.data.read import table
from deeprec.data.split import (
    Auto,
    Given,
    LeaveLastOut,
    RandomFraction,
    Split,
    TimeCut,
    UserHoldout,
    with_more_training,
)
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError
from deeprec.verb import TrainOn

MakeLog = Callable[..., EventLog]
Row = tuple[Any, ...]
TIMED, BARE = "user item time", "user item"


def drawn(count: int, seed: int = 0, last: int = 10**6) -> list[Row]:
    draw = random.Random(seed)
    return [
        (f"u{draw.randint(0, 39)}", f"i{draw.randint(0, 30)}", draw.randint(0, last))
        for _ in range(count)
    ]


def labelled(space: Workspace, split: Split, names: str) -> list[Row]:
    columns = space.fetch(split.events.select(*names.split(), "part", "role")).to_pydict()
    return sorted(zip(*columns.values(), strict=True))


RULES = [Auto(), TimeCut(), LeaveLastOut(), RandomFraction(), UserHoldout()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_order_of_rows_and_nothing_else_leaves_the_split_as_it_is(
    space: Workspace, log: MakeLog, rule: Any
) -> None:
    given = drawn(800, last=30)  # many equal times
    shuffled = random.Random(1).sample(given, len(given))
    first = labelled(space, rule(space, log(TIMED, given), 7), TIMED)
    assert labelled(space, rule(space, log(TIMED, shuffled), 7), TIMED) == first
    assert sorted(row[:3] for row in first) == sorted(given)
    assert {row[3] for row in first} == {0, 1, 2}  # every rule yields validation
    other = labelled(space, rule(space, log(TIMED, given), 8), TIMED)
    assert (other == first) == isinstance(rule, Auto | TimeCut)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("train_on", ["validation", "everything"])
def test_what_was_set_aside_is_trained_on_when_told_and_the_holdout_stays(
    space: Workspace, log: MakeLog, rule: Any, train_on: TrainOn
) -> None:
    plain = rule(space, log(TIMED, drawn(800)), 7)
    more = with_more_training(plain, train_on)
    expected = Counter()
    for *event, part, role in labelled(space, plain, TIMED):
        left = {"validation": ("holdout",), "everything": ()}[train_on]
        judged = part == 2 and "holdout" in left
        kept = role in ("all", "train", *left)
        expected[(*event, 2 if judged else 0, role if kept else "train")] += 1
    assert Counter(labelled(space, more, TIMED)) == expected
    assert more.instants["validation"] is None
    assert more.instants["holdout"] == (
        plain.instants["holdout"] if train_on == "validation" else None
    )


def test_a_time_cut_at_instants(space: Workspace, log: MakeLog) -> None:
    given = drawn(300)
    split = TimeCut(validation_from=600_000, holdout_from="1970-01-10")(space, log(TIMED, given), 0)
    for _, _, time, part, role in labelled(space, split, TIMED):
        assert part == (2 if time >= 9 * 86_400 else 1 if time >= 600_000 else 0)
        assert role == "all"
    assert split.instants == {"train": None, "validation": 600_000, "holdout": 9 * 86_400}


def test_a_time_cut_by_share_takes_the_newest(space: Workspace, log: MakeLog) -> None:
    given = [("u", f"i{t}", t) for t in range(1000)]
    split = TimeCut(holdout_fraction=0.2, validation_fraction=0.25)(space, log(TIMED, given), 0)
    parts = Counter(part for _, _, _, part, _ in labelled(space, split, TIMED))
    assert parts == {0: 600, 1: 200, 2: 200}


def test_a_time_cut_that_leaves_a_part_empty_is_refused(space: Workspace, log: MakeLog) -> None:
    given = [("u", "i", 5), ("u", "i", 5)]
    for rule in (TimeCut(), TimeCut(validation_from=6, holdout_from=7)):
        with pytest.raises(DataError, match=r"split\.holdout_from"):
            rule(space, log(TIMED, given), 0)
    with pytest.raises(ConfigError, match="before"):
        TimeCut(validation_from=7, holdout_from=7)(space, log(TIMED, drawn(9)), 0)


def test_leave_last_out_takes_the_last_and_measures_its_leak(
    space: Workspace, log: MakeLog
) -> None:
    given = drawn(300, seed=3, last=9)  # many equal times
    split = LeaveLastOut(holdout_events=2, validation_events=1)(space, log(TIMED, given), 0)
    found = labelled(space, split, TIMED)
    assert sorted(row[:3] for row in found) == sorted(given)
    mine = defaultdict(list)
    for user, _, time, part, _ in found:
        mine[user].append((time, part))
    for rows in mine.values():  # in order of time, whichever of equal times
        labels = [0] * (len(rows) - 3) + [1, 2, 2] if len(rows) > 3 else [0] * len(rows)
        assert [part for _, part in sorted(rows)] == labels
    leak, ties = split.checks
    train = [row[2] for row in found if row[3] == 0]
    later = [sum(t > row[2] for t in train) / len(train) for row in found if row[3] == 2]
    assert leak.facts["share"] == pytest.approx(sum(later) / len(later))
    assert leak.level == "warn"
    judged = [sorted(time for time, _ in rows) for rows in mine.values() if len(rows) > 3]
    tied = sum(times[-3] == times[-2] for times in judged)
    assert 0 < tied < len(judged)
    assert ties.facts == {"users": tied, "share": tied / len(judged)}
    assert ties.level == ("warn" if tied > 0.2 * len(judged) else "ok")


def test_of_a_basket_every_item_is_as_often_held_out(space: Workspace, log: MakeLog) -> None:
    given = [(f"u{user}", f"i{item}", 0) for user in range(400) for item in range(8)]
    split = LeaveLastOut()(space, log(TIMED, given), 0)
    found = labelled(space, split, TIMED)
    assert "split=user_holdout" in split.checks[-1].advice  # a cut in time leaves nothing before it
    held_out = Counter(item for _, item, _, part, _ in found if part == 2)
    assert all(abs(held_out[f"i{item}"] - 50) < 27 for item in range(8))  # 4 standard deviations


@pytest.mark.parametrize(
    ("names", "repeats"), [(TIMED, True), (TIMED, False), (BARE, True), (BARE, False)]
)
def test_a_random_fraction_is_one_and_copies_of_a_pair_stay_together_where_one_tells_the_other(
    space: Workspace, log: MakeLog, names: str, repeats: bool
) -> None:
    given = [tuple(row[: len(names.split())]) for row in drawn(6000)]
    events = replace(log(names, given), repeats=repeats)
    found = labelled(space, RandomFraction(holdout=0.3, validation=0.1)(space, events, 0), names)
    shares = Counter(row[-2] for row in found)
    parts = defaultdict(list)
    for row in found:
        parts[row[:2]].append(row[-2])
    together = all(len({*part}) == 1 for part in parts.values())
    assert together == (names == BARE and not repeats)
    of_pairs = 2 if together else 1  # 40 * 31 pairs in place of 6,000 events: 4 standard deviations
    assert abs(shares[2] / 6000 - 0.3) < 0.024 * of_pairs
    assert abs(shares[1] / 6000 - 0.1) < 0.0155 * of_pairs


@pytest.mark.parametrize("name", ["RandomFraction", "UserHoldout", "Given"])
def test_copies_of_a_pair_are_drawn_one_by_one_and_the_first_as_one_alone(
    space: Workspace, log: MakeLog, name: str
) -> None:
    names, pairs = "user item value", [(f"u{n % 40}", f"i{n // 40}") for n in range(800)]
    given = [(*pair, float(copy)) for n, pair in enumerate(pairs) for copy in range(n % 3 + 1)]
    further = log(names, [("u1", "i1", 9.0)])
    rule = {
        "RandomFraction": RandomFraction(),
        "UserHoldout": UserHoldout(holdout_users=0.4, validation_users=0.4, fold_in=0.5),
        "Given": Given(holdout="further"),
    }[name]

    def split(rows: list[Row]) -> list[Row]:
        return labelled(
            space, rule(space, replace(log(names, rows), more=lambda _: further), 7), names
        )

    found = split(given)
    assert split(random.Random(1).sample(given, len(given))) == found
    parts = defaultdict(set)
    for user, item, value, part, _ in found:
        if value < 9:
            parts[user, item].add(part)
    assert {len(one) for one in parts.values()} >= {1, 2}
    if name != "UserHoldout":  # which judges the same share of more
        firsts = [row for row in given if row[2] == 0]
        assert [row for row in found if row[2] in (0, 9)] == split(firsts)


@pytest.mark.parametrize("names", [TIMED, BARE])
def test_user_holdout_shows_and_judges_unseen_users(
    space: Workspace, log: MakeLog, names: str
) -> None:
    draw = random.Random(5)
    given = [
        (f"u{u}", f"i{i}", draw.randint(0, 10**6))[: len(names.split())]
        for u in range(500)
        for i in draw.sample(range(60), draw.randint(1, 30))
    ]
    rule = UserHoldout(holdout_users=0.2, validation_users=0.1, fold_in=0.8)
    by_user = defaultdict(list)
    for row in labelled(space, rule(space, log(names, given), 0), names):
        by_user[row[0]].append(row[-2:])
    roles = Counter(rows[0][1] for rows in by_user.values())
    assert abs(roles["holdout"] / 500 - 0.2) < 0.08
    assert abs(roles["validation"] / 500 - 0.1) < 0.06
    for rows in by_user.values():
        role = rows[0][1]
        judged = {"train": 0, "validation": 1, "holdout": 2}[role]
        assert {r for _, r in rows} == {role}
        assert {part for part, _ in rows} <= {0, judged}
        if role != "train":
            assert sum(part == judged for part, _ in rows) == len(rows) // 5


def test_a_given_holdout_is_read_and_filtered_as_the_data_are(
    space: Workspace, tmp_path: Path
) -> None:
    lines = [f"u{n % 50},i{n},{n % 5}" for n in range(2000)]
    (tmp_path / "train.csv").write_text("\n".join(["u,i,stars", *lines]))
    (tmp_path / "test.csv").write_text("stars,i,u\n4,i7,u007\n1,i7,u1\n")
    given = table(space, events=str(tmp_path / "train.csv"), user="u", item="i", value="stars")
    split = Given(holdout=str(tmp_path / "test.csv"))(space, given, 3)
    found = labelled(space, split, "user item value")
    assert [row for row in found if row[3] == 2] == [
        ("u007", "i7", 4.0, 2, "all"), ("u1", "i7", 1.0, 2, "all")
    ]  # fmt: skip
    assert sorted(f"{u},{i},{v:.0f}" for u, i, v, part, _ in found if part < 2) == sorted(lines)
    assert abs(sum(part == 1 for _, _, _, part, _ in found) / 2000 - 0.1) < 0.03
    assert [file.name for file in split.files] == ["test.csv"]
    assert {c.name: c.level for c in split.checks} == {"overlap": "ok"}
    for repeats, level in [(False, "warn"), (True, "ok")]:  # which no time tells from an overlap
        again = Given(holdout=str(tmp_path / "train.csv"))(
            space, replace(given, repeats=repeats), 3
        )
        assert (again.checks[-1].level, again.checks[-1].facts) == (level, {"events": 2000})


def test_a_given_holdout_needs_a_form_to_read(space: Workspace, log: MakeLog) -> None:
    with pytest.raises(DataError, match="data=table"):
        Given(holdout="x")(space, log(BARE, drawn(3)), 0)


def test_auto_cuts_by_time_where_there_is_time(space: Workspace, log: MakeLog) -> None:
    assert Auto()(space, log(TIMED, drawn(300)), 0).name == "time_cut"
    bare = [row[:2] for row in drawn(300)]
    assert Auto()(space, log(BARE, bare), 0).name == "random_fraction"
    for rule in (TimeCut(), LeaveLastOut()):
        with pytest.raises(DataError, match=r"split=random_fraction"):
            rule(space, log(BARE, bare), 0)


@pytest.mark.parametrize(("days", "rule"), [(1, "random_fraction"), (2, "random_fraction"),
                                            (3, "time_cut")])  # fmt: skip
def test_auto_draws_where_there_are_too_few_times_to_cut(
    space: Workspace, log: MakeLog, days: int, rule: str
) -> None:
    """As of events of one day, told by its date: no instant has events on all sides of it."""
    rows = [(f"u{n % 40}", f"i{n}", 86_400 * (n % days)) for n in range(300)]
    split = Auto()(space, log(TIMED, rows), 0)
    assert split.name == rule
    assert any("cannot be cut" in one.says for one in split.checks) == (rule != "time_cut")
    if days == 1:
        with pytest.raises(
            DataError, match=r"split=time_cut split\.validation_from=.*, or split=ra"
        ):
            TimeCut()(space, log(TIMED, rows), 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomFraction(holdout=0.6, validation=0.5),
        lambda: RandomFraction(holdout=0.0),
        lambda: UserHoldout(fold_in=1.0),
        lambda: TimeCut(holdout_fraction=1.5),
        lambda: LeaveLastOut(validation_events=0),
        lambda: Given(holdout="x", validation=0),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"split\."):
        make()
