"""What a space may say, and that what it may not say is named."""

import pytest

from deeprec.search.space import Choices, Interval, Space, applies


def test_a_range_is_what_its_yaml_says() -> None:
    space = Space(
        ranges={
            "loss": ["softmax", "marginal"],
            "model.width": {"low": 8, "high": 64, "log": True},
            "optimizer.lr": {"low": 1e-3, "high": 0.1},
            "loss.one_target": {"low": 0.8, "high": 1.0, "when": {"loss": "marginal"}},
            "model.hidden_dims": {"choices": [[64], [64, 32]], "when": {"loss": ["softmax"]}},
        }
    )
    assert space.ranges == {
        "loss": Choices(["softmax", "marginal"]),
        "model.width": Interval(8, 64, log=True),
        "optimizer.lr": Interval(1e-3, 0.1),
        "loss.one_target": Interval(0.8, 1.0, when={"loss": ["marginal"]}),
        "model.hidden_dims": Choices([[64], [64, 32]], when={"loss": ["softmax"]}),
    }


def test_what_a_command_says_of_a_range_replaces_what_the_file_says() -> None:
    file = {"optimizer.lr": {"low": 0.1, "high": 0.2}, "loss": ["softmax", "hinge"], "seed": [1, 2]}
    command = {"optimizer": {"lr": {"low": 1.0, "high": 2.0}, "decay": [0.0, 0.5]}, "loss": None}
    assert Space(ranges={**file, **command}).ranges == {
        "optimizer.lr": Interval(1.0, 2.0),
        "seed": Choices([1, 2]),
        "optimizer.decay": Choices([0.0, 0.5]),
    }


@pytest.mark.parametrize(
    ("one", "inside", "outside"),
    [
        (Interval(8, 64), [8, 9, 64], [7, 65, 8.5, "8", None, True]),
        (Interval(0.0, 1.0), [0, 0.25, 1], [-0.1, 1.1, "x"]),
        (Interval(2, 10, step=4), [2, 6, 10], [4, 8]),
        (Interval(0.1, 0.5, step=0.2), [0.1, 0.3, 0.5], [0.2]),
        (Choices([None, [64], "relu", 0.5]), [None, [64], "relu", 0.5], ["64", "none", 1]),
    ],
)
def test_a_range_holds_its_values_alone(
    one: Interval | Choices, inside: list[object], outside: list[object]
) -> None:
    assert all(one.holds(value) for value in inside)
    assert not any(one.holds(value) for value in outside)


def test_a_setting_matters_where_its_condition_holds() -> None:
    one = Interval(0.8, 1.0, when={"loss": ["marginal", "hinge"]})
    assert applies(one, {"loss": "hinge"})
    assert not applies(one, {"loss": "softmax"})
    assert not applies(one, {})  # the other is not searched beside these values


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"low": 1, "hihg": 2}, "unknown key 'hihg'; did you mean 'high'?"),
        ({"low": 2, "high": 1}, "low must lie below high, got 2 and 1"),
        ({"low": 0, "high": 1, "log": True}, "log needs a low above 0"),
        ({"low": 1, "high": 2, "log": "yes"}, "log must be true or false, got 'yes'"),
        ({"low": 1, "high": "2"}, "low and high must be numbers, got 1 and '2'"),
        ({"low": 1, "high": 2, "step": 0}, "step must be above 0, got 0"),
        ({"choices": [1, 2], "low": 1}, "choices and low exclude each other"),
        ({"choices": [1, 2], "when": ["loss"]}, "when: expected another setting"),
        ([1], "expected two or more different values, got [1]"),
        ([1, 2, 2], "expected different values, got [1, 2, 2]"),
        (3, "expected a list of values, or {low: ..., high: ...}, got 3"),
    ],
)
def test_a_mistake_in_a_range_is_named_with_its_setting(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=r"sweep.ranges: a\.b: ") as refusal:
        Space(ranges={"a.b": given, "c": [1, 2]})
    assert said in str(refusal.value)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)sweep.ranges: a: .*sweep.ranges: b: "):
        Space(ranges={"a": [1], "b": {"low": 1}})


def test_a_condition_looks_back_only() -> None:
    ranges = {"a": {"choices": [1, 2], "when": {"b": 1}}, "b": [1, 2]}
    with pytest.raises(ValueError, match="a: when: b must stand above it"):
        Space(ranges=ranges)
    Space(ranges=dict(reversed(ranges.items())))


def test_nothing_to_search_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to search"):
        Space(ranges={})
