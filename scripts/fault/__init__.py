"""What scripts/faults breaks, by what it breaks it with. Uses the tests' own tools."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path[:0] = [str(CHECKOUT / "src"), str(CHECKOUT / "tests")]
