"""Arrays in one piece of memory are what they were, wherever it is taken."""

import numpy as np
import torch

from deeprec.data.packed import Packed, packed, shared


def test_arrays_and_tensors_arrive_as_they_were() -> None:
    made = {
        "numbers": torch.arange(7),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(2.5),
        "apart": torch.arange(12).reshape(3, 4)[:, ::2],
        "flags": torch.tensor([True, False, True]),
        "array": np.arange(5, dtype=np.int32),
        "word": "a",
    }
    found = packed(made, shared).unpacked()
    assert found.keys() == made.keys()
    for name, one in made.items():
        assert type(found[name]) is type(one)
        if isinstance(one, torch.Tensor):
            assert torch.equal(found[name], one)
            assert found[name].dtype == one.dtype
    np.testing.assert_array_equal(found["array"], made["array"])
    found["numbers"].add_(1)  # whoever gets it may change it
    assert packed("nothing else", shared).unpacked() == "nothing else"


def test_what_is_made_comes_in_one_piece_of_memory() -> None:
    together: Packed = packed([torch.arange(1000.0) for _ in range(50)], shared)
    assert 50 * 4000 <= together.memory.nbytes <= 51 * 4064
    low = together.memory.data_ptr()
    for one in together.unpacked():
        assert low <= one.data_ptr() < low + together.memory.nbytes


def test_tensors_lie_in_a_copy_of_the_memory_and_arrays_where_they_were() -> None:
    together = packed([torch.arange(5.0), np.arange(3), torch.tensor([True, False])], shared)
    copy = together.memory.clone()
    numbers, array, flags = together.over(copy)
    copy.zero_()
    assert not numbers.any()
    assert not flags.any()
    assert array.tolist() == [0, 1, 2]
    assert together.unpacked()[0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_numbers_travel_in_as_few_bits_as_hold_them_and_what_stands_twice_travels_once() -> None:
    small, large = torch.tensor([-(2**31), 2**31 - 1]), torch.tensor([2**31, -(2**31) - 1])
    again = torch.arange(1000)
    together = packed([small, large, again, again.numpy(), torch.tensor(3)], shared)
    assert together.memory.nbytes < 1000 * 8
    for found in (together.unpacked(), together.over(together.memory.clone())):
        assert [one.dtype for one in found] == [torch.int64] * 3 + [np.dtype(np.int64), torch.int64]
        assert torch.equal(found[0], small)
        assert torch.equal(found[1], large)
        assert torch.equal(found[2], again)
        assert found[3].tolist() == again.tolist()
        assert found[4].item() == 3
