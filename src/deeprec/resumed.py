"""What a command may say of a run that it goes on with: the run has its settings already."""

from collections.abc import Mapping, Sequence
from typing import Any

from deeprec.override import key_of

# They decide who makes the batches and when the run is saved, and no bit of what it learns. What is
# not here may: threads change the order of sums, and with it their last bits. A CUDA graph does so
# too, where the bits are not promised anyway; who cannot go on with one must be able to without.
FREE = (
    *("trainer.prefetch_batches", "trainer.prefetch_processes", "trainer.cuda_graph"),
    *("trainer.save_every_epochs", "trainer.save_every_minutes", "trainer.save_in_background"),
    *("trainer.save_timeout_minutes", "trainer.on_disk_full"),
)
LONGER = {  # what somebody wants who says these beside `resume`
    "trainer.max_epochs": ", or train longer as a new run, with an output_dir of its own",
    "prepared": ", or train its model anew on other data with deeprec refit run=... prepared=...",
}
PROCESSES = "trainer.processes"  # whose number decides which users share a step


def goes_on(resume: str | None) -> bool:
    """Whether `resume` names a run, which has its settings, and is not to be told all of them.

    Example:
        >>> goes_on("runs/a"), goes_on("must"), goes_on("NULL"), goes_on("")
        (True, False, False, False)
    """
    return bool(resume) and resume not in ("auto", "must") and str(resume).lower() != "null"


def mistakes(overrides: Sequence[str], *, multirun: bool) -> list[str]:
    """What would be silently ignored beside `resume=RUN` or `replay=RUN.replay`.

    Args:
        overrides: of `deeprec train`.
        multirun: whether there is a run for each value; then no setting is free.
    """
    given = {key_of(one): one.partition("=")[2].strip("'\"") for one in overrides}
    alone = next((key for key in ("replay", "resume") if goes_on(given.get(key))), None)
    if alone is None:
        return []
    free = FREE if alone == "resume" and not multirun else ()
    why = {
        "resume": "a resumed run goes on under the config it has",
        "replay": "a replay takes the step again under the config that is kept with it",
    }[alone]
    return [
        f"{key}: {why}{', by as many as began it' if key == PROCESSES else ''}; leave {key} out"
        + (LONGER.get(key, "") if alone == "resume" else "")
        for key in given
        if key != alone and key not in free and not key.startswith("hydra")
    ]


def told(trainer: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The part `trainer` without its defaults: a run that is gone on with has its own.

    Example:
        >>> told({"_target_": "a.B", "threads": None, "max_epochs": 3}, ["++trainer.max_epochs=3"])
        {'_target_': 'a.B', 'max_epochs': 3}
    """
    given = {key_of(one) for one in overrides}
    return {
        name: value
        for name, value in trainer.items()
        if name == "_target_" or f"trainer.{name}" in given
    }


def freed(kept: Mapping[str, Any], asked: object) -> tuple[dict[str, Any], list[str]]:
    """The part `trainer` of a run with what is asked for of the free settings, and what differs.

    Args:
        kept: as the run has it.
        asked: as the command says it; missing where a program names nothing but the run.

    Example:
        >>> kept = {"prefetch_processes": 4, "max_epochs": 3}
        >>> freed(kept, {"prefetch_processes": 0, "max_epochs": 9})
        ({'prefetch_processes': 0, 'max_epochs': 3}, ['trainer.prefetch_processes=0, begun with 4'])
    """
    names = [path.partition(".")[2] for path in FREE]
    changed = {
        name: asked[name]
        for name in names
        if isinstance(asked, Mapping) and name in asked and asked[name] != kept.get(name)
    }
    lines = [
        f"trainer.{name}={_said(value)}, begun with {_said(kept.get(name))}"
        for name, value in changed.items()
    ]
    return {**kept, **changed}, lines


def _said(value: object) -> object:
    """As a config says it."""
    return "null" if value is None else value
