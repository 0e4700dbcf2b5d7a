"""Lists from which what they are judged on was taken out, as by a filter of all that users had."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

RARE = 0.1  # of the users whom chance gives a hit: no recommender misses so well


def without_targets(
    entries: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]], cutoff: int
) -> Iterator[str]:
    """A warning for each file of lists that hold no item of a history and next to no target.

    Args:
        entries: of report.json, one a system.
        controls: likewise; the first is that of random lists.
        cutoff: at which both were judged.
    """
    chance = controls[0]["facts"][f"expected_hit@{cutoff}"]
    for one in entries:
        if one["kind"] != "recommendations" or one["lists"]["seen_items"]:
            continue
        hit = one["metrics"][f"hit@{cutoff}"]["mean"]
        if one["exposure"][f"coverage@{cutoff}"] and hit <= RARE * chance:
            yield (
                f"{one['name']}: its lists hold no item that their users had before, and hit what "
                f"they are judged on for {hit:.2%} of the users, where random lists do for "
                f"{chance:.2%}. Lists do so that were filtered with all that users ever had, what "
                "they are judged on included (behind -f of deeprec dsstne predict, say): filter "
                "with what they had before alone, or judge a network as a run (deeprec dsstne "
                "import-weights)"
            )
