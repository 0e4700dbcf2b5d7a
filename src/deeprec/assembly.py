"""The parts of a run, put together from its config and its prepared folder."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deeprec.batch import Batch
from deeprec.config import refuse
from deeprec.console import console
from deeprec.data.attribute_histories import AttributeHistories
from deeprec.data.datamodule import DataModule, to_be_fetched
from deeprec.data.dataset import Batches, JudgedBatches
from deeprec.data.judge import known_users
from deeprec.data.store import PartName, Prepared
from deeprec.data.target import ByKind, Reconstruct, Target
from deeprec.device import choose_device
from deeprec.errors import ConfigError, DataError, DeeprecError
from deeprec.loss.auto import Auto
from deeprec.loss.fit import Trained, advice, unfit_engine, unfit_left_out, unfit_weights
from deeprec.loss.inverse_propensity import InversePropensity
from deeprec.loss.negatives import Negatives
from deeprec.machine import cores
from deeprec.model.base import PerUser
from deeprec.model.initial import begin_biases
from deeprec.model.layered import Layered
from deeprec.part import find, instantiate, instantiate_with
from deeprec.schema import Part
from deeprec.trainer import memory
from deeprec.trainer.callback import Schedule
from deeprec.trainer.catalog_shards import CatalogShards, unfit_shards
from deeprec.trainer.data_parallel import Group, refuse_too_many, unfit_processes
from deeprec.trainer.facts import (
    build_loss,
    build_model,
    facts_of,
    learns_next,
    reads_log_odds,
)
from deeprec.trainer.graph import record
from deeprec.trainer.input_shards import InputShards, unfit_inputs
from deeprec.trainer.kinds import kinds_of
from deeprec.trainer.learner import Progress
from deeprec.trainer.loop import Loop
from deeprec.trainer.module import Loss, Training
from deeprec.trainer.optimizer import Optimizer
from deeprec.trainer.rate import Rate
from deeprec.trainer.run import open_run
from deeprec.trainer.shards import Shards, to_device
from deeprec.trainer.solving import Solving
from deeprec.trainer.start_from import Started, start_from
from deeprec.verb import TrainConfig, is_solved

READ: tuple[PartName, ...] = ("train", "validation")  # never the holdout


class Assembly:
    """The parts of one run, put together; nothing is written yet.

    Args:
        config: of the run.
        prepared: what it trains on.
        group: of a process that follows, those that train together; None: this one leads.
    """

    def __init__(self, config: TrainConfig, prepared: Prepared, group: Group | None = None) -> None:
        self.why_loss: str | None = None
        self.started: Started | None = None  # with the weights of another run
        self.solved = is_solved(config.model)
        told = config.target
        if self.solved:
            config = replace(config, loss=None, optimizer=None, target=None)
        self.config, self.prepared = config, prepared
        self.loop: Loop = instantiate(config.trainer)
        self.schedule: Schedule = self.loop.schedule
        self.group = group or self._new_group()
        _set_threads(self.loop)
        self.device = choose_device(self.loop.device, "trainer.device")
        target: Target = Reconstruct()
        if config.target is not None:
            target = instantiate(config.target)
        self.more = _attribute_histories(config, prepared)
        makers = self.loop.makers(self.device.name)
        self.data = _data(config, prepared, target, self.loop, self.group, self.more, makers)
        self.learns_next = learns_next(config.model)
        self.facts = facts_of(prepared, self.data.training, self.learns_next)
        self.weighs_users = config.user_weights and prepared.user_weights is not None
        if self.more is not None and self.more.weighs:
            self.weighs_users = True
        if self.weighs_users and prepared.user_weights is not None:
            _refuse_nobody(prepared, self.data.training.users)
        self.learner: Training | Solving
        if self.solved:
            self._refuse_to_solve(told)
            with self.telling_of_memory():
                self.learner = self._new_solving()
        else:
            if self.group is None or self.group.leads:
                self._fit_to_machine()
            with self.telling_of_memory():
                self.learner = self._new_training()
            self.data.training.finish = self.learner.arrange
            self.why_no_graph: str | None = None
            if self.device.name == "cuda":
                batches = self.data.training
                self.why_no_graph = self.loop.why_no_graph
                if self.why_no_graph is None:
                    self.why_no_graph = record(self.learner, batches, self.device.torch)
                batches.receive = to_be_fetched

    def histories(self) -> Batch:
        """All that may be learned from at once."""
        users = known_users(self.prepared, "validation")
        if self.weighs_users and self.prepared.user_weights is not None:
            weights = self.prepared.user_weights[users.user_rows.numpy()]
            users.user_weights = torch.from_numpy(weights)
        return users if self.more is None else self.more.beside(users)

    def _new_group(self) -> Group | None:
        """The processes that the config asks for, which this one leads; None: there is one."""
        size = self.loop.processes
        if size == 1:
            return None
        if self.solved:
            raise ConfigError(
                f"trainer.processes: a model that is solved is solved by one, got {size}; leave it "
                "at 1, and give threads with trainer.threads"
            )
        return Group(size)

    def _refuse_to_solve(self, target: Part | None) -> None:
        """Raises ConfigError for what a solved model would pass over."""
        if self.config.compatibility != "none":
            raise ConfigError(
                "compatibility=dsstne is of networks of layers, and this model is solved; use "
                "model=layered, or leave compatibility at none"
            )
        if target is not None and find(target["_target_"]) is ByKind:
            raise ConfigError(
                "target=by_kind asks for events of one kind from those of another, and a model that"
                " is solved reads all kinds as one history; leave target out and prepare one kind "
                "(data.filters.kinds=[...]), or train a model by a loss"
            )
        model = find(self.config.model["_target_"])
        if getattr(model, "weighs_users", False):
            return
        if self.more is not None:
            raise ConfigError(
                f"item_attributes: {model.__name__} learns nothing from what is known of items; "
                "leave them out, or use model=ease, sparse_ease, ials, svd or graph_filter, or one "
                "that is trained, as by experiment=linear"
            )
        if self.weighs_users:
            raise ConfigError(
                f"{self.prepared.path} weighs users, and {model.__name__} counts all alike; use "
                "another model, or give user_weights=false"
            )

    def _new_solving(self) -> Solving:
        """A model that needs neither loss nor optimizer; refused where it would not fit."""
        with torch.device("meta"):
            model: Any = build_model(self.config.model, self.facts, None)
        available = memory.available_bytes(torch.device("cpu"))
        lines = memory.solving_plan(model, *self._all_histories(), self._ways())
        console.print(memory.show(lines, available))
        memory.check(lines, available)
        if model.passes is not None:
            self.schedule = replace(self.schedule, max_epochs=model.passes)
        torch.manual_seed(self.config.seed)
        popularity = torch.from_numpy(self.prepared.popularity.copy())
        model = build_model(self.config.model, self.facts, popularity).to(self.device.torch)
        return Solving(model, seed=self.config.seed, progress=Progress())

    def _new_training(self) -> Training:
        config = self.config
        assert config.loss is not None
        torch.manual_seed(config.seed)
        popularity = torch.from_numpy(self.prepared.popularity.copy())
        model = build_model(
            config.model,
            self.facts,
            popularity,
            log_odds=reads_log_odds(config.loss),
            compatibility=config.compatibility,
        )
        loop = self.loop
        to_device(model, self.device.torch, catalog=loop.shard_catalog, inputs=loop.shard_inputs)
        loss = self._new_loss(config.loss, model, popularity)
        weighting: InversePropensity | None = None
        if config.weighting is not None:
            weighting = instantiate(config.weighting, popularity=popularity)
        changes = [weighting, getattr(loss, "adjustment", None)]
        begin_biases(model, [one.begun for one in changes if one is not None])
        if config.start_from is not None and (self.group is None or self.group.leads):
            self.started = self._start_from(Path(config.start_from), model)
        return Training(
            model,  # type: ignore[arg-type]  # a Module that keeps the contract of Recommender
            loss,
            self._new_optimizer(),
            seed=config.seed,
            total_steps=loop.max_epochs * len(self.data.training),
            progress=Progress(),
            weighting=weighting,
            weighs_users=self.weighs_users,
            as_dsstne=config.compatibility == "dsstne",
            rate=self._rate(),
            brake=None if config.brake is None else instantiate(config.brake),
            group=self.group,
            shards=self._new_shards(model),
        )

    def _start_from(self, path: Path, model: nn.Module) -> Started:
        """Gives the model the weights of another run."""
        config = self.config
        build = partial(
            build_model, config.model, popularity=None, compatibility=config.compatibility
        )
        try:
            run = open_run(path)
        except DeeprecError as error:
            error.add_note("that is of start_from")
            raise
        return start_from(run, config.model, model, self.prepared, self.facts, build)

    def _new_optimizer(self) -> Optimizer:
        assert self.config.optimizer is not None
        batches = self.data.training
        users = batches.grouping.batch_users or batches.users_of_batch
        told = users * self.loop.processes
        found: Optimizer = instantiate_with(self.config.optimizer, batch_users=told)
        return found

    def _new_shards(self, model: nn.Module) -> Shards | None:
        """What several processes share out, if anything."""
        group, loop = self.group, self.loop
        if group is None or not (loop.shard_catalog or loop.shard_inputs):
            return None
        device, num_items = self.device.torch, self.facts.num_items
        catalog = CatalogShards(group, num_items, device) if loop.shard_catalog else None
        inputs = InputShards(group, device) if loop.shard_inputs else None
        return Shards(group, catalog, inputs, num_tasks=_num_tasks(model))

    def _rate(self) -> Callable[[int], float] | None:
        """What the learning rates of a step are multiplied with, beside the optimizer's own."""
        if self.config.rate is None:
            return None
        rate: Rate = instantiate(self.config.rate)
        return partial(rate, epoch_steps=len(self.data.training))

    def _fit_to_machine(self) -> None:
        """On shapes alone: chooses the loss, and refuses what would not fit before it is made."""
        with torch.device("meta"):
            model = build_model(self.config.model, self.facts, None)
        available = memory.available_bytes(self.device.torch)
        popularity = torch.from_numpy(self.prepared.popularity.copy())
        assert self.config.loss is not None
        auto = self._built_loss(self.config.loss, model, popularity)
        if isinstance(auto, Auto):
            choice = auto.choose(lambda loss: memory.total(self._plan(model, loss)), available)
            self.config = replace(self.config, loss=dict(choice.loss))
            self.why_loss = choice.why
        assert self.config.loss is not None
        self._refuse_unfit(model, self.config.loss)
        lines = self._plan(model, self.config.loss)
        console.print(memory.show(lines, available))
        memory.check(lines, available)

    def _refuse_unfit(self, model: nn.Module, part: Part) -> None:
        if self.config.compatibility == "dsstne" and not isinstance(model, Layered):
            raise ConfigError(
                f"compatibility=dsstne is of networks of layers, got {type(model).__name__}; use "
                "model=layered, or leave compatibility at none"
            )
        loss = self._new_loss(part, model, None)
        optimizer = self._new_optimizer()
        shows_target = self.data.training.target.shows_target and not self.learns_next
        linear = getattr(model, "linear", False)
        trained = Trained(
            num_items=self.facts.num_items,
            linear=linear,
            unit_rows=getattr(model, "unit_vectors", False),
            changed_by_input=kinds_of(model).tied
            and not shows_target
            and getattr(model, "repeat", None) is None,
            num_tasks=_num_tasks(model),
            weighted=self.config.weighting is not None,
            valued=getattr(self.data.training.target, "weigh", False),
            weighted_users=self.weighs_users,
            learns_next=self.learns_next,
            clipped_slopes=optimizer.constraints.score_slope_norm is not None,
        )
        found = _unfit_target(model, self.data.training.target)
        found += loss.unfit(trained) if hasattr(loss, "unfit") else []
        found += unfit_left_out(loss, trained)
        found += [*unfit_weights(loss, trained), *unfit_engine(loss, trained)]
        if self.more is not None and not shows_target:
            found.append(
                "item_attributes: items that share a value have no order and no times, so they are "
                "learned from with target=reconstruct alone, by a model that reads no order; give "
                "that, or leave item_attributes out"
            )
        if self.group is not None:
            refuse_too_many(self.group.size, self.device.torch)
            holds_slopes = bool(optimizer.constraints.slopes(model))
            found += unfit_processes(model, loss, holds_slopes=holds_slopes)
            if self.loop.shard_catalog:
                found += unfit_shards(model, loss, self.facts.num_items, self.group.size)
            if self.loop.shard_inputs:
                as_dsstne = self.config.compatibility == "dsstne"
                found += unfit_inputs(model, optimizer, as_dsstne=as_dsstne)
        refuse("train", found)
        if (better := advice(loss, trained)) is not None:
            console.print(f"[yellow]note[/yellow] {better}", soft_wrap=True)

    def _plan(self, model: nn.Module, part: Mapping[str, Any]) -> list[memory.Line]:
        """What training with this loss takes."""
        loss = self._new_loss(part, model, None)
        users = self.data.training.users_of_batch
        negatives: Negatives | None = getattr(loss, "negatives", None)
        rows, events = self._beside()
        lines = memory.plan(
            model,
            self._new_optimizer(),
            batch_users=users + rows,
            batch_events=int(users * self.data.training.lengths.mean()) + events,
            block_items=getattr(loss, "block_items", 8192),
            drawn_items=0 if negatives is None else negatives.count,
            draws_at_once=negatives is not None and not negatives.shared_targets,
            pool=0 if negatives is None else negatives.pool or 0,
            gram=getattr(loss, "gram", None),
            dense_gradient=getattr(loss, "dense_gradient", False)
            or (self.config.brake is not None and negatives is None)
            or (self.group is not None and not self.loop.shard_catalog and negatives is None)
            or (kinds_of(model).tied and negatives is None),
            per_user=self._per_user(model),
            ways=self._ways(hasattr(loss, "gram_items")),
            copied=self.schedule.save_in_background,
            forked=self.data.training.processes > 0,
            device=self.device.name,
            recorded=self.loop.why_no_graph is None and self.device.name == "cuda",
            processes=self.loop.processes,
            shards=self.loop.shard_catalog,
            shares_inputs=self.loop.shard_inputs,
        )
        begin_bytes: Callable[[int, int], int] | None = getattr(model, "begin_bytes", None)
        if begin_bytes is not None:
            lines += memory.begin_plan(begin_bytes(*self._all_histories()))
        return lines

    def _beside(self) -> tuple[int, int]:
        """Histories of item attributes in a batch, and events of these."""
        if self.more is None:
            return 0, 0
        batches = len(self.data.training) * self.loop.processes
        return -(-len(self.more) // batches), -(-len(self.more.items) // batches)

    def _all_histories(self) -> tuple[int, int]:
        """How many may be learned from at once, and events of these."""
        users, events = len(self.data.training.users), int(self.data.training.lengths.sum())
        if self.more is None:
            return users, events
        return users + len(self.more), events + len(self.more.items)

    def _ways(self, has_gram_items: bool = False) -> memory.Ways:
        """Settings that this model, loss and trainer have."""
        names = ("width", "hidden_units", "layers", "hidden_dims")
        width = next((name for name in names if name in self.config.model), None)
        grouped = self.config.trainer.get("batch_interactions") is not None
        return memory.Ways(
            width=f"a smaller model.{width}" if width else memory.FEWER,
            batch=f"a smaller trainer.{'batch_interactions' if grouped else 'batch_users'}",
            no_dense_gradient="loss.gram_items=4096" if has_gram_items else "loss=sampled_softmax",
        )

    def telling_of_memory(self) -> AbstractContextManager[None]:
        ways = self._ways()
        return memory.told(ways.width if self.solved else f"{ways.batch} or {ways.width}")

    def _new_loss(
        self, part: Mapping[str, Any], model: nn.Module, popularity: Tensor | None
    ) -> Loss:
        loss = self._built_loss(part, model, popularity)
        assert not isinstance(loss, Auto), "chosen before"
        return loss

    def _built_loss(
        self, part: Mapping[str, Any], model: nn.Module, popularity: Tensor | None
    ) -> Loss | Auto:
        item_weight = model.item_weight
        assert isinstance(item_weight, Tensor)
        return build_loss(
            part,
            self.facts,
            popularity,
            width=item_weight.shape[1],
            batch_users=self.data.training.users_of_batch,
            device=self.device.name,
            row_length=getattr(model, "row_length_V", None),
            hidden_bias=getattr(model, "hidden_bias", None),
            linear=getattr(model, "linear", False),
            unit_rows=getattr(model, "unit_vectors", False),
            hidden_per_user=1.0 if (per_user := self._per_user(model)) is None else per_user.hidden,
        )

    def _per_user(self, model: nn.Module) -> PerUser | None:
        """What a user takes in a step; None: what it takes of most models."""
        per_user: Callable[[npt.NDArray[np.int64]], PerUser] | None
        per_user = getattr(model, "per_user", None)
        return None if per_user is None else per_user(self.data.training.lengths)


def _num_tasks(model: nn.Module) -> int:
    """Of a step: beside the target, to reconstruct the history, where the model does."""
    return 2 if getattr(model, "reconstruction", 0.0) > 0.0 else 1


def _set_threads(loop: Loop) -> None:
    if loop.threads is not None:
        torch.set_num_threads(loop.threads)
    elif loop.processes > 1:
        torch.set_num_threads(max(1, cores() // loop.processes))


def _unfit_target(model: nn.Module, target: Target) -> list[str]:
    """What a target asks for that is not in the histories it shows, of a model that reads these."""
    if getattr(model, "learns_next", False):
        learns = "what comes next in"
    elif getattr(model, "learns_shown", False):
        learns = "to rebuild"
    else:
        return []
    name, found = type(model).__name__, []
    if isinstance(target, ByKind):
        found.append(
            f"target: by_kind asks for events of one kind from those of another, and {name} learns "
            f"{learns} the events that it is shown; use another model (model=autoencoder), or "
            "target=reconstruct on one kind (data.filters.kinds=[...] of prepare)"
        )
    if getattr(target, "weigh", False):
        found.append(
            f"target.weigh: must be false with {name}, which learns {learns} the histories that it "
            "is shown; or use another model"
        )
    return found


def _attribute_histories(config: TrainConfig, prepared: Prepared) -> AttributeHistories | None:
    if not config.item_attributes:
        return None
    return AttributeHistories(
        prepared,
        config.item_attributes,
        weight=config.item_attribute_weight,
        weighs_users=config.user_weights,
    )


def _refuse_nobody(prepared: Prepared, users: npt.NDArray[np.int64]) -> None:
    assert prepared.user_weights is not None
    if not prepared.user_weights[users].any():
        raise DataError(
            f"{prepared.path} weighs users, and all that are trained on weigh 0; prepare it with "
            "other weights, or give user_weights=false"
        )


def _data(
    config: TrainConfig,
    prepared: Prepared,
    target: Target,
    loop: Loop,
    group: Group | None,
    more: AttributeHistories | None,
    makers: int,
) -> DataModule:
    training = Batches(
        prepared,
        target,
        grouping=loop.grouping,
        seed=config.seed,
        prefetch=loop.prefetch_batches,
        processes=makers,
        more=more,
        rank=0 if group is None else group.rank,
        world=1 if group is None else group.size,
    )
    if not len(training.users):
        raise DataError(f"{prepared.path}: no user has training events; prepare other data")
    validation = JudgedBatches(
        prepared,
        "validation",
        batch_users=training.users_of_batch,
        max_users=loop.validation_users,
        exclude_seen=not prepared.repeats,
    )
    return DataModule(training, validation)
