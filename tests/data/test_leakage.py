"""Leaks planted by hand are counted; random folders are counted by plain loops as well."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from deeprec.data import leakage as leaks
from deeprec.data import store
from deeprec.data.leakage import Finding, leakage
from deeprec.data.store import Events, PartName, Prepared

ITEMS = "abcdefgh"
CUT = 100
Log = dict[str, "User"]


@dataclass
class User:
    """Events of each part as `a1 b2`: item a at second 1, item b at second 2."""

    train: str = ""
    validation: str = ""
    holdout: str = ""
    role: str = "all"
    unknown: int = 0  # holdout events outside the catalog

    def events(self, part: str) -> list[tuple[int, int]]:
        return [(ITEMS.index(word[0]), int(word[1:])) for word in getattr(self, part).split()]


@dataclass
class Folder:
    log: Log
    repeats: bool = True
    instant: int | None = CUT
    times: bool = True

    def part(self, name: str) -> Events:
        lists = [user.events(name) for user in self.log.values()]
        offsets = np.array([0, *accumulate(map(len, lists))], np.int64)
        events = [event for one in lists for event in one]
        items = np.array([item for item, _ in events], np.int32)
        times = np.array([time for _, time in events], np.int64) if self.times else None
        return Events(offsets, items, times)

    def write(self, path: Path) -> Prepared:
        users = self.log.values()
        store.write(
            path / "prepared",
            items=pa.table({"item_id": list(ITEMS), "popularity": [0] * len(ITEMS)}),
            users=pa.table(
                {
                    "user_id": list(self.log),
                    "role": [user.role for user in users],
                    "holdout_unknown": [user.unknown for user in users],
                }
            ),
            vocabularies={},
            parts={name: [self.part(name)] for name in store.PARTS},
            contract={},
            manifest={
                "repeats": self.repeats,
                "instants": {"train": None, "validation": None, "holdout": self.instant},
            },
        )
        return Prepared(path / "prepared")


def found(
    folder: Folder, path: Path, part: PartName = "holdout", *, exclude_seen: bool = False
) -> dict[str, Finding]:
    findings = leakage(folder.write(path), part, exclude_seen=exclude_seen)
    return {one.name: one for one in findings}


CLEAN: Log = {
    "u1": User("a1 b2", "a50", "c100"),
    "u2": User("b1 c3", "b60", "a120 b130"),
    "u3": User("c1 a2", "", ""),
}


def test_a_clean_cut_in_time_has_nothing_to_say(tmp_path: Path) -> None:
    findings = found(Folder(CLEAN), tmp_path)
    assert {one.level for one in findings.values()} == {"ok"}
    assert list(findings) == [
        "known_events", "repeats", "cut", "later_events", "new_items", "new_users"
    ]  # fmt: skip
    assert findings["repeats"].facts == {"events": 1, "share": 1 / 3}  # u2 takes b again
    assert "1 of 3 holdout events (33.3 %)" in findings["repeats"].says
    assert findings["later_events"].says.startswith("no training event is later")


def test_events_on_both_sides_are_counted_one_by_one(tmp_path: Path) -> None:
    log = CLEAN | {
        "u4": User("a1 d9", "e40", "d9 d9 d10 e40 f100"),  # d9 twice and e40; d10 is a repeat
        "u5": User("g100", "", "h100"),  # neither the item nor the user of another one's event
        "u6": User("h100", "", "g100"),
    }
    findings = found(Folder(log, instant=None), tmp_path)
    assert findings["known_events"].facts == {"events": 3, "share": 3 / 10}
    assert findings["known_events"].level == "fail"
    assert findings["repeats"].facts["events"] == 1 + 4


def test_one_known_event_of_many_is_a_warning(tmp_path: Path) -> None:
    many = " ".join(f"a{time}" for time in range(1000, 1200))
    findings = found(Folder({"u": User("b1 a1000", "", many)}, instant=None), tmp_path)
    assert findings["known_events"].facts["events"] == 1
    assert findings["known_events"].level == "warn"


def test_without_times_a_repeat_cannot_be_told_from_a_leak(tmp_path: Path) -> None:
    allowed = found(Folder(CLEAN, times=False, instant=None), tmp_path / "allowed")
    assert allowed["known_events"].facts["events"] == 0
    assert "1 holdout events" in allowed["known_events"].says
    assert allowed["later_events"].level == "warn"
    assert "cut" not in allowed
    # where seen items are excluded, an event on both sides is a mistake that no figure holds
    excluded = Folder(CLEAN, repeats=False, times=False)
    kept_out = found(excluded, tmp_path / "excluded", exclude_seen=True)["known_events"]
    assert (kept_out.level, kept_out.facts["events"]) == ("warn", 1)
    refused = found(Folder(CLEAN, repeats=False, times=False), tmp_path / "refused")
    assert refused["known_events"].facts["events"] == 1
    assert (refused["known_events"].level, refused["repeats"].level) == ("fail", "warn")


def test_what_is_at_the_cut_or_after_it_is_no_past(tmp_path: Path) -> None:
    log = CLEAN | {"u4": User("a99 a100 b101", "c200", "")}
    cut = found(Folder(log), tmp_path / "all")["cut"]
    assert (cut.level, cut.facts["events"]) == ("fail", 3)
    log["u4"].role = "holdout"  # nobody learns from it
    assert found(Folder(log), tmp_path / "unseen")["cut"].level == "ok"


def test_training_events_later_than_what_is_judged_are_counted(tmp_path: Path) -> None:
    log = {
        "u1": User("a1 b30", "a40", "c20 d5"),  # first judged at 5: own b30 and a40 are later
        "u2": User("a20 b21", "", "c20"),  # first judged at 20: own b21 is later, a20 is not
        "u3": User("c50", "", ""),
    }
    later = found(Folder(log, instant=None), tmp_path)["later_events"]
    # of the five training events u1 sees 30 20 21 50 later, u2 30 21 50
    assert later.facts["share_of_training"] == pytest.approx((4 + 3) / (2 * 5))
    assert later.facts["own_events"] == 3
    assert later.facts["own_share"] == 3 / 5
    assert later.facts["users"] == 2
    assert later.says.startswith("on average 70 % of the training events are later than a user's")
    assert "; 3 events of the own histories of 2 of 2 judged users (100.0 %)" in later.says
    assert later.level == "warn"


def test_items_and_users_of_the_holdout_alone_are_counted(tmp_path: Path) -> None:
    log = CLEAN | {
        "u4": User("a1", "e50", "d100 d101 e102 a103", unknown=3),
        "u5": User("f1", "", "f100", role="holdout", unknown=1),  # f is in no training
        "u6": User("a2", "", "", role="train", unknown=7),  # never judged
        "u7": User("", "", "a100"),
    }
    findings = found(Folder(log), tmp_path)
    facts = findings["new_items"].facts
    assert (facts["cold_items"], facts["cold_events"]) == (3, 4)  # d twice, e, f
    assert (facts["first_items"], facts["first_events"]) == (2, 3)  # e is in the validation part
    assert facts["outside_events"] == 4
    assert facts["share"] == 8 / 13
    assert "; 1 of these events are on items that validation knows" in findings["new_items"].says
    assert findings["new_items"].level == "warn"
    assert findings["new_users"].facts == {"users": 1, "share": 1 / 5}


def test_before_the_validation_part_lies_train_alone(tmp_path: Path) -> None:
    log = {"u1": User("a1", "a1 b50", "b50"), "u2": User("c1", "", "c1")}
    findings = found(Folder(log), tmp_path, "validation")
    assert findings["known_events"].facts == {"events": 1, "share": 1 / 2}
    assert findings["new_items"].facts["cold_events"] == 1
    assert "cut" not in findings  # this folder knows an instant of the holdout only


def random_folder(seed: int) -> Folder:
    draw = random.Random(seed)

    def some(most: int) -> str:
        return " ".join(
            f"{draw.choice(ITEMS[:6])}{draw.randrange(80, 110)}"
            for _ in range(draw.randint(0, most))
        )

    roles = ["all", "all", "all", "train", "holdout"]
    log = {
        f"{n}": User(some(9), some(3), some(5), draw.choice(roles), draw.randint(0, 1))
        for n in range(50)
    }
    return Folder(log, draw.random() < 0.5, draw.choice([None, 95]))


def counted(folder: Folder) -> dict[str, Mapping[str, Any]]:
    """The facts by plain loops over users and events."""
    log = folder.log.values()
    learned = [user for user in log if user.role in ("all", "train")]
    judged = [user for user in log if user.role in ("all", "holdout") and user.holdout]
    train = [event for user in learned for event in user.events("train")]
    known = train + [event for user in learned for event in user.events("validation")]
    holdout = [event for user in judged for event in user.events("holdout")]
    cold = [item for item, _ in holdout if item not in {item for item, _ in train}]
    new = [item for item, _ in holdout if item not in {item for item, _ in known}]
    outside = sum(user.unknown for user in log if user.role in ("all", "holdout"))
    same = again = late = late_users = pairs = history = 0
    for user in judged:
        own, asked = user.events("train") + user.events("validation"), user.events("holdout")
        same += sum(event in own for event in asked)
        again += sum(item in {item for item, _ in own} for item, _ in asked)
        first = min(time for _, time in asked)
        mine = sum(time > first for _, time in own)
        late, late_users = late + mine, late_users + (mine > 0)
        pairs += sum(time > first for _, time in train)
        history += len(own)
    facts: dict[str, Mapping[str, Any]] = {
        "known_events": {"events": same, "share": same / len(holdout)},
        "repeats": {"events": again, "share": again / len(holdout)},
        "later_events": {
            "share_of_training": pairs / (len(judged) * len(train)),
            "own_events": late,
            "own_share": late / history,
            "users": late_users,
        },
        "new_items": {
            "share": (len(cold) + outside) / (len(holdout) + outside),
            "cold_items": len(set(cold)),
            "cold_events": len(cold),
            "first_items": len(set(new)),
            "first_events": len(new),
            "outside_events": outside,
        },
    }
    empty = sum(not (user.train or user.validation) for user in judged)
    facts["new_users"] = {"users": empty, "share": empty / len(judged)}
    if folder.instant is not None:
        facts["cut"] = {"events": sum(time >= folder.instant for _, time in known)}
    return facts


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_held_at_once_the_counts_are_those_of_loops(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "CHUNK_EVENTS", [2**20, 1, 7, 40][seed % 4])
    folder = random_folder(seed)
    assert {name: one.facts for name, one in found(folder, tmp_path).items()} == counted(folder)


def test_nobody_to_judge_is_no_error(tmp_path: Path) -> None:
    findings = found(Folder({"u": User("a1 b2", "", "")}), tmp_path)
    assert {one.level for one in findings.values()} == {"ok"}
