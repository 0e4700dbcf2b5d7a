"""Several processes that train one run: each its own users of a step, all the same weights.

The one that leads holds the run folder, validates, saves and decides; the others follow, know of
nothing but the next step, and end with it. At every step each process makes its own batch and its
own gradients; these are added up over all of them before an optimizer sees them. So all of them end
a step with the same weights, which are those that one process would have that takes the users of
all at once, but for rounding and for what is drawn for a batch.

What travels in a step: the gradient of the layers, the rows of tables that were touched, and of a
catalog table that an exact loss scores whole, all of its gradient, unless they share the catalog
(catalog_shards.py). Processes talk over loopback, by gloo on a CPU and by NCCL between GPUs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from deeprec.begun import deaf
from deeprec.device import visible_devices
from deeprec.errors import ConfigError, ResourceError
from deeprec.halving import denies_memory
from deeprec.table import Rows
from deeprec.trainer.row_gradient import ALL, NONE, RowGradient, added

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # of Linux


class Group:
    """This process among those that train one run.

    Args:
        size: how many they are.
        rank: this one's number; 0 leads.
    """

    def __init__(self, size: int, rank: int = 0) -> None:
        self.size, self.rank = size, rank
        self._place: Path | None = None  # where the others are met, by the one that leads
        self._control: Any = None  # speaks of numbers on the host, and never waits for a device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @contextmanager
    def led(self, config: Mapping[str, Any], device: torch.device) -> Iterator[None]:
        """Begins the others, and joins them; at its end they are gone, however it ends.

        Args:
            config: of the run, as plain values.
            device: on which each trains.

        Raises:
            ResourceError: one of them ended.
        """
        with tempfile.TemporaryDirectory(prefix="deeprec-", ignore_cleanup_errors=True) as place:
            self._place = Path(place)
            others = [self._begun(rank, config, place, device) for rank in range(1, self.size)]
            try:
                for rank, other in enumerate(others, 1):
                    assert other.stdout is not None
                    if other.stdout.readline() != b"ready\n":
                        raise ResourceError(
                            f"number {rank + 1} of the {self.size} processes that train this run "
                            "ended as it began; what it printed stands above"
                        )
                self.join(Path(place), device)
                yield
            finally:
                for other in others:
                    other.kill()  # it holds nothing that is not here too
                    other.communicate()
                if distributed.is_initialized():
                    with suppress(RuntimeError):  # nobody is asked: the others are gone
                        distributed.destroy_process_group()

    def _begun(
        self, rank: int, config: Mapping[str, Any], place: str, device: torch.device
    ) -> "subprocess.Popen[bytes]":
        told = {"config": config, "rank": rank, "size": self.size, "place": place}
        told["parent"] = os.getpid()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
        environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        if device.type == "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = _devices()[rank]
        with deaf():  # as it is until it ignores them: requests to stop are for the one that leads
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "deeprec.follow"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(told).encode())
        process.stdin.close()
        process.stdin = None  # else `communicate` would flush it
        return process

    def join(self, place: Path, device: torch.device) -> None:
        """Meets the others, each of whom must call it.

        Args:
            place: a folder that all of them can write to.
            device: of the weights.
        """
        if sys.platform == "linux":
            for name, interface in LOOPBACK.items():
                os.environ.setdefault(name, interface)
        store = distributed.FileStore(str(place / "meeting"), self.size)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        # whoever waits for a validation waits here; one that ended is noticed at once
        self._control = distributed.new_group(backend="gloo", timeout=timedelta(days=30))

    def share(self, tensors: Sequence[Tensor], told: Mapping[str, Any]) -> dict[str, Any]:
        """Gives the others the leader's tensors, in place, and what it tells, which is returned."""
        with _telling():
            for tensor in tensors:
                distributed.broadcast(tensor, 0)
            text = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
            [length, *_] = self.numbers(len(text))[0]
            if not self.leads:
                text = torch.empty(int(length), dtype=torch.uint8)
            distributed.broadcast(text, 0, group=self._control)
        if self._place is not None:  # all have met
            shutil.rmtree(self._place, ignore_errors=True)
        received: dict[str, Any] = json.loads(bytes(text.tolist()))
        return received

    def totals(self, *mine: int) -> list[int]:
        """The sum of each number over all processes."""
        return [sum(each) for each in zip(*self.numbers(*mine), strict=True)]

    def numbers(self, *mine: int) -> list[list[int]]:
        """The numbers of every process, by rank; each gives equally many."""
        told = torch.tensor(mine, dtype=torch.int64)
        found = self._gathered(told, [len(told)] * self.size, on_host=True)
        return [one.tolist() for one in found]

    def messages(self, mine: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """What every process says, int64 on the host, by rank.

        Args:
            mine: of this one.
            lengths: of those of all.
        """
        return self._gathered(mine, lengths, on_host=True)

    def gather(self, mine: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The tensors of every process, by rank, on the device; their lengths are known."""
        return self._gathered(mine, lengths)

    def send(self, tensor: Tensor, rank: int) -> None:
        """Gives a tensor on the host to one process, which must ask for it with `received`."""
        with _telling():
            distributed.send(tensor, rank, group=self._control)

    def received(self, into: Tensor, rank: int) -> Tensor:
        """What one process sends, in this memory, on the host."""
        with _telling():
            distributed.recv(into, rank, group=self._control)
        return into

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each; in place."""
        with _telling():
            distributed.all_reduce(tensor)
        return tensor

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gives each parameter that has a gradient anywhere the sum of all."""
        has = [int(one.grad is not None) for one in parameters]
        chosen = [one for one, found in zip(parameters, self.totals(*has), strict=True) if found]
        if not chosen:
            return
        given = [torch.zeros_like(one) if one.grad is None else one.grad for one in chosen]
        total = self.add(torch.cat([one.reshape(-1) for one in given]))
        parts = torch.split(total, [one.numel() for one in chosen])
        for parameter, part in zip(chosen, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def add_rows(self, gradient: RowGradient, table: Tensor) -> tuple[Rows, Tensor] | None:
        """The sum over all processes of the gradient of a table's rows; None: there is none.

        Returns:
            The rows, and their gradient, float [R, D] ([R] of a table of numbers).
        """
        rows, values = gradient.of_some(table)
        kinds = self.numbers(gradient.kind, len(rows))
        most = max(kind for kind, _ in kinds)
        if most == NONE:
            return None
        if most == ALL:
            return slice(0, len(table)), self.add(gradient.of_all(table))
        counts = [count for _, count in kinds]
        return added(self.gather(rows, counts), self.gather(values, counts))

    def _gathered(
        self, mine: Tensor, lengths: Sequence[int], *, on_host: bool = False
    ) -> list[Tensor]:
        """Those of every process, shorter ones padded on their way."""
        if not max(lengths):
            return [mine for _ in lengths]
        padded = mine
        if len(mine) < max(lengths):
            padded = mine.new_zeros(max(lengths), *mine.shape[1:])
            padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in lengths]
        with _telling():
            group = self._control if on_host else None
            distributed.all_gather(found, padded.contiguous(), group=group)
        return [one[:length] for one, length in zip(found, lengths, strict=True)]


def refuse_too_many(size: int, device: torch.device) -> None:
    """Each process on CUDA has a device of its own.

    Raises:
        ConfigError: there are fewer.
    """
    if device.type == "cuda" and (there := len(_devices())) < size:
        raise ConfigError(
            f"trainer.processes: each takes a CUDA device of its own, and there are {there}, got "
            f"{size}; give as many at most, or trainer.device=cpu"
        )


def unfit_processes(model: nn.Module, loss: object, *, holds_slopes: bool) -> list[str]:
    """What keeps several processes from training as one would, each with the way out.

    Args:
        model: to be trained.
        loss: of it.
        holds_slopes: whether the slopes of a user in hidden units are held to a length.
    """
    found = []
    if getattr(loss, "gram_items", None) is not None:
        found.append(
            "trainer.processes: must be 1 where a Gram matrix is kept from step to step, which does"
            " not know what others change; set loss.gram_items=null, or trainer.processes=1"
        )
    if any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in model.modules()):
        found.append(
            "trainer.processes: must be 1 with batch_norm, whose means are over the users of one "
            "process; leave batch_norm out, or set trainer.processes=1"
        )
    if any(getattr(one, "sparseness_weight", 0.0) for one in getattr(model, "parts", ())):
        found.append(
            "trainer.processes: must be 1 with sparseness_weight, whose divergence is of the users "
            "of one process; leave sparseness_weight at 0, or set trainer.processes=1"
        )
    if holds_slopes:
        found.append(
            "trainer.processes: must be 1 with unit_slope_norm and slope_norm, which hold a user to"
            " a share of the users of one process; leave them at null, or set trainer.processes=1"
        )
    return found


def _devices() -> list[str]:
    there = visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())
    return there or ["0"] * min(1, torch.cuda.device_count())


@contextmanager
def _telling() -> Iterator[None]:
    """Says in our words that another process is gone.

    Raises:
        ResourceError: it is.
    """
    try:
        yield
    except RuntimeError as error:
        if denies_memory(error):
            raise
        said = str(error).partition("\n")[0]
        why = "" if " by peer" in said else f" ({said})"  # that is how gloo says it
        raise ResourceError(
            f"one of the {distributed.get_world_size()} processes that train this run ended, as "
            f"when it is killed or finds no memory; what it printed, if it could, stands above{why}"
        ) from error
