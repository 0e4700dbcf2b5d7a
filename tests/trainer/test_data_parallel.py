"""Two processes that train together end where one does that takes the users of both."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lives
import small_shop
from deeprec.assembly import READ
from deeprec.batch import Jagged
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.model import dropping
from deeprec.trainer import sharding
from deeprec.trainer.callback import Following
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.kinds import kinds_of
from deeprec.trainer.loop import Loop
from deeprec.trainer.module import Training
from deeprec.trainer.row_gradient import RowGradient
from deeprec.verb import TrainConfig
from deeprec.work import Work
from lives import Live
from small_shop import composed, make

ROWS = 11, 12  # of the items that are shared out, how many each of two processes holds
REPEATS = ["target=after_cut", "target.window_days=20"]
DIVIDED = ["model.input_dropout=0.5", *REPEATS]
CASES = {
    "softmax": [],
    "marginal, many layers, clipped": [
        *("loss=marginal", "model.hidden_dims=[8,6]", "model.dropout=0"),
        *("optimizer.clip_norm=0.1", "optimizer.table_clip_norm=0.1"),
    ],
    "tied": ["model.tied=true", "optimizer=adagrad"],
    "rowwise": ["optimizer=rowwise_adagrad"],
    "a task of its own for what comes again": [
        *("target=after_cut", "target.window_days=20", "model.reconstruction=0")
    ],
    "held by a brake": ["brake=leaps", "optimizer=sgd"],
    "linear": ["experiment=linear", "model.width=8", "trainer.max_epochs=2"],
    "norms": ["optimizer.constraints.unit_norm=0.3", "optimizer.constraints.item_norm=0.2"],
    "few have anything to learn": [
        *("target=after_cut", "target.window_days=0.5", "model.reconstruction=0")
    ],
    "two tasks, divided by item": DIVIDED,
    "by interactions": ["trainer.batch_users=null", "trainer.batch_interactions=BATCH0"],
}
SHARED = {  # of which each process holds the catalog rows of its own items
    "shared, a sum over items": [
        *("loss=marginal", "optimizer=rowwise_adagrad", *REPEATS, "model.reconstruction=0")
    ],
    "shared, a normaliser over all items": [
        *("loss.one_target=0.9", "loss.zero_target=0.001", "model.hidden_dims=[8,6]"),
        "loss.popularity_adjustment=0.3",
    ],
    "shared, few have anything to learn": [
        *("target=after_cut", "target.window_days=0.5", "model.reconstruction=0")
    ],
    "shared, two tasks, divided by item": DIVIDED,
    "shared, held by a brake, with weights": ["brake=leaps", "weighting=inverse_propensity"],
}
HELD = {  # of which each process holds parts of the input tables
    "in parts, rows of each": [
        "loss=marginal",
        "optimizer=rowwise_adagrad",
        "model.hidden_dims=[8,8]",
    ],
    "in parts, rows of each, of two towers, and shared": [
        *("model=two_tower", "loss=cosine_contrastive", "model.width=8", "model.input_dropout=0"),
        *("model.pooling=attention", "optimizer=adagrad", "trainer.shard_catalog=SHARED"),
    ],
    "in parts, tables, few have anything to learn": [
        *("target=after_cut", "target.window_days=0.5", "model.reconstruction=0", "optimizer=sgd")
    ],
    "in parts, rows of each, and shared": [
        *("optimizer=rowwise_adagrad", *REPEATS, "model.reconstruction=0"),
        "trainer.shard_catalog=SHARED",
    ],
    "in parts, rows of each, of a linear model": [
        *("experiment=linear", "model.width=8", "optimizer=rowwise_adagrad"),
        "trainer.early_stopping_patience=null",
    ],
    "in parts, two tasks, divided by item": [*DIVIDED, "optimizer=rowwise_adagrad"],
}
DRAWN = {  # of which each process draws its own
    "dropout, two tasks": [
        *("model.input_dropout=0.5", "target=after_cut", "target.window_days=20")
    ],
    "negatives": ["loss=sampled_softmax", "loss.negatives=7"],
    "a memory, renewed where a process has no user": [
        *("model=recvae", "model.width=8", "model.code_dim=4", "trainer.batch_users=20"),
        *("model.encoder_steps=1", "model.decoder_steps=1"),
    ],
    "positions": ["experiment=sequence", "model.width=8", "loss=softmax", "trainer.batch_users=8"],
}


def config(prepared: Path, name: str, batch_users: int) -> TrainConfig:
    said = (CASES | SHARED | HELD | DRAWN)[name]
    words = ["trainer.max_epochs=2", f"trainer.batch_users={batch_users}", "trainer.threads=1"]
    if not any(word.startswith(("experiment=", "model=")) for word in said):
        words += ["model.hidden_dims=[8]", "model.input_dropout=0", "optimizer.lr=0.02"]
    if name.startswith("shared") and batch_users == 8:
        words += ["trainer.processes=2", "trainer.shard_catalog=true"]
    if name.startswith("in parts") and batch_users == 8:
        words += ["trainer.processes=2", "trainer.shard_inputs=true"]
    meant = {"BATCH": str(batch_users), "SHARED": str(batch_users == 8).lower()}
    of_case = (reduce(lambda one, key: one.replace(key, meant[key]), meant, word) for word in said)
    return composed(prepared, Path("nowhere"), *words, *of_case, "logger.wandb=off")


def divided_by_item(rows: Jagged, share: float, draw: torch.Generator) -> Tensor:
    """Which items are kept: alike in all processes, and all of them of some users."""
    return rows.values % 12 != 5


def ended(work: Work) -> dict[str, Tensor]:
    """What a run ends with, whose folder nobody needs: all that it would go on with, and more."""
    assert isinstance(work.learner, Training)
    if work.group is not None:
        work._share(work.learner, work.group)
    saving = Saving()
    work.loop.fit(work.learner, work.data, saving)
    work.learner.make_whole()
    found = work.learner.model.state_dict() | work.learner.whole_state()
    assert work.learner.progress.first_loss is not None
    found |= {
        "first loss": torch.tensor(work.learner.progress.first_loss),
        "rows held": saving.held,
    }
    return {name: one.contiguous() for name, one in found.items()}


class Saving(Following):
    """Has all put together where an epoch ends, as the process has that validates and saves."""

    def end_epoch(self, training: Training) -> bool:
        self.held = torch.tensor(rows_held(training))
        training.make_whole()
        training.whole_state()
        return super().end_epoch(training)


def rows_held(training: Training) -> list[int]:
    """Of each table that a loss is given, and of what is remembered of it, in a step."""
    tables = kinds_of(training.model).scored
    of_tables = [
        one.state[table] for one in training.built for table in tables if table in one.state
    ]
    return [len(one) for one in chain(tables, *(each.values() for each in of_tables)) if one.dim()]


@contextmanager
def dividing(name: str) -> Iterator[None]:
    """What is reconstructed is drawn for a batch, and so by each process: here it is not."""
    with pytest.MonkeyPatch.context() as patch:
        if "divided by item" in name:
            patch.setattr(dropping, "_kept", divided_by_item)
        yield


def data(place: Path, name: str) -> Path:
    """What a case trains on; items that are shared out are an odd number."""
    return place / ("odd" if name.startswith(("shared", "in parts")) else "prepared")


def walk(rank: int, place: Path) -> None:
    """What each of the processes does: every case, one after the other."""
    torch.set_num_threads(1)
    console.quiet = True
    group = Group(2, rank)
    group.join(place, torch.device("cpu"))
    for name in CASES | SHARED | HELD | DRAWN:
        sharding.MANY_ROWS = 10 if "rows of each" in name else 100_000
        torch.manual_seed(rank)  # where they begin is told them
        work = Work(
            config(data(place, name), name, 8), Prepared(data(place, name), parts=READ), group
        )
        with dividing(name):
            save_file(ended(work), place / f"{name}-{rank}.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes end with, a file for each case and process."""
    place = tmp_path_factory.mktemp("together")
    make(place / "prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_shop, "NUM_ITEMS", sum(ROWS))
        make(place / "odd")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    begun = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(rank), str(place)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    told = [one.communicate(timeout=300)[0] for one in begun]
    assert [one.returncode for one in begun] == [0, 0], "\n".join(told)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES | SHARED | HELD)
def test_two_processes_end_where_one_does(place: Path, name: str) -> None:
    prepared = Prepared(data(place, name), parts=READ)
    work = Work(config(prepared.path, name, 16), prepared)
    begun = {key: one.clone() for key, one in work.learner.model.state_dict().items()}
    with dividing(name):
        truth, found = ended(work), load_file(place / f"{name}-0.safetensors")
    assert found.keys() == truth.keys()
    rows = ROWS[0] if "shared" in name else len(truth["item_weight"])
    assert set(found.pop("rows held").tolist()) == {rows}
    del truth["rows held"]
    for key, value in truth.items():
        torch.testing.assert_close(found[key], value, atol=2e-6, rtol=2e-7, msg=key)
    assert any((truth[key] != one).any() for key, one in begun.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES | SHARED | HELD | DRAWN)
def test_all_processes_have_the_same_bits(place: Path, name: str) -> None:
    first, second = (load_file(place / f"{name}-{rank}.safetensors") for rank in range(2))
    if "shared" in name:
        assert set(second.pop("rows held").tolist()) == {ROWS[1]}
    for key, value in second.items():  # what is remembered of rows, the one that leads tells
        if name.startswith("in parts") and "tables." in key:
            assert (len(value), len(first[key]) > 0) == (0, True), key  # the one that leads has it
        elif "shared" in name and key in ("item_weight", "item_bias", "reconstruction_bias"):
            assert torch.equal(first[key][ROWS[0] :], value), key
        else:
            assert torch.equal(first[key], value), key
    assert second.keys() >= {"item_weight", "item_bias"}


def test_gradients_of_rows_found_in_parts_are_added_up() -> None:
    table, found = torch.zeros(5, 2), RowGradient()
    assert (found.kind, len(found.of_some(table)[0])) == (0, 0)
    found.add(table, torch.tensor([3, 1]), torch.ones(2, 2))
    found.add(table, torch.tensor([0, 3]), torch.ones(2, 2))
    rows, values = found.of_some(table)
    assert (found.kind, len(rows)) == (1, 3)
    assert dict(zip(rows.tolist(), values[:, 0].tolist(), strict=True)) == {0: 1.0, 1: 1.0, 3: 2.0}
    found.add(table, slice(1, 4), torch.ones(3, 2))
    assert found.kind == 2
    assert found.of_all(table)[:, 1].tolist() == [1.0, 2.0, 1.0, 3.0, 0.0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=ease"], "trainer.processes: a model that is solved is solved by one, got 2"),
        (["loss=cosine", "experiment=linear", "loss.gram_items=8"], "set loss.gram_items=null"),
        (["optimizer.constraints.unit_slope_norm=1"], "must be 1 with unit_slope_norm"),
        (["trainer.shard_catalog=true", "model.tied=true"], "where the input reads the catalog"),
        (
            ["experiment=sequence", "model.width=8", "loss=softmax", "trainer.shard_inputs=true"],
            "the input has no table of its own",
        ),
        (["trainer.shard_inputs=true"], "TorchRec trains tables by .* got Adam; use optimizer="),
        (
            ["trainer.shard_inputs=true", "model=recvae", "optimizer=sgd"],
            "must be false with model=recvae",
        ),
        (["trainer.shard_catalog=true", "loss=sampled_softmax"], "be false with SampledSoftmax"),
        (
            [
                "model=layered",
                "model.layers.0.sparseness=0.1",
                "model.layers.0.sparseness_weight=1",
            ],
            "leave sparseness_weight at 0",
        ),
    ],
)
def test_what_several_processes_would_do_otherwise_is_refused(
    tmp_path: Path, words: list[str], said: str
) -> None:
    prepared = Prepared(make(tmp_path / "prepared", repeats=False), parts=READ)
    config = composed(prepared.path, tmp_path / "run", *words, "trainer.processes=2")
    with pytest.raises(ConfigError, match=said):
        Work(config, prepared)


def test_one_process_has_nobody_to_share_the_catalog_with() -> None:
    with pytest.raises(ValueError, match="of which there must be 2 or more, got processes=1"):
        Loop(shard_catalog=True)
    with pytest.raises(ValueError, match="shares the input tables among processes"):
        Loop(shard_inputs=True)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with lives.server(make(tmp_path_factory.mktemp("data") / "prepared")) as one:
        yield one


@pytest.mark.slow
def test_stopped_and_bereft_of_one_a_run_ends_as_if_it_never_was(
    live: Live, tmp_path: Path
) -> None:
    """By SIGTERM where an epoch ends, and by the death of the process beside the one that leads.

    They share the catalog and the input tables, so each checkpoint is of rows that both trained.
    """

    def command(run: str) -> list[str]:
        together = "trainer.processes=2", "trainer.shard_catalog=true", "resume=auto"
        together += "trainer.shard_inputs=true", "optimizer=rowwise_adagrad"
        together += ("trainer.save_every_minutes=0",)
        small = [one.replace("batch_users=16", "batch_users=8") for one in lives.SMALL]
        return ["prepared=PREPARED", f"output_dir={tmp_path / run}", *small, *together]

    assert live(command("whole")).code == 0
    stopped = live(command("run"), fault="terminated_at_an_end")
    assert stopped.code == 143, stopped.said
    bereft = live(command("run"), fault="follower_killed")
    assert bereft.code == 5
    assert "one of the 2 processes that train this run ended" in bereft.said
    last = live(command("run"))
    assert (last.code, last.began) == (0, bereft.steps[-1]), last.said
    for name in ("weights", "optimizer"):
        one, other = (
            sorted((tmp_path / run / "checkpoints").glob(f"step-*/{name}.safetensors"))[-1]
            for run in ("whole", "run")
        )
        assert one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    walk(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # at once: threads of the process group may abort an ordinary end
