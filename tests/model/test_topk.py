"""The one ranking equals sorting in plain Python, whatever the blocks, ties and exclusions."""

import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import reference
from deeprec.batch import Encoded
from deeprec.model.topk import Allowed, top_k, top_k_of_blocks
from largest_tensor import LargestTensor

NONE = torch.zeros(0, dtype=torch.int64)


def jagged(generator: torch.Generator, users: int, items: int, most: int) -> tuple[Tensor, Tensor]:
    """Distinct items inside a user, ascending; some users own none."""
    lengths = torch.randint(0, most + 1, [users], generator=generator)
    values = [torch.randperm(items, generator=generator)[:n].sort().values for n in lengths]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return torch.cat(values), offsets


def problem(seed: int, users: int = 7, items: int = 23, whole: bool = False) -> tuple:
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(users, 3, generator=draw)
    weight = torch.randn(items, 3, generator=draw)
    bias = torch.randn(items, generator=draw)
    if whole:  # whole numbers: ties everywhere
        hidden, weight, bias = hidden.round(), weight.round(), bias.round()
    repeat_items, repeat_offsets = jagged(draw, users, items, 5)
    repeats = torch.randint(-3, 4, repeat_items.shape, generator=draw).float()
    encoded = Encoded(hidden, repeat_items, repeat_offsets, repeats)
    return encoded, weight, bias, jagged(draw, users, items, items)


def expected(encoded: Encoded, weight: Tensor, bias: Tensor, k: int, exclude: tuple) -> tuple:
    scores = reference.dense_scores(encoded, weight, bias).tolist()
    return reference.top_k(scores, k, reference.rows(*exclude))


@pytest.mark.parametrize("block_items", [1, 4, 23, 100])
@pytest.mark.parametrize("k", [1, 5, 23, 40])
@pytest.mark.parametrize("seed", range(5))
def test_ties_included_it_equals_sorting(seed: int, k: int, block_items: int) -> None:
    encoded, weight, bias, exclude = problem(seed, whole=True)
    items, scores = top_k(encoded, weight, bias, k, *exclude, block_items)
    truth_items, truth_scores = expected(encoded, weight, bias, k, exclude)
    assert items.tolist() == truth_items
    assert scores.tolist() == truth_scores


@pytest.mark.parametrize("seed", range(5))
def test_real_scores_equal_sorting(seed: int) -> None:
    encoded, weight, bias, exclude = problem(seed, users=20, items=200)
    items, scores = top_k(encoded, weight, bias, 30, *exclude, 64)
    truth_items, truth_scores = expected(encoded, weight, bias, 30, exclude)
    assert items.tolist() == truth_items
    torch.testing.assert_close(scores, torch.tensor(truth_scores), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("for_all", [False, True])
@pytest.mark.parametrize("block_items", [4, 100])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_not_allowed_is_as_excluded(seed: int, block_items: int, for_all: bool) -> None:
    encoded, weight, bias, exclude = problem(seed, whole=True)
    draw = torch.Generator().manual_seed(100 + seed)
    items, offsets = jagged(draw, 1 if for_all else 7, 23, 9)
    allowed = reference.rows(items, offsets) * (7 if for_all else 1)
    denied = [sorted({*range(23)} - {*row}) for row in allowed]
    truth = reference.top_k(
        reference.dense_scores(encoded, weight, bias).tolist(),
        6,
        [[*a, *b] for a, b in zip(denied, reference.rows(*exclude), strict=True)],
    )
    found = top_k(encoded, weight, bias, 6, *exclude, block_items, Allowed(items, offsets))
    assert [part.tolist() for part in found] == [*truth]


# wide enough that most scores are never ranked: 512 columns of the first block are
USERS, ITEMS = 64, 2_500


def rounded(draw: torch.Generator) -> Tensor:
    return torch.randn(USERS, ITEMS, generator=draw).round()


def real(draw: torch.Generator) -> Tensor:
    return torch.randn(USERS, ITEMS, generator=draw)


def better_and_better(draw: torch.Generator) -> Tensor:
    return torch.arange(ITEMS).float().repeat(USERS, 1)


def worse_and_worse(draw: torch.Generator) -> Tensor:
    return -torch.arange(ITEMS).float().repeat(USERS, 1)


def good_ones_late(draw: torch.Generator) -> Tensor:
    return (torch.arange(ITEMS) >= 600).float().repeat(USERS, 1)


def tiny(draw: torch.Generator) -> Tensor:
    """Zeros of both signs, and the smallest numbers on both sides of them."""
    numbers = torch.tensor([0.0, -0.0, 1e-45, -1e-45])
    return numbers[torch.randint(0, 4, [USERS, ITEMS], generator=draw)]


def infinite(draw: torch.Generator) -> Tensor:
    numbers = torch.tensor([math.inf, -math.inf, -math.inf, -math.inf, 3.4e38, -3.4e38])
    return numbers[torch.randint(0, 6, [USERS, ITEMS], generator=draw)]


@pytest.mark.parametrize("block_items", [700, 1600, 10_000])
@pytest.mark.parametrize("k", [7, 100, 1000])
@pytest.mark.parametrize(
    "make", [rounded, real, better_and_better, worse_and_worse, good_ones_late, tiny, infinite]
)
def test_wide_catalogs_equal_sorting(
    make: Callable[[torch.Generator], Tensor], k: int, block_items: int
) -> None:
    draw = torch.Generator().manual_seed(k)
    scores = make(draw)
    exclude = jagged(draw, USERS, ITEMS, 60)
    items, values = top_k_of_blocks(
        lambda a, b: scores[:, a:b].clone(), ITEMS, USERS, k, *exclude, block_items
    )
    truth_items, truth_values = reference.top_k(scores.tolist(), k, reference.rows(*exclude))
    assert items.tolist() == truth_items
    assert torch.equal(values, torch.tensor(truth_values))


@pytest.mark.parametrize("item", [3, 511, 512, 1500, ITEMS - 1])
@pytest.mark.parametrize("excluded", [False, True])
def test_one_nan_anywhere_is_found(item: int, excluded: bool) -> None:
    scores = real(torch.Generator().manual_seed(1))
    scores[5, item] = math.nan
    nobody = torch.zeros(USERS + 1, dtype=torch.int64)
    exclude = (torch.tensor([item]), (torch.arange(USERS + 1) > 5).long())
    with pytest.raises(RuntimeError, match="NaN"):
        top_k_of_blocks(
            lambda a, b: scores[:, a:b].clone(),
            ITEMS,
            USERS,
            10,
            *(exclude if excluded else (NONE, nobody)),
            1000,
        )


def test_to_exclude_what_is_not_in_the_catalog_changes_nothing() -> None:
    encoded, weight, bias, _ = problem(0, users=1)
    strange = torch.tensor([-7, -1, 23, 24, 10**12]), torch.tensor([0, 5])
    none = NONE, torch.tensor([0, 0])
    for ours, theirs in zip(
        top_k(encoded, weight, bias, 30, *strange, 8),
        top_k(encoded, weight, bias, 30, *none, 8),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_no_users_get_no_lists() -> None:
    nobody = torch.zeros(1, dtype=torch.int64)
    encoded = Encoded(torch.zeros(0, 3), NONE, nobody, torch.zeros(0))
    items, scores = top_k(encoded, torch.ones(2_500, 3), torch.ones(2_500), 4, NONE, nobody, 700)
    assert items.shape == scores.shape == (0, 4)


def test_a_constant_scorer_lists_the_lowest_indices_and_zero_has_no_sign() -> None:
    zeros = torch.zeros(2, 1000)
    zeros[:, ::2] = -0.0
    none = (NONE, torch.zeros(3, dtype=torch.int64))
    items, _ = top_k_of_blocks(lambda a, b: zeros[:, a:b].clone(), 1000, 2, 7, *none, 300)
    assert items.tolist() == [list(range(7))] * 2


def test_infinite_scores_rank_first_and_last() -> None:
    scores = torch.tensor([[1.0, math.inf, -math.inf, -5.0]])
    none = (NONE, torch.zeros(2, dtype=torch.int64))
    items, _ = top_k_of_blocks(lambda a, b: scores[:, a:b].clone(), 4, 1, 4, *none, 2)
    assert items.tolist() == [[1, 0, 3, -1]]


@pytest.mark.parametrize("where", [0, 22])
def test_a_nan_score_is_an_error_and_never_an_item(where: int) -> None:
    encoded, weight, bias, exclude = problem(0)
    bias[where] = math.nan
    with pytest.raises(RuntimeError, match="NaN"):
        top_k(encoded, weight, bias, 3, *exclude, 8)


def test_a_list_of_no_items_is_refused() -> None:
    encoded, weight, bias, exclude = problem(0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        top_k(encoded, weight, bias, 0, *exclude)


def test_everything_excluded_gives_an_empty_list() -> None:
    encoded, weight, bias, _ = problem(0, users=1)
    everything = (torch.arange(23), torch.tensor([0, 23]))
    items, scores = top_k(encoded, weight, bias, 3, *everything)
    assert items.tolist() == [[-1] * 3]
    assert scores.tolist() == [[-math.inf] * 3]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_scripted_it_answers_the_same(wide: bool, ties: bool) -> None:
    scripted = torch.jit.script(top_k)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    scripted = torch.jit.load(file)
    size = {"users": USERS, "items": ITEMS} if wide else {}
    encoded, weight, bias, exclude = problem(3, whole=True, **size)
    if ties:
        weight, bias = torch.zeros_like(weight), torch.zeros_like(bias)
    some = Allowed(torch.arange(3, 20, 2), torch.tensor([0, 9]))
    asked = (encoded, weight, bias, 4, *exclude, 700 if wide else 16, some if ties else None)
    for ours, theirs in zip(top_k(*asked), scripted(*asked), strict=True):
        assert torch.equal(ours, theirs)


def test_users_by_catalog_never_exists() -> None:
    encoded, weight, bias, exclude = problem(0, users=16, items=4000)
    with LargestTensor() as largest:
        top_k(encoded, weight, bias, 10, *exclude, 100)
    assert (
        largest.elements < 16 * 4000 / 1.5
    )  # exclusions here are half of that; scores must not be
