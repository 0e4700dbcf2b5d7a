"""What a loss must know of a model to say, before the first step, whether it can train it."""

from dataclasses import dataclass

from deeprec.loss.adjustment import Adjustment


@dataclass(frozen=True)
class Trained:
    """A model as its loss sees it.

    A loss with a method `unfit(trained) -> list[str]` names there what keeps it from training such
    a model, each with the way out.
    """

    num_items: int
    linear: bool  # a history is the sum of its rows of the catalog table
    unit_rows: bool  # the rows of the catalog table are kept at length 1
    changed_by_input: bool  # also rows of the catalog table that are asked of nobody in the batch
    num_tasks: int  # of a step
    weighted: bool  # whether targets are weighed by what items they are
    valued: bool = False  # whether they weigh as the values of their events
    weighted_users: bool = False  # whether users are
    clipped_slopes: bool = False  # whether a user's slopes over the catalog have a longest length
    learns_next: bool = False  # whether it is asked at positions of a history


def advice(loss: object, trained: Trained) -> str | None:
    """What loss such a model learns far more from, where that was measured; None: nothing is known.

    On MovieLens 1M validation ndcg@100 was .317 in place of .265 of a linear model, and .300 in
    place of .202 of two towers.
    """
    if trained.linear and getattr(loss, "log_odds", True):
        return "a linear model learns more from loss=cosine, which loss=auto chooses"
    adjustment: Adjustment | None = getattr(loss, "adjustment", None)
    if trained.unit_rows and adjustment is not None and adjustment.temperature == 1.0:
        return (
            "scores are cosines, which a softmax hardly tells apart; use loss.temperature=0.15, as "
            "loss=auto does, or loss=cosine_contrastive"
        )
    return None


def unfit_draws(gram_items: int | None, trained: Trained) -> list[str]:
    """What keeps a Gram matrix from being kept between steps; None: it is not."""
    if gram_items is None:
        return []
    found = []
    if gram_items > trained.num_items:
        found.append(
            f"loss.gram_items: must be at most the {trained.num_items:,} items of the catalog, got "
            f"{gram_items}; set loss.gram_items=null, which is exact"
        )
    if trained.changed_by_input:
        found.append(
            "loss.gram_items: cannot keep a Gram matrix where the input changes rows that are "
            "no target, as model.tied=true does here; set loss.gram_items=null or model.tied=false"
        )
    if trained.num_tasks > 1:
        found.append(
            f"loss.gram_items: needs a model with one task, got {trained.num_tasks}; set "
            "loss.gram_items=null or model.reconstruction=0"
        )
    return found


def unfit_pool(pool: int | None, trained: Trained) -> list[str]:
    """What keeps so many items from being drawn to find the hardest; None: there is no pool."""
    if pool is None or pool <= trained.num_items:
        return []
    return [
        f"loss.pool: must be at most the {trained.num_items:,} items of the catalog, got {pool}; "
        "draw fewer, or set loss.pool=null"
    ]


def unfit_left_out(loss: object, trained: Trained) -> list[str]:
    """What keeps items from being left out by a score lower than any, as a second task does.

    As log odds, such a score costs an item that is no target nothing. A loss that reads scores
    otherwise, which says `log_odds = False`, says `leaves_out = True` where that holds of it too.
    """
    if trained.num_tasks == 1 or getattr(loss, "leaves_out", getattr(loss, "log_odds", True)):
        return []
    return [
        f"model.reconstruction: must be 0 with {type(loss).__name__}, to which the score that "
        "leaves an item out of that task is a miss like any other; set it to 0, or use "
        "loss=softmax or loss=marginal"
    ]


def unfit_weights(loss: object, trained: Trained) -> list[str]:
    """What keeps targets from being weighed; a loss that cannot says `weighs_targets = False`."""
    found = []
    values = bool(getattr(loss, "values", False))  # which such a loss reads as what targets are
    valued = trained.valued and not values and not trained.learns_next and not trained.linear
    for key, told, way in (
        ("weighting", trained.weighted, "leave it out"),
        ("target.weigh", valued, "set it to false"),
    ):
        if told and trained.linear:
            says = "the target of a linear model is its history as it is"
            found.append(f"{key}: {says}; {way}")
        elif told and not getattr(loss, "weighs_targets", True):
            name = type(loss).__name__
            found.append(
                f"{key}: {name} does not multiply costs of targets; use loss=softmax, or {way}"
            )
    return found


def unfit_engine(loss: object, trained: Trained) -> list[str]:
    """What keeps users from being weighed and slopes from being limited.

    A loss that goes over the whole catalog by the engine, which does both, says `on_engine = True`,
    and another that multiplies the costs of users `weighs_users = True`.
    """
    found, name = [], type(loss).__name__
    on_engine = getattr(loss, "on_engine", False)
    if trained.weighted_users and trained.learns_next:
        found.append(
            "user_weights: a model that learns what comes next is asked at positions, which have "
            "no weights; use another model, or user_weights=false"
        )
    elif trained.weighted_users and not (on_engine or getattr(loss, "weighs_users", False)):
        found.append(
            f"user_weights: {name} does not multiply the costs of users; use loss=softmax or "
            "loss=marginal, or user_weights=false and item_attribute_weight=1"
        )
    if trained.clipped_slopes and not on_engine:
        found.append(
            f"optimizer.constraints.score_slope_norm: must be null with {name}, which does not make"
            " the slopes of a user over the whole catalog; or use loss=softmax or loss=marginal"
        )
    return found
