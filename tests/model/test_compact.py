"""A table in fewer bytes is ranked exactly, whether its codes are scanned first or not."""

import pytest
import torch
from torch import Tensor

from deeprec.batch import Encoded
from deeprec.model.compact import CompactCatalog, Precision, quantized, rounded, slack
from deeprec.model.topk import Allowed, top_k

ITEMS, WIDTH = 3_000, 20  # no multiple of what the scan reads at once


def rows(draw: torch.Generator, users: int, most: int) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(0, most + 1, [users], generator=draw)
    values = [torch.randperm(ITEMS, generator=draw)[:n].sort().values for n in lengths]
    return torch.cat(values), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def problem(seed: int, users: int) -> tuple[Encoded, Tensor, Tensor, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    repeats = rows(draw, users, 5)
    scores = 3.0 * torch.randn(repeats[0].shape, generator=draw)
    encoded = Encoded(torch.randn(users, WIDTH, generator=draw), *repeats, scores)
    weight, bias = (torch.randn(*size, generator=draw) for size in ((ITEMS, WIDTH), (ITEMS,)))
    return encoded, weight, bias, rows(draw, users, 40)


FORMS: list[tuple[Precision, bool]] = [("int8", True), ("bfloat16", False), ("float32", True)]


@pytest.mark.parametrize(
    "allowed", [None, Allowed(torch.arange(5, 2_000, 3), torch.tensor([0, 665]))]
)
@pytest.mark.parametrize("users", [1, 7, 40])
@pytest.mark.parametrize(("precision", "scan"), FORMS)
def test_it_answers_as_the_one_ranking_of_the_rounded_table(
    precision: Precision, scan: bool, users: int, allowed: Allowed | None
) -> None:
    encoded, weight, bias, exclude = problem(users, users)
    catalog = CompactCatalog(weight, precision=precision, scan=scan, block_items=700)
    scripted = torch.jit.script(catalog)
    expected = top_k(encoded, rounded(weight, precision), bias, 9, *exclude, 512, allowed)
    for found in (
        catalog(encoded, bias, 9, *exclude, allowed),
        scripted(encoded, bias, 9, *exclude, allowed),
    ):
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("users", [2, 20])
@pytest.mark.parametrize(("precision", "scan"), FORMS)
def test_scores_in_hidden_vectors_are_added_to_products(
    precision: Precision, scan: bool, users: int
) -> None:
    encoded, weight, bias, exclude = problem(5, users)
    more = torch.randn(users, ITEMS, generator=torch.Generator().manual_seed(5))
    encoded = encoded._replace(hidden_BD=torch.cat([encoded.hidden_BD, more], 1))
    catalog = torch.jit.script(CompactCatalog(weight, precision=precision, scan=scan))
    found = catalog(encoded, bias, 9, *exclude, None)
    expected = top_k(encoded, rounded(weight, precision), bias, 9, *exclude)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_few_candidates_are_enough(precision: Precision) -> None:
    encoded, weight, bias, exclude = problem(0, 3)
    catalog = CompactCatalog(weight, precision=precision, scan=True)
    best, is_sure = catalog.scanned(encoded, bias, 9, *exclude, None)
    assert is_sure
    assert best.shape == (3, 9)


def test_where_candidates_are_not_enough_every_item_is_scored() -> None:
    encoded, weight, bias, exclude = problem(1, 2)
    weight[:, :] = weight[:1]  # scores differ by their biases alone, and those by little
    bias *= 1e-4
    catalog = CompactCatalog(weight, precision="int8", scan=True)
    assert not catalog.scanned(encoded, bias, 9, *exclude, None)[1]
    expected = top_k(encoded, rounded(weight, "int8"), bias, 9, *exclude)
    torch.testing.assert_close(catalog(encoded, bias, 9, *exclude, None)[1], expected[1])


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_no_score_is_above_its_bound(precision: Precision) -> None:
    draw = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        weight = (
            scale * torch.randn(ITEMS, WIDTH, generator=draw) ** 3
        )  # with numbers that stand out
        hidden = torch.randn(8, WIDTH, generator=draw) ** 3
        catalog = CompactCatalog(weight, precision=precision, scan=True)
        bounds = catalog.bounds(hidden, 0, ITEMS)
        assert (hidden.double() @ rounded(weight, precision).double().T <= bounds).all()
        # and not so far above that every item would be a candidate
        length = hidden.norm(dim=1, keepdim=True) * weight.norm(dim=1)
        assert (bounds - hidden @ weight.T <= 0.05 * length).all()


def test_a_row_differs_by_half_a_step_at_most() -> None:
    weight = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0))
    codes, scale = quantized(weight)
    assert codes.abs().amax(1).tolist() == [127] * 50
    assert ((weight - codes * scale[:, None]).abs() <= 0.5001 * scale[:, None]).all()
    assert (rounded(weight, "bfloat16") - weight).abs().max() <= weight.abs().max() * 2**-8
    assert torch.equal(rounded(weight, "float32"), weight)
    assert (slack(weight, codes, scale) > 0).all()


@pytest.mark.parametrize(("precision", "bytes_a_number"), [("int8", 1), ("bfloat16", 2)])
def test_fewer_bytes_are_held(precision: Precision, bytes_a_number: int) -> None:
    weight = torch.randn(1_000, 128)
    catalog = CompactCatalog(weight, precision=precision, scan=False)
    held = sum(buffer.nbytes for buffer in catalog.buffers())
    assert held <= 1_000 * (128 * bytes_a_number + 16)
