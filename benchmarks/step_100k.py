"""Claim: with the sampled softmax a step hardly grows with the catalog; a dense step does.

As step.py, with 100,000 items.

    python benchmarks/run.py --recbole PYTHON step_100k
"""

from page import Measured, show
from sized import sized
from step import OWN, OWN_NARROW, SAMPLED, SAMPLED_NARROW, measured

ITEMS = sized(100_000, quick=700)


def measure() -> Measured:
    sampled = SAMPLED, SAMPLED_NARROW, OWN, OWN_NARROW
    found = measured(ITEMS, dict.fromkeys(sampled, 25.0), curve=False)
    claim = "With the sampled softmax a step hardly grows with the catalog; a dense step does."
    return {**found, "claim": claim}


if __name__ == "__main__":
    show(measure())
