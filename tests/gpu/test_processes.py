"""Two processes, each with a device of its own, end where one does that takes the users of both."""

from pathlib import Path

import pytest
import torch

import small_shop
from deeprec.train import train
from deeprec.trainer.run import open_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
WORDS = "trainer.device=cuda model.input_dropout=0 model.reconstruction=0"


@pytest.mark.parametrize(
    "words",
    [
        *("", "optimizer=rowwise_adagrad", "model.tied=true", "trainer.shard_catalog=TWO"),
        "optimizer=rowwise_adagrad trainer.shard_catalog=TWO trainer.shard_inputs=TWO",
    ],
)
def test_two_devices_end_where_one_does(tmp_path: Path, words: str) -> None:
    prepared = small_shop.make(tmp_path / "prepared")
    ends = []
    for processes in (1, 2):
        more = [f"trainer.processes={processes}", f"trainer.batch_users={16 // processes}"]
        more += words.replace("TWO", str(processes == 2).lower()).split()
        run = tmp_path / f"run-{processes}"
        train(small_shop.settings(prepared, run, *WORDS.split(), *more))
        ends.append(open_run(run, "last").model.state_dict())  # type: ignore[attr-defined]
    for name, one in ends[0].items():
        torch.testing.assert_close(ends[1][name], one, atol=1e-4, rtol=1e-3, msg=name)
