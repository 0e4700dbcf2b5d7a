"""What each verb may be told: one dataclass a verb, and what must hold between its fields.

A config has two kinds of keys. A *part* (`model`, `loss`, ...) is a group under configs/: its keys
are the arguments of its `_target_`. Every other key is a plain field of the verb's dataclass below;
the comment beside a field is what `deeprec <verb> --help` says of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from omegaconf import MISSING

from deeprec import override, part
from deeprec.schema import OptionalPart, Part

Device = Literal["auto", "cpu", "cuda"]  # auto: CUDA where its driver answers
TrainOn = Literal["train", "validation", "everything"]  # the last part that is trained on


@dataclass
class PrepareConfig:
    """Check and split events: event log -> prepared folder."""

    data: Part = MISSING
    split: Part = MISSING
    output_dir: str = MISSING  # the prepared folder, new or empty; a finished one is replaced
    seed: int = 0  # of the random draws of the split and of data.filters.max_history
    train_on: TrainOn = "train"  # validation: on that part too; everything: on the holdout too

    def mistakes(self) -> Iterator[str]:
        yield from _seed(self.seed)


@dataclass
class TrainConfig:
    """Train one model: prepared folder -> run folder."""

    prepared: str | None = None  # the prepared folder; not needed with resume
    output_dir: str | None = None  # the run folder, new or empty; not needed with resume
    start_from: str | None = None  # a run whose weights this one begins with, by item id
    resume: str | None = None  # a run to resume; auto: that in output_dir, if any; must: that one
    replay: str | None = None  # RUN.replay: repeat the step at which a loss was not finite
    seed: int = 1  # of initial weights, order of users, dropout and cuts
    model: Part = MISSING
    loss: OptionalPart = MISSING
    optimizer: OptionalPart = MISSING
    rate: OptionalPart = None
    brake: OptionalPart = None
    target: OptionalPart = MISSING
    weighting: OptionalPart = None
    compatibility: Literal["none", "dsstne"] = "none"  # dsstne: DSSTNE's conventions
    user_weights: bool = True  # weigh users in the loss as the prepared folder says
    item_attributes: list[str] = field(default_factory=list)  # items that share a value are alike
    item_attribute_weight: float = 1.0  # weight of each such value; a user's is 1
    trainer: Part = MISSING
    logger: Part = MISSING

    def mistakes(self) -> Iterator[str]:
        if self.replay is None and self.resume in (None, "auto", "must"):
            for name in ("prepared", "output_dir"):
                if not getattr(self, name):
                    yield f"{name}: missing; give {name}=FOLDER, or resume=RUN to go on with a run"
        for name in ("start_from", "resume", "replay"):
            if getattr(self, name) == "":
                yield f"{name}: names nothing; give {name}=FOLDER, or leave {name} out"
        yield from _seed(self.seed)
        if not 0.0 < self.item_attribute_weight <= 1e6:
            told = self.item_attribute_weight
            yield f"item_attribute_weight: must be above 0, and 1,000,000 at most, got {told}"
        elif self.item_attribute_weight != 1.0 and not self.item_attributes:
            yield (
                f"item_attribute_weight: is of item_attributes, and there are none, got "
                f"{self.item_attribute_weight:g}; give item_attributes=[...], or leave it out"
            )
        if not is_solved(self.model):
            for name in ("loss", "optimizer", "target"):
                if getattr(self, name) is None:
                    yield f"{name}: missing; choose it with {name}=CHOICE"
            return
        for name, what in (
            ("weighting", "targets to weigh"),
            ("rate", "learning rate"),
            ("brake", "steps"),
            ("start_from", "weights to begin with"),
        ):
            if getattr(self, name) is not None:
                yield f"{name}: a model that is solved has no {what}; leave {name} out"


@dataclass
class BlendConfig:
    """Combine models: several runs of one prepared folder -> one run."""

    runs: list[str] = MISSING  # run folders; not changed, and not needed afterwards
    output_dir: str = MISSING  # the run folder of the blend, new or empty
    weights: list[float] | None = None  # of each run; null: the best on validation
    cutoff: int | None = None  # weights are chosen by ndcg@cutoff; null: the cutoff of the runs
    validation_users: int = 10000  # users on whom weights are chosen; never of the holdout
    seed: int = 1  # of the run that is written

    def mistakes(self) -> Iterator[str]:
        if len(self.runs) < 2:
            yield f"runs: expected two or more, got {self.runs}"
        if self.weights is not None:
            yield from _weights(self.weights, len(self.runs))
            if self.cutoff is not None:
                yield "cutoff: it is what weights are chosen by, and they are given; leave one out"
        given = [] if self.cutoff is None else ["cutoff"]
        yield from _at_least(1, self, *given, "validation_users")
        yield from _seed(self.seed)


@dataclass
class RefitConfig:
    """Train again with a run's settings: run + another prepared folder -> run folder."""

    run: str = MISSING  # the run whose settings, epochs and blend weights are taken
    prepared: str = MISSING  # a folder with train_on=everything, or of newer events
    output_dir: str = MISSING  # the new run folder
    seed: int | None = None  # null: the seed of the run, and of each member of a blend
    keep_weights: bool = False  # begin with the weights of the run, by item id, not with new ones
    epochs: int | None = None  # null: as many as were best for the run

    def mistakes(self) -> Iterator[str]:
        given = [] if self.epochs is None else ["epochs"]
        yield from _at_least(1, self, *given)
        if self.seed is not None:
            yield from _seed(self.seed)


@dataclass
class EvaluateConfig:
    """Judge systems: runs, bundles or recommendation lists + holdout -> report."""

    run: str | None = None  # a run folder to judge, or a folder of runs
    bundle: str | None = None  # a bundle to judge
    recommendations: str | None = None  # lists to judge: Parquet, or DSSTNE's text
    compare: list[str] = field(default_factory=list)  # several of these, or folders with a report
    force: bool = False  # compare reports even if they were judged under different rules
    prepared: str | None = None  # the folder to judge on; default: the run's own
    output_dir: str | None = None  # where the report goes; default: the run folder
    part: Literal["holdout", "validation"] = "holdout"  # what is judged on
    exclude_seen: bool | None = None  # leave seen items out; default: unless repeats are allowed
    cutoffs: list[int] = field(default_factory=lambda: [10, 20, 50, 100])  # the k of recall@k, ...
    baselines: list[Literal["popularity", "item_to_item", "own_frequency"]] = field(
        default_factory=lambda: ["popularity", "item_to_item", "own_frequency"]
    )  # systems judged beside the others
    slices: list[str] = field(
        default_factory=lambda: ["history", "users", "popularity", "time"]
    )  # groups with figures of their own; also user.ATTRIBUTE and item.ATTRIBUTE
    diversity: list[str] | None = None  # by item attributes; default: those of 2 to 1,000 values
    examples: int = 20  # users shown with what they took and were recommended; no ids
    users_up_close: list[str | int] = field(default_factory=list)  # ids of users, shown before them
    sampled_negatives: int | None = None  # adds sampled_ndcg@k, ... as in old papers, with so many
    max_users: int | None = None  # judge so many users, drawn by the seed; default: all
    batch_users: int = 256  # users ranked at once
    processes: int = 1  # processes that share the ranking; the figures are the same
    device: Device = "auto"  # where models rank; auto: CUDA if its driver answers
    bootstrap_samples: int = 1000  # bootstrap draws for each 95 % interval
    seed: int = 0  # of the bootstrap, and of the draw of max_users

    def mistakes(self) -> Iterator[str]:
        if not (self.run or self.bundle or self.recommendations or self.compare or self.baselines):
            yield (
                "run: nothing to judge; give run=, bundle=, recommendations=, compare= or "
                "baselines="
            )
        if not (self.run or self.compare or self.prepared):
            yield "prepared: missing; give prepared=FOLDER, or run=RUN, which knows its own"
        if not (self.run or self.output_dir):
            yield "output_dir: missing; give output_dir=FOLDER, or run=RUN, which knows its own"
        optional = ("max_users", "sampled_negatives")
        given = [name for name in optional if getattr(self, name) is not None]
        yield from _at_least(1, self, "batch_users", "bootstrap_samples", "processes", *given)
        yield from _at_least(0, self, "examples")
        yield from _seed(self.seed)
        cutoffs = self.cutoffs
        if not cutoffs or min(cutoffs) < 1 or len(set(cutoffs)) < len(cutoffs):
            yield f"cutoffs: expected different numbers from 1 on, got {cutoffs}"


@dataclass
class ExportConfig:
    """Package a model for serving: run -> bundle."""

    run: str = MISSING  # a run folder
    output_dir: str = MISSING  # the bundle, new or empty; a finished one is replaced
    golden_users: int = 50  # users whose requests and answers are kept in the bundle
    compare_users: int = 1000  # users whose exported lists must equal the evaluated ones
    precision: Literal["float32", "bfloat16", "int8"] = "float32"  # of the catalog table
    scan: bool = False  # rank few users by int8 codes first; int8 implies it
    max_loss: float = 0.01  # share of validation ndcg@100 that precision may cost, or refuse
    license: str | None = None  # a text file that goes into the bundle as LICENSE
    notice: str | None = None  # another, as NOTICE
    triton: bool = False  # also a model folder for Triton, with a copy of the model
    onnx: bool = False  # also model.onnx, or refuse; needs the extra `onnx` and under 2 GB
    ids: bool = False  # also ids.pt: item ids to indices and back, without Parquet
    program: bool | None = None  # also model.pt2 (torch.export); default: if below 1 GiB

    def mistakes(self) -> Iterator[str]:
        yield from _at_least(1, self, "golden_users", "compare_users")
        if not 0.0 <= self.max_loss <= 1.0:
            yield f"max_loss: must lie in [0, 1], got {self.max_loss}"
        for name in ("license", "notice"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                yield f"{name}: expected a text file, and there is none at {path!r}"


@dataclass
class RecommendConfig:
    """Make lists for many users: bundle + histories -> recommendation lists."""

    bundle: str = MISSING  # a bundle, or a folder of versions, whose current one answers
    histories: str = MISSING  # events: Parquet, CSV, glob; or a prepared folder: its holdout users
    output: str = MISSING  # Parquet: user_id, item_ids, scores; best first
    k: int = 10  # recommendations for each user, at most 10,000
    exclude_seen: bool | None = None  # leave seen items out; default: as policy.json says
    allowed: str | None = None  # a file of item ids, one column: only these are recommended
    denied: str | None = None  # a file of item ids, one column: these are never recommended
    users: str | None = None  # a file of user ids, one column: only these are answered
    user: str = "user_id"  # column of an event file that holds the user id
    item: str = "item_id"  # column that holds the item id
    time: str | None = None  # column that holds the time; default: `time`, if there is one
    time_format: str | None = None  # strptime format of times that are not ISO
    delimiter: str | None = None  # between columns of text; default: by the name of the file
    now: str | None = None  # moment of prediction; default: the latest time of the histories
    batch_users: int = 256  # users answered at once
    processes: int = 1  # processes that share the work, each with the bundle in memory
    device: Device = "auto"  # where the model answers; auto: on CUDA where its driver answers

    def mistakes(self) -> Iterator[str]:
        yield from _at_least(1, self, "k", "batch_users", "processes")
        for key, kind in (("allowed", "item"), ("denied", "item"), ("users", "user")):
            path = getattr(self, key)
            if path is not None and not Path(path).is_file():
                yield f"{key}: expected a file of {kind} ids, and there is none at {path!r}"


@dataclass
class ServeConfig:
    """Answer over HTTP, with a page to try it on: bundle -> server."""

    bundle: str = MISSING  # a bundle, or a folder of versions, whose current one is served
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all of this machine, unencrypted
    port: int = 8080  # port to listen on; 0: any free one
    name: str | None = None  # in /v2/models/NAME; default: the name of the folder
    device: Device = "auto"  # where the model answers; auto: on CUDA where its driver answers
    page: bool = True  # serve a page at /, which searches the catalog
    batch_users: int = 64  # users ranked at once, at most; requests do not wait to fill it
    max_waiting: int = 256  # users that may wait for the model; more get status 429
    max_bytes: int = 1_048_576  # size of one request
    max_events: int = 10_000  # events of one history, and denied items of one user
    max_users: int = 128  # users in one request
    max_k: int = 1_000  # recommendations for a user
    reload_seconds: float = 5.0  # between looks for a new current version; 0: never
    shutdown_seconds: float = 10.0  # for which requests are still answered at shutdown

    def mistakes(self) -> Iterator[str]:
        names = ("batch_users", "max_waiting", "max_bytes", "max_events", "max_users", "max_k")
        yield from _at_least(1, self, *names)
        yield from _at_least(0, self, "reload_seconds", "shutdown_seconds")
        if not 0 <= self.port < 65_536:
            yield f"port: expected a number from 0 to 65535, got {self.port}"
        if self.max_users > self.max_waiting:
            most = f"max_waiting={self.max_waiting}"
            yield f"max_users: expected at most {most}, got {self.max_users}"


@dataclass
class NeighboursConfig:
    """List the nearest neighbours of items or users: run -> text."""

    run: str = MISSING  # a run folder
    output: str = MISSING  # text; a line: id, tab, id:score of each neighbour, nearest first
    of: Literal["items", "users"] = "items"  # users: as the model sees them before the holdout
    k: int = 100  # neighbours per line, without the item or user itself
    similarity: Literal["product", "cosine"] = "product"  # of two vectors, if the model has them
    score_precision: int = 3  # digits after the decimal point
    keys_only: bool = False  # leave the scores out
    vectors: str | None = None  # text to write the vectors to: id, tab, numbers
    batch: int = 256  # items or users at once

    def mistakes(self) -> Iterator[str]:
        yield from _at_least(1, self, "k", "batch")
        yield from _at_least(0, self, "score_precision")


@dataclass
class SweepConfig:
    """Search models and settings on validation: prepared folder -> the best of many runs."""

    prepared: str = MISSING  # the prepared folder; its holdout is not read
    output_dir: str | None = None  # new, or a sweep to continue; default: sweeps/PREPARED-SPACE
    sweep: Part = MISSING
    minutes: float | None = None  # time budget, all calls together; runs stop at its end
    trials: int | None = None  # number of runs, all calls together
    workers: int = 1  # runs at once, each a process; they share threads or CUDA devices
    prune: bool = True  # stop runs whose validation is below the others' median
    keep: Literal["best", "all"] = "best"  # whose checkpoints stay; configs and metrics always do
    blend: bool = True  # if several models are searched, also blend their best runs
    seed: int = 1  # of the search, and of every run
    train: list[str] = field(default_factory=list)  # further keys of train, for all runs
    config_dir: str | None = None  # a folder with further choices, given by --config-dir

    def mistakes(self) -> Iterator[str]:
        if self.minutes is None and self.trials is None:
            yield "minutes: missing; give minutes=30, or trials=20, or both"
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            yield f"minutes: expected more than 0, got {self.minutes}"
        given = [] if self.trials is None else ["trials"]
        yield from _at_least(1, self, "workers", *given)
        yield from _seed(self.seed)
        if any(override.key_of(word) == "resume" for word in self.train):
            yield "resume: a sweep goes on when its command is given again; leave resume out"


VerbConfig = (
    PrepareConfig
    | TrainConfig
    | SweepConfig
    | BlendConfig
    | RefitConfig
    | EvaluateConfig
    | ExportConfig
    | RecommendConfig
    | ServeConfig
    | NeighboursConfig
)

VERBS: dict[str, type[VerbConfig]] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "sweep": SweepConfig,
    "blend": BlendConfig,
    "refit": RefitConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "recommend": RecommendConfig,
    "serve": ServeConfig,
    "neighbours": NeighboursConfig,
}


def is_solved(model: object) -> bool:
    """Whether the model of a config is solved, and not trained by a loss and an optimizer."""
    if not isinstance(model, Mapping):
        return False
    return hasattr(part.find(model["_target_"]), "solve")


def _seed(seed: int) -> Iterator[str]:
    """A seed goes to torch, numpy and a hash; they have these numbers in common."""
    if not 0 <= seed < 2**63:
        yield f"seed: expected a number from 0 to 2**63 - 1, got {seed}"


def _weights(weights: list[float], count: int) -> Iterator[str]:
    if len(weights) != count:
        yield f"weights: expected {count}, one for each run, got {weights}"
    elif min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        yield f"weights: expected numbers of 0 or more, one of them above, got {weights}"


def _at_least(smallest: int, config: VerbConfig, *names: str) -> Iterator[str]:
    for name in names:
        if getattr(config, name) < smallest:
            yield f"{name}: expected {smallest} or more, got {getattr(config, name)}"
