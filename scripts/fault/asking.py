"""What a model is asked, sound and broken."""

import torch

from fault.ground import Count, Ground
from model import test_served


def requests(ground: Ground) -> Count:
    """A request to model.pt, every other one broken: answered as by a loop, or refused by rule."""
    count, served = Count(), test_served.scripted()
    for number in ground.times(100_000):
        asked = test_served.draw_request(ground.draw)
        given, rule = test_served.arguments(asked), ""
        try:
            rule = test_served.broken(ground.draw, given) if number % 2 else ""
            test_served.check(asked, served(*given))
            count.take(silent=bool(rule), why=f"answered, though it breaks {rule}")
        except AssertionError as error:
            count.take(silent=True, why=str(error))
        except torch.jit.Error as error:
            named = bool(rule) and rule in str(error).strip().splitlines()[-1]
            count.take(silent=not named, why=str(error))
    return count
