"""Sizes of a measurement: those that a claim is about, or tiny ones to see that a script runs.

`run.py --quick` asks for tiny sizes by an environment variable, so that the processes that a
script starts have them too.
"""

import os
from typing import TypeVar

VARIABLE = "BENCHMARKS_QUICK"
QUICK = VARIABLE in os.environ
Size = TypeVar("Size")


def sized(whole: Size, *, quick: Size) -> Size:
    return quick if QUICK else whole
