"""What every trained recommender provides, and the seam between it, the losses and the ranker.

A model never makes `[users, catalog]` scores. It says what it thinks of a user before the catalog
is looked at; losses and top-k score the catalog in blocks:

    score[b, j] = repeat[b, j]                                  for items of the user's own history
                  hidden[b] . item_weight[j] + item_bias[j]     for every other item

Repeat scores say what a model knows of an item because this very user had it: how often, how long
ago. They replace the product, which is about taste and would count popularity twice. A model
without them leaves them empty, and the product scores every item. A model of neighbouring items
gives all its scores in this form, those of neighbours too: no other item has one. One that has
a product beside its neighbours gives their sum.

Where every item speaks for every other (EASE), `hidden` holds V scores after the D floats that
stand against the catalog table, whose width may be 0; they are added to the product.

Most models are trained in steps (`Trainable`), others are solved from all histories at once
(`Solvable`); what comes out is a `Recommender` in both cases.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from deeprec.batch import Arranged, Batch, Encoded, Penalty, Task


class PerUser(NamedTuple):
    """What a user takes in a training step, on average."""

    hidden: float  # hidden vectors that a loss scores
    floats: float  # that the layers keep for the backward


class Recommender(Protocol):
    """The recommender contract; `tests/recommender_contract.py` holds every model to it.

    A model that makes more than one hidden vector of a user in a step has a method
    `per_user(lengths)`, which says what that takes of users with so many events. One that learns
    what comes next in the histories it is shown, whatever the target asks for, says
    `learns_next = True`, and one that learns to rebuild them `learns_shown = True`.
    """

    item_weight: nn.Parameter  # float32 [V, D]
    item_bias: nn.Parameter  # float32 [V]

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: dict[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the model says of each user.

        Args:
            items_N: int64 [N], item index of each event, oldest first inside a user.
            offsets_B1: int64 [B + 1], user b owns `items[offsets[b]:offsets[b + 1]]`.
            ages_N: float32 [N], days from each event to the moment of prediction; empty [0] where
                times are unknown.
            attributes: per user attribute, (values int64, offsets int64 [B + 1]).
        """
        ...

    def serving_encoder(self) -> nn.Module:
        """The same `encode` as a module of plain aten operations that TorchScript can script.

        Its forward takes (items_N, offsets_B1, ages_N, attribute_values: List[Tensor],
        attribute_offsets: List[Tensor]), attributes in the order of the model's `fields`, and
        returns `Encoded`.
        """
        ...


@runtime_checkable
class SaidBetweenItems(Protocol):
    """A recommender that holds what each item says of others, and no vectors of them."""

    def said_by(self, item: int) -> tuple[Tensor, Tensor]:
        """What a user is said of who had this item alone.

        Returns:
            int64 or int32 [S], item indices, the item's own perhaps too; float32 [S], what it says
            of each.
        """
        ...


class Trainable(Recommender, Protocol):
    """A recommender that a loss and an optimizer train, step by step.

    One that keeps something besides what is trained may have `begin_step(step)`, which is called
    before each step, also by a process that has no user in it. One that need not begin at random
    may have `begin(users, draw)`, which sees everybody's history before the first step of a run,
    and `begin_bytes(num_users, num_events)`, which says what that takes beside the parameters. One
    whose `tasks` reads nothing of a batch but the sums of embeddings that a `SparseInput` makes of
    its fields, and does the same in every step, may say `reads_bags_alone = True`: its batches are
    filled up to the same shapes (data/padding.py), of which it sees nothing; what else it reads its
    batches must fill up themselves (`filled`, as those of `Autoencoder`). If it does the same from
    some step on, it says which (`alike_from`). If what it says of a user has nothing to do with who
    else is in the batch it may say `users_apart = True` too.
    """

    def arrange(self, batch: Batch, draw: torch.Generator) -> Arranged:
        """What a training step reads of the batch: all whose size depends on data is decided here.

        It is called on the host, by the thread that makes batches while another trains, so it reads
        what the model was built with, and no parameter.

        Args:
            batch: on the CPU; `batch.target` is given.
            draw: for whatever is drawn; depends on seed, epoch and place of the batch alone.
        """
        ...

    def tasks(self, arranged: Any) -> Sequence[Task | Penalty]:
        """What the model is trained on in one step, one task for each that is asked.

        Most models have one task: what they encode, with their catalog table, against the target.
        One whose loss has a part that is not about the catalog, such as the divergence of a code
        from its prior, gives that as a penalty beside it.

        What changes with the progress of a run, such as the weight of a penalty, is a function of
        `arranged.step` alone, so that a resumed run goes on as if it had never stopped.

        Args:
            arranged: what `arrange` gave, on the device of the model, in the step it names.
        """
        ...


class Solvable(Recommender, Protocol):
    """A recommender that is computed from all histories; it knows neither loss nor optimizer."""

    passes: int | None  # over the histories until it is solved; None: the trainer says how many

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Goes over the histories; after each pass the model may be asked and saved.

        Args:
            users: everybody who may be trained on, as they stand at the end of the training part.
            done: passes that another life of the run did, whose parameters are loaded.
            draw: for whatever is drawn.

        Yields:
            What the pass made as small as it could, per user; NaN where it made nothing small.
        """
        ...

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """What solving takes besides parameters and histories."""
        ...
