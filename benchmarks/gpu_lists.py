"""Lists of 100 on a GPU: the ranker beside torch.topk on all scores, and the scores alone."""

from functools import partial

from on_device import DEVICE, Report, Runner, in_turns
from sized import sized
from top_k import FORMS, problem

USERS, K, STEPS = sized((512, 100, 10), quick=(8, 20, 1))
CATALOGS = sized(((1_000_000, 64), (27_278, 256)), quick=((400, 8),))


def measure_lists(report: Report) -> None:
    for num_items, width in CATALOGS:
        part = f"top {K} of {num_items:,} items, D = {width}"
        made = problem(num_items, ties=False, users=USERS, width=width, device=DEVICE)
        runners = {name: Runner(partial(form, *made, K)) for name, form in FORMS.items()}
        taken = in_turns(runners, STEPS)
        report.rows_of(part, taken, users=USERS, against="naive")
        report.goal(part, 1.25, taken["ours"].ms / taken["naive"].ms, "lower", "of naive")
