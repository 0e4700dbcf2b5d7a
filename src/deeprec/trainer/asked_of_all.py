"""What several processes are asked in a step, told in numbers and put together."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deeprec.batch import Asked, Jagged, with_transposition


class AskedOfAll(NamedTuple):
    """One task of a step over the users of all processes, those of the first one first."""

    asked: Asked  # on the host
    users: list[int]  # of each process
    repeats: list[int]  # items with a score of their own, of each process


def told(asked: Sequence[Asked]) -> Tensor:
    """int64 [n] on the host: what a batch asks, task after task.

    Each task is five numbers (users, targets, items with a score of their own, whether targets
    have weights, whether users do), then lengths and values of both, then the weights as the bits
    of float64.
    """
    numbers: list[Tensor] = []
    for one in asked:
        assert one.sample is None, "refused before the run"
        weights = one.target.weights, one.user_weights
        sizes = len(one.target.offsets) - 1, len(one.target.values), len(one.repeats.values)
        numbers.append(torch.tensor([*sizes, *(each is not None for each in weights)]))
        for rows in (one.target, one.repeats):
            numbers += [rows.offsets.diff(), rows.values]
        numbers += [each.double().view(torch.int64) for each in weights if each is not None]
    return torch.cat(numbers)


def of_all(messages: Sequence[Tensor]) -> list[AskedOfAll]:
    """The tasks of a step, from what each process told.

    Example:
        >>> none = Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
        >>> mine = told([Asked(Jagged(torch.tensor([5, 7]), torch.tensor([0, 2])), none)])
        >>> [together] = of_all([mine, mine])
        >>> together.asked.target.values.tolist(), together.asked.target.offsets.tolist()
        ([5, 7, 5, 7], [0, 2, 4])
        >>> together.users, together.repeats
        ([1, 1], [0, 0])
    """
    by_process = [list(_tasks(message)) for message in messages]
    return [_together(task) for task in zip(*by_process, strict=True)]


class _Told(NamedTuple):
    """One task of one process, as it was told."""

    target_lengths_B: Tensor
    target_P: Tensor
    repeat_lengths_B: Tensor
    repeat_M: Tensor
    weights_P: Tensor | None
    user_weights_B: Tensor | None


def _tasks(message: Tensor) -> Iterator[_Told]:
    while len(message):
        users, targets, repeats, weighs, weighs_users = message[:5].tolist()
        sizes = [users, targets, users, repeats, weighs * targets, weighs_users * users]
        lengths_B, target_P, repeat_lengths_B, repeat_M, weights_P, user_weights_B, message = (
            torch.split(message[5:], [*sizes, len(message) - 5 - sum(sizes)])
        )
        yield _Told(
            lengths_B,
            target_P,
            repeat_lengths_B,
            repeat_M,
            weights_P.view(torch.float64).float() if weighs else None,
            user_weights_B.view(torch.float64).float() if weighs_users else None,
        )


def _together(told: Sequence[_Told]) -> AskedOfAll:
    target = _rows([one.target_P for one in told], [one.target_lengths_B for one in told])
    target.weights = _weights([(one.weights_P, len(one.target_P)) for one in told])
    repeats = _rows([one.repeat_M for one in told], [one.repeat_lengths_B for one in told])
    users = [len(one.target_lengths_B) for one in told]
    user_weights = _weights([(one.user_weights_B, len(one.target_lengths_B)) for one in told])
    asked = Asked(
        with_transposition(target), with_transposition(repeats), user_weights=user_weights
    )
    return AskedOfAll(asked, users, [len(one.repeat_M) for one in told])


def _rows(values: Sequence[Tensor], lengths: Sequence[Tensor]) -> Jagged:
    offsets = torch.cat([*lengths]).cumsum(0)
    return Jagged(torch.cat([*values]), torch.cat([offsets.new_zeros(1), offsets]))


def _weights(told: Sequence[tuple[Tensor | None, int]]) -> Tensor | None:
    """Those of all; a process that tells none has only weights of 1, or nobody to weigh."""
    if all(one is None for one, _ in told):
        return None
    return torch.cat([torch.ones(count) if one is None else one for one, count in told])
