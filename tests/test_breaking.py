"""A short form of what scripts/faults does a thousand times."""

import random
import re
from pathlib import Path

import pytest

import breaking
import small_shop
from deeprec import config
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, DeeprecError


def test_no_key_of_a_mutated_config_is_dropped() -> None:
    draw = random.Random(3)
    known = sorted(breaking.leaves(config.to_dict(config.compose("train", breaking.PLACES))).keys())
    words = [breaking.mutated_word(known, draw) for _ in range(12)]
    assert [told for word in words if (told := breaking.dropped_key(word))] == []


@pytest.mark.parametrize(
    "word", ["++model.hidden_dims.lr=3", "model.hidden_dims.extra.lr=3", "~model.hidden_dims.0"]
)
def test_a_name_inside_a_list_is_a_mistake_like_any_other(word: str) -> None:
    told = re.escape(word.lstrip("+"))
    with pytest.raises(ConfigError, match=f"{told}: a list has no keys by name"):
        config.compose("train", [*breaking.PLACES, word])


def test_a_dropped_key_would_be_noticed() -> None:
    assert breaking.dropped_key("seed=0.5") is None  # refused
    assert breaking.dropped_key("seed=0") is None  # taken
    assert not breaking._same(1, "0")


def test_a_flipped_bit_of_a_prepared_folder_is_never_read(tmp_path: Path) -> None:
    prepared = small_shop.make(tmp_path / "prepared")
    draw = random.Random(4)
    for _ in range(40):
        with breaking.flipped_bit(prepared, draw) as what, pytest.raises(DeeprecError) as found:
            Prepared(prepared)
        assert what.split()[-1] in str(found.value)
    Prepared(prepared)
