"""Where a run computes, and what is said of it."""

from typing import Any

import pytest
import torch

from deeprec.device import choose_device, precision_note


@pytest.mark.parametrize(
    ("capabilities", "told"),
    [
        ({"avx2": True, "avx512_bf16": False, "l1d_cache_size": 32768}, True),
        ({"avx2": True, "avx512_bf16": True}, False),
        ({"amx_bf16": True}, False),
    ],
)
def test_a_processor_without_bfloat16_products_is_told_of(
    capabilities: dict[str, Any], told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    cpu = choose_device("cpu")
    assert precision_note(cpu, "float32") is None
    assert (precision_note(cpu, "bfloat16") is not None) == told
