"""A blend says what its members say, over their spread, weighed; against dense scores of each."""

import warnings
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from deeprec.batch import Encoded
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.base import Recommender
from deeprec.model.blend import Blend, moments_of, standardised
from deeprec.model.ease import Ease
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.linear_autoencoder import LinearAutoencoder
from recommender_contract import (
    FIELDS,
    NUM_ITEMS,
    USERS,
    RecommenderContract,
    Users,
    batch,
    scores,
)


def members() -> list[Recommender]:
    """One of each kind: product and repeat scores, product alone, scores alone, neighbours."""
    generator = torch.Generator().manual_seed(5)
    autoencoder = Autoencoder(
        NUM_ITEMS, fields=FIELDS, target_share=0.5, repeats=True, hidden_dims=[6]
    )
    found = [
        autoencoder,
        LinearAutoencoder(NUM_ITEMS, width=4),
        Ease(NUM_ITEMS),
        ItemToItem(NUM_ITEMS, neighbours=3),
    ]
    for model in found:
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    table = torch.rand(NUM_ITEMS, NUM_ITEMS, generator=generator)
    found[3].between_items.fill(sparse.csr_array(table.numpy() * (table.numpy() > 0.8)))
    return [model.eval() for model in found]


def dense(weights: list[float]) -> Tensor:
    """float64 [B, V]: each member's scores over their own standard deviation, added up."""
    total = torch.zeros(len(USERS), NUM_ITEMS, dtype=torch.float64)
    for member, weight in zip(members(), weights, strict=True):
        said = scores(member, member.encode(*batch(USERS))).double()
        spread = said.std(1, correction=0, keepdim=True)
        total += torch.where(spread > 1e-5, weight * said / spread, torch.zeros_like(said))
    return total


@pytest.mark.parametrize(
    "weights",
    [[0.4, 0.3, 0.2, 0.1], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.5, 0.0, 0.5]],
)
def test_a_blend_is_the_weighted_sum_of_standardised_scores(weights: list[float]) -> None:
    model = Blend(NUM_ITEMS, members=members(), weights=weights)
    model.join()
    torch.testing.assert_close(
        scores(model, model.encode(*batch(USERS))).double(), dense(weights), atol=2e-5, rtol=1e-4
    )


def test_a_member_that_scores_everything_alike_says_nothing() -> None:
    flat = LinearAutoencoder(NUM_ITEMS, width=2)
    flat.item_weight.data.zero_()
    flat.item_bias.data.fill_(3.7)
    other = members()[2]
    both = Blend(NUM_ITEMS, members=[flat, other], weights=[0.5, 0.5])
    alone = Blend(NUM_ITEMS, members=[other], weights=[0.5])
    for model in (both, alone):
        model.join()
    asked = batch(USERS)
    torch.testing.assert_close(
        scores(both, both.encode(*asked)), scores(alone, alone.encode(*asked))
    )


def fading(likeness: float) -> tuple[Recommender, Users]:
    """Item-to-item of twelve items that forgets within days, and users idle for up to 100.

    Own scores are down to 1e-17 where the product is about -1.

    Args:
        likeness: share of the pairs of items that are alike.
    """
    draw = np.random.default_rng(3)
    model = ItemToItem(12, neighbours=11, history_weighting="decayed", fade_days=2.64)
    alike = draw.random((12, 12)) * (draw.random((12, 12)) < likeness)
    model.between_items.fill(sparse.csr_array(alike + np.eye(12)))
    model.item_bias.data = torch.from_numpy(draw.uniform(-1.0, -0.6, 12)).float()
    users: Users = [([], [], {"age": [], "a.b%2E": []})]
    for idle in range(100):
        items = draw.permutation(12)[: draw.integers(1, 9)].tolist()
        ages = (idle + np.sort(draw.exponential(9.0, len(items)))[::-1]).tolist()
        users.append((items, ages, {"age": [], "a.b%2E": []}))
    return model.eval(), users


@pytest.mark.parametrize("likeness", [0.2, 0.7, 1.0])
def test_the_spread_is_exact_where_own_scores_are_far_smaller_than_the_product(
    likeness: float,
) -> None:
    model, users = fading(likeness)
    table = torch.cat([model.item_weight, model.item_bias[:, None]], 1).detach()
    for size in (len(users), 1):  # of a batch
        for asked in (users[at : at + size] for at in range(0, len(users), size)):
            said = model.encode(*batch(asked))
            spread_B1 = scores(model, said).double().std(1, correction=0, keepdim=True)
            assert (spread_B1 > 0.0).all()
            found = standardised(said, table, moments_of(table))
            expected_BV = scores(model, said).double() / spread_B1
            torch.testing.assert_close(
                dense_of(found, table).double(), expected_BV, rtol=1e-5, atol=0
            )


@pytest.mark.parametrize("likeness", [0.2, 1.0])
def test_it_is_exact_where_it_is_served_too(likeness: float) -> None:
    model, users = fading(likeness)
    torch.manual_seed(0)
    other = LinearAutoencoder(12, width=3).eval()
    blend = Blend(12, members=[model, other], weights=[0.7, 0.3])
    blend.join()
    expected = torch.zeros(len(users), 12, dtype=torch.float64)
    for member, weight in ((model, 0.7), (other, 0.3)):
        said = scores(member, member.encode(*batch(users))).double()
        spread_B1 = said.std(1, correction=0, keepdim=True)
        expected += torch.where(spread_B1 > 0.0, weight * said / spread_B1, 0.0)  # no history
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
        scripted = torch.jit.script(blend.serving_encoder().eval())
    items, offsets, ages, _ = batch(users)
    served = scripted(items, offsets, ages, [], [])
    for found in (blend.encode(*batch(users)), served):
        torch.testing.assert_close(scores(blend, found).double(), expected, rtol=2e-4, atol=2e-5)


def dense_of(said: Encoded, table: Tensor) -> Tensor:
    """float32 [B, V] of what was standardised."""
    flat = SimpleNamespace(item_weight=table, item_bias=torch.zeros(len(table)))
    return scores(cast(Recommender, flat), said)


@pytest.mark.parametrize("weights", [[0.5], [0.5, -0.1], [0.0, 0.0]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        Blend(NUM_ITEMS, members=members()[:2], weights=weights)


class TestBlend(RecommenderContract):
    def new_model(self) -> Recommender:
        return Blend(NUM_ITEMS, members=members(), weights=[0.4, 0.3, 0.2, 0.1])


class TestBlendOfProducts(RecommenderContract):
    def new_model(self) -> Recommender:
        return Blend(NUM_ITEMS, members=members()[:2], weights=[0.4, 0.6])
