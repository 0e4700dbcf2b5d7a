"""The run folders of a sweep: where they are, whose weights are kept, which one is the best.

trials/0007/     a run folder like any other
trials/0007.log  what it printed
best             a link to the run folder of the best trial
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from deeprec.folder import clear_drafts, is_locked
from deeprec.search.trial import Trial, best, name_of, ranked
from deeprec.trainer.run import RunFolder


class Shelf:
    """Keeps the checkpoints of the best trial of each space, or of all.

    Args:
        folder: of the sweep.
        keep: whose checkpoints.
        family: the space that values are of.
    """

    def __init__(
        self,
        folder: Path,
        keep: Literal["best", "all"],
        family: Callable[[Mapping[str, Any]], str],
    ) -> None:
        self.folder, self.keep, self.family = folder, keep, family
        (folder / "trials").mkdir(exist_ok=True)

    def run(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / "trials" / name_of(number)

    def log(self, number: int) -> Path:
        """What a trial printed."""
        return self.run(number).with_suffix(".log")

    def tidy(self, trials: Sequence[Trial]) -> None:
        """Lets `best` lead to the best of these, and drops the weights of the others.

        What is being written still, by a trial of a sweep that was killed, is let be.
        """
        top = best(trials)
        if top is not None:
            self._link(top)
        kept = self.best_of_each(trials)
        for one in trials if self.keep == "best" else []:
            run = RunFolder(self.run(one.number))
            if one not in kept and any(run.checkpoints.glob("*")) and not is_locked(run.path):
                run.drop_checkpoints("a sweep keeps the checkpoints of its best trial alone")

    def best_of_each(self, trials: Sequence[Trial]) -> list[Trial]:
        """The best trial of each space, the best first."""
        found: dict[str, Trial] = {}
        for one in ranked(trials):
            if one.score is not None:
                found.setdefault(self.family(one.values), one)
        return list(found.values())

    def _link(self, top: Trial) -> None:
        link, target = self.folder / "best", Path("trials", name_of(top.number))
        if link.is_symlink() and link.readlink() == target:
            return
        clear_drafts(self.folder, ["best"])
        draft = self.folder / f".best.tmp-{os.getpid()}"
        draft.symlink_to(target, target_is_directory=True)
        draft.replace(link)
