"""A blend says what its members say, over their spread, weighed; against dense scores of each."""

import pytest
import torch
from torch import Tensor

from deeprec.model.autoencoder import Autoencoder
from deeprec.model.base import Recommender
from deeprec.model.blend import Blend
from deeprec.model.ease import Ease
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.linear_autoencoder import LinearAutoencoder
from recommender_contract import (
    FIELDS,
    NUM_ITEMS,
    USERS,
    RecommenderContract,
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
    from scipy import sparse

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
