"""A process that knows torch and not deeprec, to answer with what models were exported to."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ANSWERS = """
import sys, traceback, warnings
for name in ("deeprec", "torchrec", "fbgemm_gpu"):
    sys.modules[name] = None
warnings.simplefilter("ignore")
import torch
for line in sys.stdin:
    try:
        module, case = line.rstrip("\\n").split("\\t")
        request, hidden = torch.load(case, weights_only=True)
        answer = torch.jit.load(module)(*request)
        torch.testing.assert_close(answer.hidden_BD, hidden, atol=1e-6, rtol=0)
        print("the same", flush=True)
    except Exception:
        print(repr(traceback.format_exc()), flush=True)
"""


@pytest.fixture(scope="session")
def torch_alone() -> Iterator[Callable[[Path, Path], str]]:
    """Says what such a process finds of a scripted encoder and a case (request, hidden)."""
    command = [sys.executable, "-c", ANSWERS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        asks, answers = process.stdin, process.stdout
        assert asks is not None
        assert answers is not None

        def ask(module: Path, case: Path) -> str:
            print(module, case, sep="\t", file=asks, flush=True)
            return answers.readline().strip()

        yield ask
        asks.close()  # it ends where its input does
