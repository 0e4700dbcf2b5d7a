"""What every trained recommender promises; a model's test class inherits it.

class TestAutoencoder(RecommenderContract):
    def new_model(self) -> Recommender: ...   # V = NUM_ITEMS, fields = FIELDS
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deeprec.batch import Encoded
from deeprec.model.base import Recommender

NUM_ITEMS = 30
FIELDS = {"age": 4, "a.b%2E": 3}  # any text is a name, and any number of values is allowed

Users = list[tuple[list[int], list[float], dict[str, list[int]]]]  # items, ages, attributes

USERS: Users = [
    ([3, 7, 3, 3, 29], [90.0, 40.5, 40.0, 2.0, 0.0], {"age": [1], "a.b%2E": []}),
    ([], [], {"age": [3], "a.b%2E": [2, 0]}),
    ([0], [7.0], {"age": [], "a.b%2E": []}),
    ([12, 11, 10, 12], [9.0, 8.0, 7.0, 6.0], {"age": [0], "a.b%2E": [1]}),
    ([], [], {"age": [], "a.b%2E": []}),
]

Input = tuple[Tensor, Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]


def jagged(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return torch.tensor([v for row in rows for v in row], dtype=torch.int64), offsets


def batch(users: Users, *, with_ages: bool = True) -> Input:
    items, offsets = jagged([items for items, _, _ in users])
    ages = torch.tensor([age for _, ages, _ in users for age in ages]) if with_ages else []
    attributes = {name: jagged([user[2][name] for user in users]) for name in FIELDS}
    return items, offsets, torch.as_tensor(ages, dtype=torch.float32), attributes


def scores(model: Recommender, encoded: Encoded) -> Tensor:
    """float32 [B, V], written out as deeprec/model/base.py says."""
    width = model.item_weight.shape[1]
    dense = encoded.hidden_BD[:, :width] @ model.item_weight.T + model.item_bias
    if encoded.hidden_BD.shape[1] > width:
        dense = dense + encoded.hidden_BD[:, width:]
    for user in range(len(dense)):
        for m in range(encoded.repeat_offsets_B1[user], encoded.repeat_offsets_B1[user + 1]):
            dense[user, encoded.repeat_items_M[m]] = encoded.repeat_scores_M[m]
    return dense.detach()


class RecommenderContract:
    """Inherit, and give `new_model`."""

    def new_model(self) -> Recommender:
        raise NotImplementedError

    @pytest.fixture
    def model(self) -> Recommender:
        """Its parameters are noise: a part that starts at zero must not hide a mistake."""
        torch.manual_seed(0)
        model = self.new_model().eval()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5)
        return model  # type: ignore[no-any-return]

    def test_it_answers_with_what_the_seam_says(self, model: Recommender) -> None:
        encoded = model.encode(*batch(USERS))
        width = model.item_weight.shape[1]
        assert model.item_weight.shape == (NUM_ITEMS, width)
        assert model.item_bias.shape == (NUM_ITEMS,)
        assert encoded.hidden_BD.shape[0] == len(USERS)
        assert encoded.hidden_BD.shape[1] in ({width, width + NUM_ITEMS} - {0})
        assert encoded.hidden_BD.dtype == torch.float32
        offsets = encoded.repeat_offsets_B1.tolist()
        assert offsets[0] == 0
        assert len(offsets) == len(USERS) + 1
        assert offsets[-1] == len(encoded.repeat_items_M) == len(encoded.repeat_scores_M)
        for (items, _, _), start, end in zip(USERS, offsets, offsets[1:], strict=False):
            given = encoded.repeat_items_M[start:end].tolist()
            assert given == sorted(set(given))
            assert not given or {*items} <= {*given}

    @pytest.mark.parametrize("with_ages", [True, False])
    def test_batch_composition_never_changes_an_answer(
        self, model: Recommender, with_ages: bool
    ) -> None:
        together = scores(model, model.encode(*batch(USERS, with_ages=with_ages)))
        for order in ([4, 3, 2, 1, 0], [2, 2, 0], [1], [0, 4]):
            some = batch([USERS[i] for i in order], with_ages=with_ages)
            torch.testing.assert_close(
                scores(model, model.encode(*some)), together[order], atol=1e-5, rtol=0
            )
        assert not torch.allclose(together[0], together[3])

    def test_no_history_at_all_has_an_answer(self, model: Recommender) -> None:
        nobody = batch([])
        assert len(model.encode(*nobody).hidden_BD) == 0
        assert scores(model, model.encode(*batch([USERS[4]]))).isfinite().all()

    @pytest.mark.parametrize("with_ages", [True, False])
    def test_what_is_served_equals_what_is_evaluated(
        self, model: Recommender, with_ages: bool
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
            scripted = torch.jit.script(model.serving_encoder().eval())
        for users in (USERS, USERS[1:2], [], USERS[::-1]):
            items, offsets, ages, attributes = batch(users, with_ages=with_ages)
            expected = model.encode(items, offsets, ages, attributes)
            values = [attributes[name][0] for name in FIELDS]
            served = scripted(items, offsets, ages, values, [attributes[n][1] for n in FIELDS])
            for one, other in zip(expected, served, strict=True):
                torch.testing.assert_close(one, other, atol=1e-6, rtol=0)

    def test_the_scripted_encoder_needs_torch_alone(
        self, model: Recommender, tmp_path: Path, torch_alone: Callable[[Path, Path], str]
    ) -> None:
        items, offsets, ages, attributes = batch(USERS)
        request = (
            items,
            offsets,
            ages,
            [attributes[name][0] for name in FIELDS],
            [attributes[name][1] for name in FIELDS],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(model.serving_encoder().eval()), tmp_path / "e.pt")
        torch.save((request, model.encode(*batch(USERS)).hidden_BD.detach()), tmp_path / "case.pt")
        assert torch_alone(tmp_path / "e.pt", tmp_path / "case.pt") == "the same"
