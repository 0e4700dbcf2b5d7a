"""Every catalog loss equals, in value and gradient, the same loss written densely with autograd."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import reference
from deeprec.batch import Encoded, Jagged
from deeprec.loss import shelf
from deeprec.loss.asked import asked_of
from deeprec.loss.asymmetric import Asymmetric
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.loss.hinge import Hinge
from deeprec.loss.marginal import Marginal
from deeprec.loss.regression import Regression
from deeprec.loss.softmax import Softmax
from deeprec.table import OwnItems, Updates
from largest_tensor import LargestTensor

USERS, ITEMS, WIDTH = 6, 17, 3


@pytest.fixture(autouse=True, params=["keeps all", "keeps one block", "keeps nothing"])
def kept_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Softmax keeps exponentials up to a limit; whatever it is, the answers are the same."""
    room = {
        "keeps all": shelf.ROOM["cpu"],
        "keeps one block": 6 * 5 * 8,
        "keeps nothing": 0,
    }
    monkeypatch.setitem(shelf.ROOM, "cpu", room[request.param])
    return room[request.param]


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func.overloadpacket.__name__ in {"mm", "addmm", "addmm_"}
        return func(*args, **(kwargs or {}))


def jagged(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(0, 6, [USERS], generator=draw)
    lengths[1] = 0
    values = [torch.randperm(ITEMS, generator=draw)[:n].sort().values for n in lengths]
    return torch.cat(values), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def problem(seed: int) -> tuple[list[Tensor], Callable[..., Encoded], Jagged]:
    """Leaves (hidden, weight, bias, repeats), how to encode them, and a target."""
    draw = torch.Generator().manual_seed(seed)
    repeat_items, repeat_offsets = jagged(draw)
    shapes = [[USERS, WIDTH], [ITEMS, WIDTH], [ITEMS], list(repeat_items.shape)]
    leaves = [torch.randn(s, generator=draw, dtype=torch.float64) * 2 for s in shapes]
    values, offsets = jagged(draw)

    def encode(hidden: Tensor, repeats: Tensor) -> Encoded:
        return Encoded(hidden, repeat_items, repeat_offsets, repeats)

    return leaves, encode, Jagged(values, offsets)


def is_target(target: Jagged) -> Tensor:
    dense = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    for user, row in enumerate(reference.rows(target.values, target.offsets)):
        dense[user, [int(item) for item in row]] = 1
    return dense


def dense_softmax(scores: Tensor, ones: Tensor) -> Tensor:
    return -(scores.log_softmax(1) * ones).sum() / (ones.sum(1) > 0).sum()


def dense_normalised(scores: Tensor, ones: Tensor) -> Tensor:
    return dense_softmax(scores, ones / ones.sum(1, keepdim=True).clamp(min=1))


def dense_cross_entropy(scores: Tensor, ones: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, ones, reduction="sum") / USERS


def dense_marginal(scores: Tensor, ones: Tensor) -> Tensor:
    p = torch.sigmoid(scores)
    cost_one = torch.where(p < 0.8, -3.0 * p.log(), 0.0)
    cost_zero = torch.where(p > 0.3, -0.5 * (1 - p).log(), 0.0)
    return (ones * cost_one + (1 - ones) * cost_zero).sum() / USERS


def dense_hinge(scores: Tensor, ones: Tensor) -> Tensor:
    gaps = ones * (0.7 - scores).relu() * 2.0 + (1 - ones) * (0.7 + scores).relu() * 0.25
    return gaps.sum() / USERS


def dense_focal(scores: Tensor, ones: Tensor) -> Tensor:
    p = torch.sigmoid(scores)
    costs = ones * (1 - p) ** 1.5 * -p.log() + (1 - ones) * p**1.5 * -(1 - p).log()
    return costs.sum() / USERS


def dense_asymmetric(scores: Tensor, ones: Tensor) -> Tensor:
    p = torch.sigmoid(scores)
    q = (p - 0.05).clamp(min=0)
    costs = ones * (1 - p) * -p.log() * 3.0 + (1 - ones) * q**4 * -(1 - q).log() * 0.5
    return costs.sum() / USERS


def dense_cosine_contrastive(scores: Tensor, ones: Tensor) -> Tensor:
    near = ones / ones.sum(1, keepdim=True).clamp(min=1) * (1 - scores)
    far = (1 - ones) * (scores - 0.3).relu() * 7.0 / ITEMS
    return (near + far).sum() / USERS


def dense_regression(scores: Tensor, ones: Tensor) -> Tensor:
    return ((torch.sigmoid(scores) - ones).abs() * (2.0 * ones + 0.25 * (1 - ones))).sum() / USERS


def dense_squared(scores: Tensor, ones: Tensor) -> Tensor:
    return F.mse_loss(torch.tanh(scores), ones, reduction="sum") / 2 / USERS


def dense_squared_hinge(scores: Tensor, ones: Tensor) -> Tensor:
    below, above = (1 - scores).relu(), scores.relu()
    return (ones * below**2 + (1 - ones) * above**2).sum() / 2 / USERS


def dense_marginal_softmax(scores: Tensor, ones: Tensor) -> Tensor:
    p = scores.softmax(1)
    costs = torch.where(p < 0.3, -p.log(), 0.0)
    return (costs * ones).sum() / (ones.sum(1) > 0).sum()


CONTRASTIVE = {"num_items": ITEMS}
LOSSES = [
    (
        CosineContrastive,
        {**CONTRASTIVE, "margin": 0.3, "negative_weight": 7.0},
        dense_cosine_contrastive,
    ),
    (Hinge, {"margin": 0.7, "one_scale": 2.0, "zero_scale": 0.25}, dense_hinge),
    (Asymmetric, {"one_focus": 0.0, "zero_focus": 0.0}, dense_cross_entropy),
    (Asymmetric, {"one_focus": 1.5, "zero_focus": 1.5}, dense_focal),
    (
        Asymmetric,
        {
            "one_focus": 1.0,
            "zero_focus": 4.0,
            "zero_shift": 0.05,
            "one_scale": 3.0,
            "zero_scale": 0.5,
        },
        dense_asymmetric,
    ),
    (
        Regression,
        {"error": "absolute", "one_scale": 2.0, "zero_scale": 0.25},
        dense_regression,
    ),
    (Regression, {"error": "squared", "output": "tanh"}, dense_squared),
    (Regression, {"error": "squared_hinge", "output": "identity"}, dense_squared_hinge),
    (Softmax, {"one_target": 0.3}, dense_marginal_softmax),
    (Softmax, {}, dense_softmax),
    (Softmax, {"normalise_targets": True}, dense_normalised),
    (Marginal, {}, dense_cross_entropy),
    (
        Marginal,
        {"one_target": 0.8, "zero_target": 0.3, "one_scale": 3.0, "zero_scale": 0.5},
        dense_marginal,
    ),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block_items", [1, 5, 17, 100])
@pytest.mark.parametrize(("make", "settings", "dense"), LOSSES)
def test_value_and_gradients_equal_the_dense_form(
    make: type[nn.Module], settings: dict, dense: Callable, block_items: int, seed: int
) -> None:
    leaves, encode, target = problem(seed)
    ours, theirs = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    hidden, weight, bias, repeats = ours
    value = make(**settings, block_items=block_items)(encode(hidden, repeats), weight, bias, target)
    hidden, weight, bias, repeats = theirs
    scores = reference.dense_scores(encode(hidden, repeats), weight, bias)
    truth = dense(scores, is_target(target))
    torch.testing.assert_close(value, truth, rtol=1e-8, atol=0)
    (3 * value).backward()
    (3 * truth).backward()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("make", "settings", "dense"), LOSSES)
def test_numerical_gradient(make: type[nn.Module], settings: dict, dense: Callable) -> None:
    leaves, encode, target = problem(9)
    loss = make(**settings, block_items=5)

    def value(hidden: Tensor, weight: Tensor, bias: Tensor, repeats: Tensor) -> Tensor:
        return loss(encode(hidden, repeats), weight, bias, target)

    assert torch.autograd.gradcheck(
        value, [leaf.requires_grad_() for leaf in leaves], fast_mode=True
    )


def dense_weighted_softmax(scores: Tensor, weights: Tensor) -> Tensor:
    return -(scores.log_softmax(1) * weights).sum() / (weights.sum(1) > 0).sum()


def dense_weighted_marginal(scores: Tensor, weights: Tensor) -> Tensor:
    others = (weights == 0) * F.softplus(scores)
    return (weights * F.softplus(-scores) + others).sum() / USERS


@pytest.mark.parametrize(
    ("loss", "dense"),
    [
        (Softmax(block_items=5), dense_weighted_softmax),
        (Marginal(block_items=5), dense_weighted_marginal),
    ],
)
def test_weights_of_targets_multiply_their_cost(loss: nn.Module, dense: Callable) -> None:
    leaves, encode, target = problem(4)
    target.weights = torch.tensor([0.5, 1.5, 2.0]).repeat(len(target.values))[: len(target.values)]
    weights = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    users = torch.repeat_interleave(target.offsets.diff())
    weights[users, target.values] = target.weights.double()
    hidden, weight, bias, repeats = leaves = [leaf.requires_grad_() for leaf in leaves]
    value = loss(encode(hidden, repeats), weight, bias, target)
    truth = dense(reference.dense_scores(encode(hidden, repeats), weight, bias), weights)
    torch.testing.assert_close(value, truth)
    for ours, theirs in zip(
        torch.autograd.grad(value, leaves), torch.autograd.grad(truth, leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("loss", [Softmax(block_items=5), Marginal(block_items=5)])
def test_the_same_batch_gives_the_same_bits(loss: nn.Module) -> None:
    leaves, encode, target = problem(3)
    runs = []
    for _ in range(2):
        hidden, weight, bias, repeats = ours = [leaf.float().requires_grad_() for leaf in leaves]
        value = loss(encode(hidden, repeats), weight, bias, target)
        value.backward()
        runs.append([value.detach(), *(leaf.grad for leaf in ours)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("loss", [Softmax(block_items=5), Marginal(block_items=5)])
def test_backward_may_be_asked_again(loss: nn.Module) -> None:
    leaves, encode, target = problem(5)
    hidden, weight, bias, repeats = ours = [leaf.requires_grad_() for leaf in leaves]
    value = loss(encode(hidden, repeats), weight, bias, target)
    value.backward(retain_graph=True)
    once = [leaf.grad.clone() for leaf in ours]
    (2 * value).backward(retain_graph=True)
    value.backward()
    for leaf, gradient in zip(ours, once, strict=True):
        torch.testing.assert_close(leaf.grad, 4 * gradient)


@pytest.mark.parametrize("loss", [Softmax(), Marginal()])
def test_only_what_is_needed_is_multiplied(loss: nn.Module, kept_bytes: int) -> None:
    """One product of the catalog for the value, one more per gradient that somebody needs."""
    leaves, encode, target = problem(6)
    hidden, weight, bias, repeats = leaves
    # what was not kept is scored again once the normaliser is known
    again = isinstance(loss, Softmax) and kept_bytes < ITEMS * USERS * 8

    def products() -> int:
        with Products() as products:
            loss(encode(hidden, repeats), weight, bias, target)
        return products.count

    assert products() == 1
    hidden.requires_grad_()
    assert products() == 2 + again
    weight.requires_grad_()
    assert products() == 3 + again
    hidden.requires_grad_(False)
    assert products() == 2 + again
    with torch.no_grad():
        assert products() == 1


@pytest.mark.parametrize("block_items", [1, 5, 100])
@pytest.mark.parametrize(("make", "settings", "dense"), LOSSES)
def test_rows_may_change_as_soon_as_their_gradient_is_known(
    make: type[nn.Module], settings: dict, dense: Callable, block_items: int
) -> None:
    """A step of plain gradient descent inside the loss is the step that autograd would give."""
    leaves, encode, target = problem(9)
    hidden, weight, bias, repeats = ours = [leaf.clone().requires_grad_() for leaf in leaves]

    def descend(table: Tensor) -> Callable[[slice, Tensor], None]:
        return lambda rows, gradient: table.data[rows].sub_(0.1 * gradient)

    updates = Updates(descend(weight), descend(bias), weight=0.5)
    loss = make(**settings, block_items=block_items)
    value = loss(encode(hidden, repeats), weight, bias, target, updates)
    (0.5 * value).backward()
    theirs = [leaf.clone().requires_grad_() for leaf in leaves]
    scores = reference.dense_scores(encode(theirs[0], theirs[3]), theirs[1], theirs[2])
    truth = dense(scores, is_target(target))
    (0.5 * truth).backward()
    torch.testing.assert_close(value, truth, rtol=1e-8, atol=0)
    for our, their in ((ours[0], theirs[0]), (ours[3], theirs[3])):
        torch.testing.assert_close(our.grad, their.grad, rtol=1e-8, atol=1e-10)
    for our, their in ((ours[1], theirs[1]), (ours[2], theirs[2])):
        assert our.grad is None
        torch.testing.assert_close(our.data, (their - 0.1 * their.grad).data)


MARGINS = {"one_target": 0.3, "zero_target": 0.01, "one_scale": 2.0, "zero_scale": 0.5}


@pytest.mark.parametrize("slope_norm", [None, 0.2])
@pytest.mark.parametrize(
    ("make", "settings"),
    [*((make, settings) for make, settings, _ in LOSSES), (Softmax, MARGINS | {"temperature": 2})],
)
def test_losses_of_own_items_add_up_to_that_of_the_catalog(
    make: type[nn.Module], settings: dict, slope_norm: float | None
) -> None:
    """Two threads, of the rows of 5 and 12 items, find together what one finds of all 17."""
    leaves, encode, target = problem(11)
    both, told = Barrier(2), [Tensor(), Tensor()]

    def found(items: slice, own: OwnItems | None = None) -> list[Tensor]:
        """The loss, the gradients of hidden and repeats, and what rows become."""
        given = leaves[0], *(leaf[items] for leaf in leaves[1:3]), leaves[3]
        hidden, weight, bias, repeats = ours = [leaf.clone().requires_grad_() for leaf in given]
        moves = (partial(descend, table.data) for table in (weight, bias))
        encoded = encode(hidden, repeats)
        asked = asked_of(target, encoded, leaves[2])
        value = make(**settings, block_items=4)(
            encoded, weight, bias, asked, Updates(*moves, 1.0, slope_norm, own)
        )
        value.backward()
        assert (ours[1].grad, ours[2].grad) == (None, None)
        return [value.detach(), hidden.grad, repeats.grad, weight.data, bias.data]

    def descend(table: Tensor, rows: slice, gradient: Tensor) -> None:
        table[rows] -= 0.1 * gradient

    def of_part(rank: int) -> list[Tensor]:
        def gather(mine: Tensor) -> Tensor:
            told[rank] = mine
            both.wait(timeout=60)
            together = torch.stack(told)
            both.wait(timeout=60)
            return together

        items = [slice(0, 5), slice(5, ITEMS)][rank]
        return found(items, OwnItems(items, gather))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(of_part, range(2))
    together = [one + other for one, other in zip(first[:3], second[:3], strict=True)]
    together += [torch.cat(rows) for rows in zip(first[3:], second[3:], strict=True)]
    for one, truth in zip(together, found(slice(0, ITEMS)), strict=True):
        torch.testing.assert_close(one, truth, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_step_kept_says_nothing_to_the_next(dtype: torch.dtype) -> None:
    """One loss over batches of more, fewer and as many users, and validated in between."""
    used = Softmax(block_items=5)
    for seed, users in enumerate((USERS, USERS - 2, USERS - 2, USERS)):
        hidden = torch.randn(users, WIDTH, dtype=dtype, generator=torch.manual_seed(seed))
        weight, bias = torch.randn(ITEMS, WIDTH, dtype=dtype), torch.randn(ITEMS, dtype=dtype)
        none = torch.zeros(0, dtype=torch.int64), torch.zeros(users + 1, dtype=torch.int64)
        target = Jagged(torch.arange(users) + seed, torch.arange(users + 1))
        found = []
        for loss in (used, Softmax(block_items=5)):
            leaves = [leaf.clone().requires_grad_() for leaf in (hidden, weight, bias)]
            encoded = Encoded(leaves[0], *none, torch.zeros(0, dtype=dtype))
            value = loss(encoded, *leaves[1:], target)
            with torch.no_grad():
                loss(encoded, *leaves[1:], target)
            value.backward()
            found.append([value.detach(), *(leaf.grad for leaf in leaves)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_scores_far_apart_are_borne(scale: float) -> None:
    """Users whose targets score hundreds of nats below the best item still get exact gradients."""
    leaves, encode, target = problem(10)
    runs = []
    for dense in (False, True):
        hidden, weight, bias, repeats = ours = [
            (leaf * s).float().requires_grad_() for leaf, s in zip(leaves, (scale, 1, 1, scale))
        ]
        if dense:
            scores = reference.dense_scores(encode(hidden, repeats), weight, bias)
            dense_softmax(scores, is_target(target)).float().backward()
        else:
            Softmax(block_items=5)(encode(hidden, repeats), weight, bias, target).backward()
        runs.append([leaf.grad for leaf in ours])
    for our, their in zip(*runs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5 * their.abs().max().item())


def test_with_updates_no_gradient_of_the_table_exists() -> None:
    users, items, width = 64, 2000, 40
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(users + 1, dtype=torch.int64)
    weight = torch.randn(items, width, requires_grad=True)
    hidden = torch.randn(users, width, requires_grad=True)
    target = Jagged(torch.arange(users), torch.arange(users + 1))
    table = weight.detach()
    updates = Updates(lambda rows, gradient: table[rows].sub_(gradient))
    encoded = Encoded(hidden, *none, torch.zeros(0))
    with LargestTensor() as largest:
        loss = Softmax(block_items=50)
        loss(encoded, weight, torch.zeros(items), target, updates).backward()
    assert largest.elements <= users * max(50, width)
    assert weight.grad is None


def test_the_gradient_is_handed_out_without_a_copy() -> None:
    (hidden, weight, bias, repeats), encode, target = problem(7)
    loss = Marginal()(encode(hidden, repeats), weight.requires_grad_(), bias, target)
    (kept,) = (t for t in loss.grad_fn.saved_tensors if t is not None)
    address = kept.data_ptr()
    del kept
    loss.backward()
    assert weight.grad.data_ptr() == address


@pytest.mark.parametrize("loss", [Softmax(block_items=5), Marginal(block_items=5)])
def test_under_autocast_only_the_products_are_narrow(loss: nn.Module) -> None:
    leaves, encode, target = problem(8)
    leaves[0] = leaves[0].bfloat16()  # what autocast hands over
    whole, narrow = ([leaf.float().requires_grad_() for leaf in leaves] for _ in range(2))
    truth = loss(encode(whole[0], whole[3]), whole[1], whole[2], target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(encode(narrow[0].bfloat16(), narrow[3]), narrow[1], narrow[2], target)
    (2 * truth).backward()
    (2 * value).backward()
    assert value.dtype == torch.float32
    assert value != truth
    torch.testing.assert_close(value, truth, rtol=0.02, atol=0)
    for ours, theirs in zip(narrow, whole, strict=True):
        assert ours.grad.dtype == torch.float32
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 0.03  # bfloat16 keeps 8 bits: 0.4 % a factor


@pytest.mark.parametrize("item", [-1, ITEMS, 10 * ITEMS])
@pytest.mark.parametrize("loss", [Softmax(block_items=5), Marginal(block_items=5)])
def test_a_target_outside_the_catalog_is_refused(loss: nn.Module, item: int) -> None:
    (hidden, weight, bias, repeats), encode, target = problem(0)
    target.values[0] = item
    with pytest.raises(ValueError, match=rf"target items must lie in \[0, {ITEMS}\), got {item}"):
        loss(encode(hidden, repeats), weight, bias, target)


def test_a_target_named_twice_is_refused() -> None:
    (hidden, weight, bias, repeats), encode, _ = problem(0)
    offsets = torch.tensor([0, 1, 3, 5, 5, 5, 5])  # two users may share item 3, one may not
    with pytest.raises(ValueError, match="distinct inside a user, got 1 repeats"):
        twice = Jagged(torch.tensor([3, 2, 3, 3, 3]), offsets)
        Marginal()(encode(hidden, repeats), weight, bias, twice)


@pytest.mark.parametrize("loss", [Softmax(), Marginal()])
def test_users_without_targets_have_a_loss_and_gradients(loss: nn.Module) -> None:
    (hidden, weight, bias, repeats), encode, _ = problem(0)
    nobody = Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(USERS + 1, dtype=torch.int64))
    value = loss(encode(hidden.requires_grad_(), repeats), weight, bias, nobody)
    value.backward()
    costs = isinstance(loss, Marginal)  # every item is one that they did not take
    assert value.item() > 0 if costs else value.item() == 0
    assert (hidden.grad.abs().sum() > 0).item() == costs


@pytest.mark.parametrize("loss", [Softmax(), Marginal()])
def test_extreme_scores_stay_finite(loss: nn.Module) -> None:
    leaves, encode, target = problem(2)
    hidden, weight, bias, repeats = (leaf.float() * 100 for leaf in leaves)
    hidden.requires_grad_()
    value = loss(encode(hidden, repeats), weight, bias, target)
    value.backward()
    assert math.isfinite(value.detach())
    assert torch.isfinite(hidden.grad).all()


def test_a_wrong_margin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got zero_target=0\.9, one_target=0\.1"):
        Marginal(zero_target=0.9, one_target=0.1)


@pytest.mark.parametrize("loss", [Softmax, Marginal])
def test_a_block_without_items_is_refused(loss: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="block_items must be 1 or more, got 0"):
        loss(block_items=0)


def test_offsets_of_another_batch_are_refused() -> None:
    (hidden, weight, bias, repeats), encode, _ = problem(0)
    target = Jagged(torch.tensor([1]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"B \+ 1 = 7 entries, got 2"):
        Softmax()(encode(hidden, repeats), weight, bias, target)


@pytest.mark.parametrize("loss", [Softmax(block_items=50), Marginal(block_items=50)])
def test_users_by_catalog_never_exists(loss: nn.Module) -> None:
    users, items, width = 64, 2000, 4
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(users + 1, dtype=torch.int64)
    weight = torch.randn(items, width, requires_grad=True)
    hidden = torch.randn(users, width, requires_grad=True)
    target = Jagged(torch.arange(users), torch.arange(users + 1))
    with LargestTensor() as largest:
        loss(Encoded(hidden, *none, torch.zeros(0)), weight, torch.zeros(items), target).backward()
    assert (
        largest.elements == items * width
    )  # the table's own gradient; scores would be 16 times it


def test_a_wrong_regression_is_refused() -> None:
    with pytest.raises(ValueError, match="error must be one of absolute, squared"):
        Regression(error="cubed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="output must be one of identity, sigmoid"):
        Regression(output="gelu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="output must be sigmoid with error=cross_entropy"):
        Regression(error="cross_entropy", output="tanh")
    with pytest.raises(
        ValueError, match=r"slope is read by leaky_relu alone, got slope=0\.3 with 'ta"
    ):
        Regression(output="tanh", slope=0.3)
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        Regression(output="elu", alpha=0.0)
    with pytest.raises(ValueError, match="one_target must be in"):
        Softmax(one_target=0.0)
    with pytest.raises(ValueError, match=r"zero_target must be from 0 on and below one_target"):
        Softmax(one_target=0.5, zero_target=0.5)
    for kind in (Hinge, Regression, Marginal, Asymmetric):
        with pytest.raises(ValueError, match=r"0 or more and finite, .* zero_scale=-1\.0"):
            kind(zero_scale=-1.0)
    with pytest.raises(ValueError, match=r"zero_scale must be above 0, got 0\.0"):
        Softmax(zero_scale=0.0)
