"""Which experiment a prepared folder calls for, by its size and by whether items repeat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SPARSE = 100  # training users of an item, on average, below which EASE is ahead of a trained table
FEW_USERS = 2_000  # below which EASE's regularisation, told in users, would have to be searched
SQUARE = 10_000  # items whose [V, V] is no matter: 400 MB
NEAREST = 200_000  # items each of which may still be predicted by its nearest
COUNTED = 10**7  # of a user and an item, from which likeness of items is counted in a minute
EVENTS = 10**6  # of which a sequence encoder learns in minutes
FEW_EVENTS = 3 * 10**5  # of which it learns beside others in a minute
SOON = 5_000  # items between which EASE is solved in seconds
RARELY = 0.2  # of what is judged, had before: below, models of what is new are as good
SHOWN = 8 * 10**6  # to it, all epochs together; a history is worth three more
PAIRS = 10**8  # of a user and an item, all of which a variational autoencoder scores in minutes
BESIDE = "; other models are trained too, for a blend is usually better than any one of them"
LARGE_CATALOG = 500_000  # items from which the Gram matrix of a linear model is kept, not made anew


@dataclass(frozen=True)
class Shape:
    """What of a prepared folder the choice depends on."""

    num_users: int  # trained on
    num_items: int
    num_pairs: int  # of a user and an item that it had in training
    repeats: bool  # whether an item may be recommended again
    training_days: float | None  # None: no times
    judged_days: float | None  # of the validation part; None: not cut off by time
    judges_next: bool = False  # every user's newest events are judged, those before its history
    had_before: float | None = None  # share of what is validated; None: nothing is, or unknown

    @property
    def mostly_new(self) -> bool:
        """Whether items may be taken again, and seldom are in what is judged."""
        return self.repeats and self.had_before is not None and self.had_before < RARELY

    @property
    def in_order(self) -> bool:
        """Whether what is judged comes after what is known."""
        return self.judges_next or self.judged_days is not None


class Choice(NamedTuple):
    """Words of `deeprec train`, why these, and those of further models to blend with it."""

    words: Sequence[str]
    why: str
    beside: Sequence[Sequence[str]] = ()


class Auto:
    """Chooses model, width, loss and schedule from the data; `experiment=auto`.

    Where items are taken again, the model must know how often and how long ago: the autoencoder
    with repeat scores, of few users in small batches. It is trained as it is judged: on what comes
    after a cut as long as the part it is validated on, on the next event, or on a part of a
    history. It is blended with what was had most, with item-to-item, with EASE in small catalogs,
    with a sequence encoder of few events where order is judged, and where little of what is judged
    was had before with the models of what is new.
    Elsewhere likeness to the history counts. Where items have few users each, regressions between
    items (EASE, up to some ten thousand items, then its sparse form) say more of it than a table
    that is trained; with many, the linear autoencoder does, its width and number of epochs by
    catalog and users. In catalogs of up to some 200,000 items both are trained, and implicit ALS,
    where users and items are few also a variational autoencoder, and blended by weights that are
    chosen on validation. Where a time divides what is judged from what is known, popularity of the
    newest days is among them, for catalogs whose items come and go, and item-to-item by what a user
    had last, for series; there, and where each user's newest events are judged, a sequence encoder
    is, up to a million events.
    docs/models.md has the figures that this rests on.

    Args:
        told: what a person said, such as `trainer.max_epochs=3`: it holds whatever is chosen, also
            where it is what the defaults say.
        width: of each chosen model that has one; None: as chosen. Where memory does not suffice.
        warm_start: of a chosen linear model; None: as it comes. Likewise.

    Example:
        >>> small = Shape(900, 500, 20_000, False, None, None)
        >>> Auto().choose(small).words
        ['experiment=linear', 'model.width=256', 'trainer.batch_users=75', 'trainer.max_epochs=6']
    """

    told: Sequence[str] = ()

    def __init__(
        self,
        *,
        told: Sequence[str] = (),
        width: int | None = None,
        warm_start: bool | None = None,
    ) -> None:
        if width is not None and width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        self.told = tuple(told)
        given = {"width": width, "warm_start": warm_start}
        self.settings = {name: value for name, value in given.items() if value is not None}

    def choose(self, shape: Shape) -> Choice:
        """The words for data of this shape."""
        return self._again(shape) if shape.repeats else self._new(shape)

    def _again(self, shape: Shape) -> Choice:
        words, how = _as_judged(shape)
        why = "items may be taken again"
        if shape.had_before is not None:
            why += f", as {shape.had_before:.0%} of what is validated was"
            how += ", as in validation"
        why += f"; {how}"
        if shape.num_items > NEAREST or shape.num_pairs > COUNTED:
            return Choice(words, why)
        if shape.num_users < FEW_USERS:
            batch = max(16, shape.num_users // 10)
            words = [*words, f"trainer.batch_users={batch}"]
            why += f"; batches of {batch} users, because {shape.num_users:,} are few"
        return Choice(words, why + BESIDE, self._beside_again(shape))

    def _beside_again(self, shape: Shape) -> list[Sequence[str]]:
        found: list[Sequence[str]] = [["model=own_frequency"], ["model=item_to_item"]]
        if shape.mostly_new:
            new = self._new(shape)
            return [*found, new.words, *new.beside]
        if shape.num_items <= SOON:
            found.append(_regression(shape))
        if shape.in_order and shape.num_pairs <= FEW_EVENTS:
            found.append(self._sequence(shape))
        return found

    def _new(self, shape: Shape) -> Choice:
        linear = self._linear(shape)
        if shape.num_items > NEAREST:
            return linear
        regression = _regression(shape)
        others = [["experiment=ials"]]
        if shape.judged_days is not None:
            recent = f"{max(1.0, shape.judged_days / 2.0):.3g}"
            fading = ["model.history_weighting=decayed", f"model.fade_days={recent}"]
            others.append(["model=popularity", f"model.recent_days={recent}"])
            others.append(["model=item_to_item", *fading])
        if shape.num_pairs <= EVENTS and shape.in_order:
            others.append(self._sequence(shape))
        if shape.num_users * shape.num_items <= PAIRS:
            others.append(["model=variational", "loss=softmax"])
        users_an_item = shape.num_pairs / max(shape.num_items, 1)
        if users_an_item < SPARSE and shape.num_users >= FEW_USERS:
            return Choice(
                regression,
                f"items are not taken again and have only {users_an_item:.3g} users each, where a "
                f"regression that is solved at once does best{BESIDE}",
                [linear.words, *others],
            )
        return Choice(linear.words, f"{linear.why}{BESIDE}", [regression, *others])

    def _sequence(self, shape: Shape) -> list[str]:
        """In many steps where users are few, and in few epochs where events are many.

        On MovieLens-100k, the last event of 943 users left out, validation ndcg@100 is .150 after 8
        epochs of batches of 128, .185 of 32, and .193 after 12 of these; under a time it may be
        past its best after one.
        """
        epochs = SHOWN // (shape.num_pairs + 3 * shape.num_users)
        return [
            "experiment=sequence",
            f"trainer.max_epochs={max(4, min(12, epochs))}",
            f"trainer.batch_users={max(32, min(256, shape.num_users // 120))}",
            "trainer.early_stopping_patience=3",
        ]

    def _linear(self, shape: Shape) -> Choice:
        # a step costs what the catalog costs; on purchases of books 12 an epoch do as well as 140
        batch = max(32, min(8192, shape.num_users // 12))
        epochs = 6  # from singular vectors; on purchases of books, more are still a little better
        width = 256  # on MovieLens-1M, validation ndcg@100 is .317 with it, .311 with twice as much
        words = ["experiment=linear"]
        if shape.num_items > LARGE_CATALOG:
            width, epochs = 64, 4
            words.append("loss.gram_items=4096")
        words += [
            f"model.width={width}",
            f"trainer.batch_users={batch}",
            f"trainer.max_epochs={epochs}",
        ]
        return Choice(
            words,
            f"items are not taken again, so they are ranked by likeness to the history; a row of "
            f"{width} floats for each of {shape.num_items:,} items, {epochs} epochs in batches of "
            f"{batch} of {shape.num_users:,} users",
        )


def _as_judged(shape: Shape) -> tuple[list[str], str]:
    """How the autoencoder learns what is taken again, and that in words."""
    if shape.judged_days is not None and shape.training_days is not None:
        days = min(shape.judged_days, shape.training_days / 4.0)
        cuts = [f"target.window_days={days:.6g}", f"target.cut_days={1.15 * days:.6g}"]
        return ["experiment=complete_journey", *cuts], f"the target is the next {days:.3g} days"
    if shape.judges_next:
        cuts = ["target.window_events=1", "target.cut_days=null"]
        return ["experiment=complete_journey", *cuts], "the target is the next event"
    return ["experiment=taken_again"], "the target is a part of each history"


def _regression(shape: Shape) -> list[str]:
    return ["model=ease" if shape.num_items <= SQUARE else "model=sparse_ease"]
