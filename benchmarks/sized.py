"""How much is measured: what a claim is about, or hardly anything, to see that a script runs.

Small sizes are asked for in the environment, by `run.py --quick`, so that the processes that a
script starts have them too.
"""

import os
from typing import TypeVar

VARIABLE = "BENCHMARKS_QUICK"
QUICK = VARIABLE in os.environ
Size = TypeVar("Size")


def sized(whole: Size, *, quick: Size) -> Size:
    return quick if QUICK else whole
