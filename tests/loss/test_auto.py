"""loss=auto takes the exact loss where it can be afforded and fits, and says why."""

from dataclasses import replace

import pytest
import torch

from deeprec import part
from deeprec.loss.auto import Auto
from deeprec.loss.cosine import Cosine
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.loss.fit import Trained, advice
from deeprec.loss.softmax import Softmax

PLENTY = 10**12


@pytest.mark.parametrize(
    ("num_items", "width", "batch_users", "device", "chosen"),
    [
        (27_278, 600, 512, "cpu", "Softmax"),
        (1_000_000, 64, 256, "cpu", "Softmax"),
        (10_000_000, 64, 256, "cpu", "SampledSoftmax"),
        (10_000_000, 32, 256, "cpu", "SampledSoftmax"),  # 37 s on a thread, 7 of these products
        (10_000_000, 16, 256, "cpu", "SampledSoftmax"),
        (10_000_000, 32, 256, "cuda", "Softmax"),
        (10_000_000, 64, 256, "cuda", "Softmax"),
        (100_000_000, 128, 4096, "cuda", "SampledSoftmax"),
    ],
)
def test_the_catalog_is_sampled_where_all_of_it_costs_too_much(
    num_items: int, width: int, batch_users: int, device: str, chosen: str
) -> None:
    auto = Auto(num_items, width=width, batch_users=batch_users, device=device)
    choice = auto.choose(lambda loss: 1, PLENTY)
    assert choice.loss["_target_"].rpartition(".")[2] == chosen
    assert f"{num_items:,}" in choice.why
    assert device in choice.why


def test_what_does_not_fit_is_estimated_if_that_takes_less() -> None:
    def sizes(exact: int, estimated: int) -> dict[str, int]:
        return {"Softmax": exact, "SampledSoftmax": estimated}

    def chosen(size: dict[str, int], available: int) -> str:
        def bytes_of(loss: object) -> int:
            return size[loss["_target_"].rpartition(".")[2]]  # type: ignore[index]

        return str(Auto(100).choose(bytes_of, available).loss["_target_"]).rpartition(".")[2]

    assert chosen(sizes(10, 5), 10) == "Softmax"
    assert chosen(sizes(10, 5), 9) == "SampledSoftmax"
    assert chosen(sizes(10, 20), 5) == "Softmax"  # refused by what it is, not by what is larger


def test_a_linear_model_gets_the_gram_matrix_and_past_its_price_a_kept_one() -> None:
    small = Auto(20_000, width=256, linear=True).choose(lambda loss: 1, PLENTY)
    assert small.loss == {"_target_": "deeprec.loss.cosine.Cosine", "_partial_": True}
    # 4 V D D operations: 4 * 10 million * 256 * 256 = 2.6e12, and V D numbers as 400 each: 1.0e12
    large = Auto(10_000_000, width=256, linear=True).choose(lambda loss: 1, PLENTY)
    assert large.loss["gram_items"] == 4096
    assert "3.6 of at most 1.2 TFLOP" in large.why


@pytest.mark.parametrize("num_items", [20_000, 1_000_000])
def test_a_linear_model_makes_its_gram_matrix_of_the_blocks_that_are_asked_for(
    num_items: int,
) -> None:
    auto = Auto(num_items, width=1024, linear=True, block_items=500)
    choice = auto.choose(lambda loss: 1, PLENTY)
    assert choice.loss["block_items"] == 500
    assert ("gram_items" in choice.loss) is (num_items > 20_000)
    assert part.instantiate(choice.loss, num_items=num_items).gram.block_items == 500


@pytest.mark.parametrize("num_items", [27_278, 100_000, 200_000, 390_000])
@pytest.mark.parametrize(
    ("width", "batch_users"), [(64, 1024), (128, 1024), (200, 1024), (256, 1024), (600, 512)]
)
def test_some_hundred_thousand_items_are_scored_exactly(
    num_items: int, width: int, batch_users: int
) -> None:
    auto = Auto(num_items, width=width, batch_users=batch_users)
    assert auto.choose(lambda loss: 1, PLENTY).loss["_target_"].endswith(".Softmax")


def test_targets_are_scored_for_everybody_where_a_batch_has_fewer_than_draws() -> None:
    for users_of_an_item, shared in ((1, True), (1_000, False)):
        popularity = torch.full((10_000_000,), users_of_an_item, dtype=torch.int64)
        auto = Auto(
            10_000_000, popularity=popularity, num_users=1_000_000, width=64, batch_users=256
        )
        # 10 million items, each in one of a million histories: 10 a user, 2,560 a batch
        assert auto.choose(lambda loss: 1, PLENTY).loss["shared_targets"] is shared
    assert Auto(9).targets == 0.0


def test_distinct_targets_are_those_of_users_drawn_at_random() -> None:
    """Items that half of the users have, and 2 users: 1 - 1/4 of them."""
    auto = Auto(8, popularity=torch.full((8,), 50), num_users=100, batch_users=2)
    assert auto.targets == pytest.approx(6.0)


def test_cosines_are_told_apart_by_a_temperature_however_they_are_scored() -> None:
    for budget, name in ((10**9, "softmax.Softmax"), (0, "sampled_softmax.SampledSoftmax")):
        found = Auto(30_000, unit_rows=True).choose(
            lambda loss: 0 if "Sampled" in loss["_target_"] else 1, budget
        )
        assert found.loss["_target_"] == f"deeprec.loss.{name}"
        assert found.loss["temperature"] == 0.15
    assert Auto(30_000).choose(lambda loss: 0, 1).loss["temperature"] == 1.0


def test_who_learns_more_from_another_loss_is_told() -> None:
    usual = Trained(
        num_items=9,
        linear=False,
        unit_rows=False,
        changed_by_input=False,
        num_tasks=1,
        weighted=False,
    )
    assert advice(Softmax(), usual) is None
    linear, cosines = replace(usual, linear=True), replace(usual, unit_rows=True)
    assert "loss=cosine" in str(advice(Softmax(), linear))
    assert advice(Cosine(9), linear) is None
    assert "loss.temperature=0.15" in str(advice(Softmax(), cosines))
    assert (
        advice(Softmax(temperature=0.1), cosines) is advice(CosineContrastive(9), cosines) is None
    )
