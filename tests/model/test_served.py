"""Whatever is asked, the served module answers as obvious Python does, or names the broken rule."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deeprec.model.served import Served, join
from standin import FIELDS, StandIn

NUM_ITEMS, MAX_USERS, MAX_EVENTS, MAX_K = 9, 6, 40, 20
MODEL = StandIn(NUM_ITEMS, FIELDS)
WEIGHT, BIAS = MODEL.item_weight.tolist(), MODEL.item_bias.tolist()
RAW_IDS = torch.tensor([40, -7, 2**62, 3, 0, 9, -(2**63), 8, 12])  # any order
LIMITS = {"max_users": MAX_USERS, "max_events": MAX_EVENTS, "max_k": MAX_K}


@pytest.fixture(scope="module")
def served() -> Callable[..., tuple[Tensor, Tensor]]:
    return scripted()


def scripted() -> Callable[..., tuple[Tensor, Tensor]]:
    module = Served(MODEL, fields=FIELDS, **LIMITS, ids_V=RAW_IDS, scores_at_once=8)
    made: Callable[..., tuple[Tensor, Tensor]] = torch.jit.script(module.eval())
    return made


Rows = list[list[int]]
Asked = dict[str, Any]  # one request in plain Python


def jagged(rows: Rows) -> list[Tensor]:
    ends = [sum(map(len, rows[:n])) for n in range(len(rows) + 1)]
    return [torch.tensor([v for row in rows for v in row], dtype=torch.int64), torch.tensor(ends)]


def arguments(asked: Asked) -> list[Any]:
    """The tensors of a sound request."""
    fields = [jagged(rows) for rows in asked["attributes"]]
    return [
        *jagged(asked["items"]),
        torch.tensor(asked["ages"]),
        [field[0] for field in fields],
        [field[1] for field in fields],
        asked["k"],
        asked["exclude_seen"],
        *jagged(asked["denied"]),
        *([] if asked["allowed"] is None else jagged(asked["allowed"])),
    ]


def draw_request(draw: random.Random) -> Asked:
    def rows(size: int, longest: int) -> Rows:
        return [
            [draw.randrange(size) for _ in range(draw.randint(0, longest))]
            for _ in range(num_users)
        ]

    num_users = draw.randint(0, MAX_USERS)
    items = rows(NUM_ITEMS, 6)
    timed = draw.random() < 0.7
    return {
        "items": items,
        "ages": [draw.random() * 99 for row in items for _ in row] if timed else [],
        "attributes": [rows(size, 1) for size in FIELDS.values()],
        "k": draw.choice([1, 3, NUM_ITEMS, MAX_K]),
        "exclude_seen": draw.random() < 0.5,
        "denied": rows(NUM_ITEMS, draw.choice([0, 3, 12 if num_users < 3 else 3])),
        "allowed": draw.choice([None, rows(NUM_ITEMS, 5), [[1, 2, 2, 5]]]),
    }


def expected(asked: Asked, user: int) -> list[tuple[float, int]]:
    """(-score, item), best first, by a loop over the catalog with this user alone."""
    start = sum(map(len, asked["items"][:user]))
    history = asked["items"][user]
    ages = asked["ages"][start : start + len(history)]
    attributes = [jagged([rows[user]]) for rows in asked["attributes"]]
    encoded = MODEL.encode(
        *jagged([history]),
        torch.tensor(ages),
        dict(zip(FIELDS, map(tuple, attributes), strict=True)),  # type: ignore[arg-type]
    )
    left_out = set(asked["denied"][user]) | (set(history) if asked["exclude_seen"] else set())
    if asked["allowed"] is not None:
        own = asked["allowed"][user if len(asked["allowed"]) > 1 else 0]
        left_out |= set(range(NUM_ITEMS)) - set(own)
    repeats = dict(
        zip(encoded.repeat_items_M.tolist(), encoded.repeat_scores_M.tolist(), strict=True)
    )
    hidden = encoded.hidden_BD[0].tolist()
    scores = []
    for item in set(range(NUM_ITEMS)) - left_out:
        score = sum(a * b for a, b in zip(hidden, WEIGHT[item], strict=True)) + BIAS[item]
        scores.append((-repeats.get(item, score), item))
    return sorted(scores)[: asked["k"]]


def check(asked: Asked, answer: tuple[Tensor, Tensor]) -> None:
    items, scores = answer
    assert items.shape == scores.shape == (len(asked["items"]), asked["k"])
    assert (items.dtype, scores.dtype) == (torch.int64, torch.float32)
    for user in range(len(asked["items"])):
        truth = expected(asked, user)
        padding = asked["k"] - len(truth)
        assert items[user].tolist() == [item for _, item in truth] + [-1] * padding
        wanted = torch.tensor([-score for score, _ in truth] + [-torch.inf] * padding)
        torch.testing.assert_close(scores[user], wanted, rtol=1e-5, atol=1e-5)


def test_sound_requests_are_answered_as_by_a_loop(
    served: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    draw = random.Random(0)
    for _ in range(400):
        asked = draw_request(draw)
        check(asked, served(*arguments(asked)))


def broken(draw: random.Random, given: list[Any]) -> str:
    """Breaks one rule of a sound request in place, and says a word the error must hold."""
    rows = draw.choice(
        [
            ("item_ids", given, 0, "offsets", given, 1),
            ("denied_items", given, 7, "denied_offsets", given, 8),
            ("attribute age", given[3], 0, "attribute age", given[4], 0),
            ("attribute town", given[3], 1, "attribute town", given[4], 1),
            *([("allowed_items", given, 9, "allowed_offsets", given, 10)] * (len(given) > 9)),
        ]
    )
    values_name, values, at, offsets_name, offsets, ends = rows
    breaks: list[Callable[[], str]] = []

    def put(container: list[Any], place: int, value: Any, word: str) -> Callable[[], str]:
        def apply() -> str:
            container[place] = value
            return word

        return apply

    def changed(tensor: Tensor, place: int, value: int) -> Tensor:
        copy = tensor.clone()
        copy[place] = value
        return copy

    wild = draw.choice([-(2**63), -1, NUM_ITEMS, 2**31, 2**63 - 1])
    count = values[at].numel()
    if count:
        place = draw.randrange(count)
        breaks.append(put(values, at, changed(values[at], place, wild), values_name))
        breaks.append(put(values, at, values[at][:-1], offsets_name))
        breaks.append(put(values, at, values[at].float(), values_name))
    breaks.append(put(values, at, values[at].unsqueeze(0), values_name))
    many = torch.zeros(MAX_EVENTS + 1, dtype=torch.int64)
    breaks.append(put(values, at, many, values_name))
    place = draw.randrange(offsets[ends].numel())
    wild_end = draw.choice([-(2**63), -1, count + 1, 2**31, 2**63 - 1])
    breaks.append(put(offsets, ends, changed(offsets[ends], place, wild_end), "offsets"))
    breaks.append(put(offsets, ends, offsets[ends].int(), "offsets"))
    breaks.append(put(offsets, ends, offsets[ends].reshape(-1, 1), "offsets"))
    breaks.append(put(offsets, ends, offsets[ends][:0], "offsets"))
    if offsets is not given or ends != 1:
        breaks.append(put(offsets, ends, torch.zeros(MAX_USERS + 9, dtype=torch.int64), "offsets"))
    breaks.append(put(given, 1, torch.zeros(MAX_USERS + 2, dtype=torch.int64), "users"))
    breaks.append(put(given, 5, draw.choice([-(2**63), -1, 0, MAX_K + 1, 2**63 - 1]), "k must"))
    bad_age = draw.choice([-1.0, float("nan"), float("inf")])
    if given[0].numel():
        ages = torch.zeros(given[0].numel())
        ages[draw.randrange(len(ages))] = bad_age
        breaks.append(put(given, 2, ages, "ages"))
        breaks.append(put(given, 2, torch.zeros(given[0].numel() + 1), "ages"))
    breaks.append(put(given, 2, torch.zeros(given[0].numel(), dtype=torch.float64), "ages"))
    breaks.append(put(given, 3, given[3][:1], "attribute"))
    breaks.append(put(given, 4, [*given[4], given[4][0]], "attribute"))
    return draw.choice(breaks)()


def test_every_broken_request_is_refused_by_the_name_of_its_rule(
    served: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    draw = random.Random(1)
    for _ in range(2500):
        given = arguments(draw_request(draw))
        word = broken(draw, given)
        with pytest.raises(torch.jit.Error, match=r"builtins\.ValueError") as error:
            served(*given)
        assert word in str(error.value).strip().splitlines()[-1]


def test_an_error_shows_numbers_of_the_request_only(
    served: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    asked = {**draw_request(random.Random(2)), "items": [[3, 77]], "ages": [], "k": 1}
    asked |= {"attributes": [[[]], [[]]], "denied": [[]], "allowed": None}
    with pytest.raises(torch.jit.Error) as error:
        served(*arguments(asked))
    assert str(error.value).strip().splitlines()[-1] == (
        "builtins.ValueError: item_ids must lie in [0, 9), got 77 at position 1; "
        "leave out what the bundle does not know"
    )


def test_the_rest_of_the_batch_does_not_change_an_answer(
    served: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    draw = random.Random(3)
    for _ in range(50):
        asked = draw_request(draw)
        items, scores = served(*arguments(asked))
        for user, history in enumerate(asked["items"]):
            start = sum(map(len, asked["items"][:user]))
            alone = {
                **asked,
                "items": [history],
                "ages": asked["ages"][start : start + len(history)],
                "attributes": [[rows[user]] for rows in asked["attributes"]],
                "denied": [asked["denied"][user]],
                "allowed": asked["allowed"] and asked["allowed"][user : user + 1]
                if asked["allowed"] and len(asked["allowed"]) > 1
                else asked["allowed"],
            }
            own_items, own_scores = served(*arguments(alone))
            assert own_items[0].tolist() == items[user].tolist()
            torch.testing.assert_close(own_scores[0], scores[user], rtol=1e-5, atol=1e-6)


def test_asked_by_raw_id_it_answers_as_by_index(
    served: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    draw = random.Random(4)
    for _ in range(100):
        asked = draw_request(draw)
        items, scores = served(*arguments(asked))
        given = arguments(with_unknown_ids(draw, asked))
        if max(len(given[0]), len(given[7])) > MAX_EVENTS:
            continue
        ids, raw_scores = served.by_id(*given)  # type: ignore[attr-defined]
        assert torch.equal(raw_scores, scores)
        truth = [[RAW_IDS[i].item() if i >= 0 else -1 for i in row] for row in items.tolist()]
        assert ids.tolist() == truth


def with_unknown_ids(draw: random.Random, asked: Asked) -> Asked:
    """The same request in raw ids, with some among them that the catalog does not hold."""

    def raw(rows: Rows, ages: list[float]) -> tuple[Rows, list[float]]:
        age, ids, kept = iter(ages), [], []
        for row in rows:
            ids.append([])
            for item in row:
                for unknown in draw.choices([-8, 41, 2**63 - 1], k=draw.choice([0, 0, 1])):
                    ids[-1].append(unknown)
                    kept.append(5.0)
                ids[-1].append(RAW_IDS[item].item())
                kept.append(next(age, 0.0))
        return ids, kept if ages else []

    items, ages = raw(asked["items"], asked["ages"])
    allowed = asked["allowed"]
    return {
        **asked,
        "items": items,
        "ages": ages,
        "denied": raw(asked["denied"], [])[0],
        "allowed": None if allowed is None else raw(allowed, [])[0],
    }


@pytest.mark.parametrize(
    ("place", "value", "rule"),
    [
        (0, torch.zeros(3), "raw_ids must be int64"),
        (1, torch.tensor([0, 5]), "raw_ids; got 0 and 5"),
        (7, torch.zeros(1, dtype=torch.int64), "denied_ids; got 0 and 0"),
        (10, torch.tensor([0, -1]), "allowed_items; got 0 and -1"),
        (10, None, "allowed_items and allowed_offsets must be given together"),
    ],
)
def test_a_broken_request_by_raw_id_is_refused(
    served: Callable[..., tuple[Tensor, Tensor]], place: int, value: Any, rule: str
) -> None:
    asked: Asked = {"items": [[40]], "ages": [], "k": 3, "exclude_seen": True}
    given = arguments({**asked, "attributes": [[[]], [[]]], "denied": [[]], "allowed": [[3, 9]]})
    given[place] = value
    with pytest.raises(torch.jit.Error, match=rule):
        served.by_id(*given)  # type: ignore[attr-defined]


def test_where_ids_are_text_raw_ids_are_refused() -> None:
    of_text = torch.jit.script(Served(MODEL, fields=FIELDS, **LIMITS).eval())
    asked: Asked = {"items": [[1]], "ages": [], "k": 3, "exclude_seen": True, "allowed": None}
    given = arguments({**asked, "attributes": [[[]], [[]]], "denied": [[]]})
    with pytest.raises(torch.jit.Error, match="knows no ids of items; ask by item index"):
        of_text.by_id(*given)


def test_a_model_without_user_attributes_takes_empty_lists() -> None:
    model = StandIn(NUM_ITEMS, {})
    module = torch.jit.script(Served(model, fields={}, **LIMITS).eval())
    none, nowhere = torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])
    items, _ = module(
        torch.tensor([1]), torch.tensor([0, 1]), torch.zeros(0), [], [], 9, True, none, nowhere
    )
    assert sorted(items[0].tolist()) == [-1, 0, 2, 3, 4, 5, 6, 7, 8]


def test_joining_keeps_each_users_values() -> None:
    first, second = jagged([[1, 2], [], [3]]), jagged([[], [4], [5, 6]])
    values, offsets = join(*first, *second)
    assert values.tolist() == [1, 2, 4, 3, 5, 6]
    assert offsets.tolist() == [0, 2, 3, 6]
