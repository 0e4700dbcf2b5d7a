"""The one ranking equals sorting in plain Python, whatever the blocks, ties and exclusions."""

import io
import math

import pytest
import torch
from torch import Tensor

import reference
from deeprec.batch import Encoded
from deeprec.model.topk import top_k, top_k_of_blocks
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
def test_scripted_it_answers_the_same(ties: bool) -> None:
    scripted = torch.jit.script(top_k)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    encoded, weight, bias, exclude = problem(3, whole=True)
    if ties:
        weight, bias = torch.zeros_like(weight), torch.zeros_like(bias)
    asked = (encoded, weight, bias, 4, *exclude, 16)
    for ours, theirs in zip(top_k(*asked), scripted(*asked), strict=True):
        assert torch.equal(ours, theirs)


def test_users_by_catalog_never_exists() -> None:
    encoded, weight, bias, exclude = problem(0, users=16, items=4000)
    with LargestTensor() as largest:
        top_k(encoded, weight, bias, 10, *exclude, 100)
    assert (
        largest.elements < 16 * 4000 / 1.5
    )  # exclusions here are half of that; scores must not be
