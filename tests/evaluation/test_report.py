"""Reports put together: only under one card, user by user, nothing twice."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deeprec.errors import ConfigError, IntegrityError
from deeprec.evaluation.over_seeds import over_seeds
from deeprec.evaluation.report import FORMAT, Report, differences, read, together, write

CARD = {
    "split": {"name": "time_cut", "holdout_from": "2017-12-01"},
    "exclude_seen": True,
    "cutoffs": [1],
    "versions": {"deeprec": "0.1"},
    "interval": "95 %",
}


def report(*names: str, users: str = "abc", card: dict[str, object] | None = None) -> Report:
    draw = np.random.default_rng(len(names))
    return Report(
        {
            "format": FORMAT,
            "headline": 1,
            "systems": [
                {"name": name, "kind": "baseline" if name == "popularity" else "run"}
                for name in names
            ],
            "examples": [
                {"history": [], "taken": ["x"], "lists": {name: [name] for name in names}}
            ],
            "warnings": [],
            "protocol": {**CARD, **(card or {})},
        },
        pa.array(list(users)),
        [{"ndcg@1": draw.random(len(users))} for _ in names],
    )


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    ours = report("mine", "popularity")
    write(ours, tmp_path)
    found = read(tmp_path)
    assert found.content == ours.content
    assert found.user_ids.to_pylist() == ["a", "b", "c"]
    for mine, theirs in zip(ours.values, found.values, strict=True):
        assert np.array_equal(mine["ndcg@1"], theirs["ndcg@1"])


def test_a_damaged_report_is_refused(tmp_path: Path) -> None:
    write(report("mine"), tmp_path)
    content = bytearray((tmp_path / "report.parquet").read_bytes())
    content[len(content) // 4] ^= 0xFF
    (tmp_path / "report.parquet").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"report.parquet: is damaged"):
        read(tmp_path)
    (tmp_path / "report.parquet").unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        read(tmp_path)
    write(report("mine"), tmp_path)
    old = json.loads((tmp_path / "report.json").read_text()) | {"format": 1}
    (tmp_path / "report.json").write_text(json.dumps(old))
    with pytest.raises(IntegrityError, match="evaluate again"):
        read(tmp_path)


def test_users_are_paired_by_id_whatever_their_order() -> None:
    ours, theirs = report("mine"), report("mine", "popularity", users="cab")
    both = together([("A", ours), ("B", theirs), ("C", report("popularity"))], force=False)
    assert [system["name"] for system in both.systems] == ["mine", "mine 2", "popularity"]
    assert both.user_ids.to_pylist() == ["a", "b", "c"]
    assert both.values[1]["ndcg@1"].tolist() == theirs.values[0]["ndcg@1"][[1, 2, 0]].tolist()
    lists = both.content["examples"][0]["lists"]
    assert lists == {"mine": ["mine"], "mine 2": ["mine"], "popularity": ["popularity"]}
    assert both.content["forced"] == []


def test_other_rules_are_refused_line_by_line_or_forced_and_said() -> None:
    split = {"name": "time_cut", "holdout_from": "2018-01-01"}
    other = report("mine", users="bcd", card={"split": split, "versions": {}, "interval": "90 %"})
    with pytest.raises(ConfigError) as error:
        together([("A", report("mine")), ("B", other)], force=False)
    line = 'split.holdout_from: "2017-12-01" (A), "2018-01-01" (B)'
    assert f"\n  - {line}\n" in str(error.value)
    assert str(error.value).count("\n  - ") == 1  # versions and draws do not make figures others
    assert "force=true" in str(error.value)

    both = together([("A", report("mine")), ("B", other)], force=True)
    assert both.content["forced"][0] == line
    assert both.user_ids.to_pylist() == ["b", "c"]  # the users of both


def test_forced_reports_of_other_cutoffs_are_compared_at_one_that_all_have() -> None:
    few, many = report("few"), report("many", card={"cutoffs": [1, 20]})
    many.content["headline"] = 20
    for one in (few, many):
        one.systems[0] |= {"slices": {"history": []}, "recommended": {"popularity": [1]}}
    both = together([("A", many), ("B", few)], force=True)
    assert (both.content["headline"], both.card["cutoffs"]) == (1, [1])
    # slices were judged at the headline alone
    assert [system["slices"] for system in both.systems] == [{}, {"history": []}]
    assert both.content["forced"][1] == "compared at 1, which all have; without the slices of many"
    with pytest.raises(ConfigError, match=r"share none: \[1\] \(A\), \[20\] \(B\)"):
        together([("A", few), ("B", report("other", card={"cutoffs": [20]}))], force=True)


def test_reports_are_compared_where_the_lists_of_both_reach() -> None:
    card = {"cutoffs": [1, 20]}
    short, long = report("short", card=card), report("long", card=card)
    long.content["headline"] = 20
    short.systems[0] |= {"reach": 5}
    for one in (short, long):
        one.systems[0] |= {"slices": {"history": []}, "recommended": {}}
    both = together([("A", long), ("B", short)], force=False)
    assert (both.content["headline"], both.card["cutoffs"], both.cutoffs) == (1, [1, 20], [1])
    assert both.content["forced"] == []  # the rules are the same
    line = "compared at 1, which all have; without the slices of long"
    assert both.content["warnings"] == [line]
    assert long.content["warnings"] == []
    long.content["protocol"]["cutoffs"] = [20]
    with pytest.raises(ConfigError, match=r"share none: \[20\] \(A\), \[1\] \(B\)"):
        together([("A", long), ("B", short)], force=True)


def test_seeds_are_gathered_of_reports_that_tell_diversity_otherwise() -> None:
    ours = report("a, seed=1", "a, seed=2")
    for system in ours.systems:
        system["trained"] = {"model": "a"}
    ours.values = [{**ours.values[0], "diversity.kind@1": np.ones(3)}, ours.values[1]]
    (group,) = over_seeds(ours, 1)["groups"]
    assert (group["name"], list(group["metrics"])) == ("a", ["ndcg@1"])


def test_a_line_that_one_card_lacks_differs() -> None:
    assert list(differences({"a": 1}, {"a": 1, "b": {"c": None}}, "A", "B")) == [
        "b.c: None (A), null (B)"
    ]


def test_a_report_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    write(report("mine"), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    content["systems"][0]["name"] = "better"
    (tmp_path / "report.json").write_text(json.dumps(content, indent=2) + "\n")
    with pytest.raises(IntegrityError, match="was changed after it was written"):
        read(tmp_path)


def test_forced_reports_are_told_on_the_users_of_both() -> None:
    ours, theirs = report("mine", users="abc"), report("theirs", users="bcd", card={"seen": 1})
    both = together([("A", ours), ("B", theirs)], force=True, samples=20)
    for system, values in zip(both.systems, both.values, strict=True):
        assert system["metrics"]["ndcg@1"]["mean"] == pytest.approx(values["ndcg@1"].mean())
    assert both.card["users"]["scored"] == 2
    assert "the 2 users that every report judged" in both.content["forced"][-1]
    baselines = report("popularity"), report("popularity", card={"seen": 1})
    names = together([("A", baselines[0]), ("B", baselines[1])], force=True).systems
    assert [system["name"] for system in names] == ["popularity", "popularity 2"]
    with pytest.raises(ConfigError, match="no user in common"):
        together([("A", report("mine", users="abc")), ("B", report("mine", users="xyz"))], True)
