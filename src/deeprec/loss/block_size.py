"""How many items are scored at once."""

from functools import cache

import torch

BLOCK_ITEMS = 2_048  # on a CPU: 4 MiB of scores for 512 users in float32 stay in its cache
CUDA_SCORES = 2**25  # of a block at least: each is some thirty kernels, asked for one by one
CUDA_SHARE = 1 / 64  # of the memory of a device, which the scores of a block may take


def check_block_items(block_items: int | None) -> None:
    """Raises ValueError if a loss is told to score no item at once."""
    if block_items is not None and block_items < 1:
        raise ValueError(f"block_items must be 1 or more, got {block_items}")


def fitting_block_items(num_users: int, device: str) -> int:
    """Items that are best scored at once for so many users on a kind of device.

    Example:
        >>> fitting_block_items(512, "cpu"), fitting_block_items(512, "cuda") >= 65_536
        (2048, True)
    """
    return BLOCK_ITEMS if device == "cpu" else max(1, cuda_bytes() // 4 // max(num_users, 1))


@cache
def cuda_bytes() -> int:
    """What the scores of a block may take on a CUDA device."""
    least = 4 * CUDA_SCORES
    if not torch.cuda.is_available():
        return least
    return max(least, int(torch.cuda.get_device_properties().total_memory * CUDA_SHARE))
