"""A run on CUDA, from training to lists, is the run of a CPU but for the last digits."""

import json
import signal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import deeprec
import small_shop
from deeprec.batch import Batch, Jagged
from deeprec.config import compose
from deeprec.errors import Interrupted, NonFiniteError, ResourceError
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.halving import Halving, Lists
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.rank import rank
from deeprec.recommend import recommend
from deeprec.serve import RequestError, same_answer
from deeprec.train import train
from deeprec.trainer.callback import Keeper
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.run import open_run
from deeprec.verb import EvaluateConfig, ExportConfig, RecommendConfig, TrainConfig

pytestmark = pytest.mark.gpu
AFTER = "target=after_cut target.window_days=20 trainer.batch_users=16 optimizer.lr=0.02"
SMALL = f"model.hidden_dims=[8] {AFTER}"
STEPWISE = [
    SMALL,
    f"loss=sampled_softmax loss.negatives=8 {SMALL}",
    f"optimizer=rowwise_adagrad {SMALL}",
    f"model=layered {AFTER}",
    f"model=variational {AFTER}",
    f"experiment=recvae {AFTER}",
    "experiment=linear trainer.batch_users=16",
    "experiment=rbm trainer.batch_users=16",
    "experiment=sequence trainer.batch_users=16",
    "experiment=simplex trainer.batch_users=16",
]
SOLVED = [
    *("ease", "sparse_ease", "ials", "graph_filter"),
    *("item_to_item", "own_frequency", "popularity"),
    "svd model.width=4",  # more are of no taste, and leave scores that differ by rounding alone
]
CUDA = torch.device("cuda")
CLOSE = 0.03  # of ndcg, where each device draws for itself


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.make(tmp_path_factory.mktemp("prepared") / "shop")


def trained(prepared: Path, run: Path, model: str, device: str, *more: str) -> Path:
    words = ["logger.wandb=off", f"trainer.device={device}", *model.split(), *more]
    if not model.startswith("model=") or model in STEPWISE:
        words.append("trainer.max_epochs=6")
    return train(small_shop.composed(prepared, run, *words))


def best_score(run: Path) -> float:
    return max(float(row["val/ndcg@100"] or 0) for row in read_metrics(run / "metrics.csv"))


@pytest.mark.parametrize("model", [*STEPWISE, *(f"model={name}" for name in SOLVED)])
def test_every_model_learns_exports_and_answers_as_on_a_cpu(
    model: str, prepared: Path, tmp_path: Path
) -> None:
    here = trained(prepared, tmp_path / "cpu", model, "cpu")
    there = trained(prepared, tmp_path / "cuda", model, "cuda")
    environment = json.loads((there / "environment.json").read_text())
    assert environment["cuda"] == torch.cuda.get_device_name()
    solved = model.removeprefix("model=") in SOLVED
    assert best_score(there) == pytest.approx(best_score(here), abs=5e-3 if solved else CLOSE)
    reports = [judged(there, tmp_path / device, device) for device in ("cpu", "cuda")]
    assert figures(reports[1]) == pytest.approx(figures(reports[0]), abs=1e-3)
    made = export(cast(ExportConfig, compose("export", [f"run={there}", f"output_dir={there}.b"])))
    assert_same_answers(made)


def judged(run: Path, output: Path, device: str) -> dict[str, Any]:
    words = [f"run={run}", f"output_dir={output}.report", f"device={device}", "cutoffs=[5,10]"]
    return evaluate(cast(EvaluateConfig, compose("evaluate", words)))


def figures(report: dict[str, Any]) -> dict[str, float]:
    """By system and metric, its mean."""
    found = {}
    for system in report["systems"]:
        for name, value in system["metrics"].items():
            mean = value["mean"] if isinstance(value, dict) else value
            if isinstance(mean, float):
                found[f"{system['name']} {name}"] = mean
    assert found
    return found


HISTORIES = [["i01", "i02", "i03"], [], ["i23"], ["i05"] * 7, ["nobody knows it", "i00"]]


def assert_same_answers(bundle: Path) -> None:
    on_cpu, on_cuda = deeprec.load(bundle), deeprec.load(bundle, device="cuda")
    assert list(on_cuda.golden()) == []
    for asked in (
        {"k": 5},
        {"k": 24, "exclude_seen": True},
        {"k": 3, "denied": ["i01", "i04"]},
        {"k": 3, "allowed": ["i01", "i04", "i07"]},
    ):
        given = cast(dict[str, Any], asked)
        for one, other in zip(
            on_cpu.recommend(HISTORIES, now=10**9, **given),
            on_cuda.recommend(HISTORIES, now=10**9, **given),
            strict=True,
        ):
            index = {name: place for place, name in enumerate(sorted({*one.item_ids}))}
            assert {*one.item_ids} <= {*other.item_ids} | {*one.item_ids[-1:]}
            assert same_answer(
                [index.get(item, -1) for item in other.item_ids],
                other.scores,
                [index[item] for item in one.item_ids],
                one.scores,
            )


@pytest.fixture(scope="module")
def bundle(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle")
    run = trained(prepared, place / "run", STEPWISE[0], "cuda")
    return export(cast(ExportConfig, compose("export", [f"run={run}", f"output_dir={place}/b"])))


def test_a_broken_request_is_refused_and_the_next_one_answered(bundle: Path) -> None:
    """An index outside of a table would end every later call on CUDA, had a kernel met it."""
    opened = deeprec.load(bundle, device="cuda")
    sound = opened.recommend(HISTORIES, k=5, now=0)
    items, offsets = torch.tensor([1, 2, 3]), torch.tensor([0, 3])
    broken: list[dict[str, Any]] = [
        {"items": torch.tensor([1, 24, 3])},
        {"items": torch.tensor([1, -1, 3])},
        {"items": torch.tensor([2**62, 0, 1])},
        {"offsets": torch.tensor([0, 4])},
        {"offsets": torch.tensor([0, 2])},
        {"offsets": torch.tensor([3, 0])},
        {"offsets": torch.tensor([0, 5, 3])},
        {"offsets": torch.tensor([-1, 3])},
        {"k": 0},
        {"k": 10**9},
        {"ages": torch.tensor([1.0])},
        {"ages": torch.tensor([1.0, float("nan"), 2.0])},
        {"denied": (torch.tensor([99]), torch.tensor([0, 1]))},
        {"denied": (torch.tensor([1]), torch.tensor([0, 7]))},
        {"allowed": (torch.tensor([-5]), torch.tensor([0, 1]))},
        {"attributes": {"age.band": (torch.tensor([17]), torch.tensor([0, 1]))}},
        {"attributes": {"age.band": (torch.tensor([0]), torch.tensor([0, 9]))}},
    ]
    for asked in broken:
        with pytest.raises(RequestError):
            opened.rank(**{"items": items, "offsets": offsets, "k": 3, **asked})
        assert opened.recommend(HISTORIES, k=5, now=0) == sound


def test_lists_of_a_file_are_those_of_a_cpu(bundle: Path, prepared: Path, tmp_path: Path) -> None:
    tables = {}
    for device, processes in (("cpu", 1), ("cuda", 1), ("cuda", 2)):
        output = tmp_path / f"{device}{processes}.parquet"
        words = [f"bundle={bundle}", f"histories={prepared}", f"output={output}", "k=5"]
        words += [f"device={device}", f"processes={processes}", "batch_users=16"]
        recommend(cast(RecommendConfig, compose("recommend", words)))
        tables[device, processes] = pq.read_table(output)
    whole = tables["cpu", 1]
    for table in tables.values():
        assert table["user_id"].equals(whole["user_id"])
        scores = [np.concatenate(one["scores"].to_pylist()) for one in (table, whole)]
        np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)
    assert tables["cuda", 2].equals(tables["cuda", 1])


def drawn(num_items: int, num_users: int) -> tuple[Any, Batch]:
    """A model and histories of five items each, on the device."""
    torch.manual_seed(0)
    model: Any = Autoencoder(num_items, hidden_dims=[8]).cuda().eval()
    torch.nn.init.normal_(model.item_weight)
    shown = torch.randint(0, num_items, (num_users * 5,))
    history = Jagged(shown, torch.arange(num_users + 1) * 5)
    return model, Batch(torch.arange(num_users), history).on(CUDA)


def test_users_that_do_not_fit_are_ranked_in_halves_with_the_same_lists() -> None:
    model, batch = drawn(200_000, 4096)
    halving = Halving()

    def lists(start: int, stop: int) -> Lists:
        return rank(model, batch.some(start, stop), 100, True, block_items=200_000)

    pieces = [lists(start, start + 256) for start in range(0, 4096, 256)]
    items, scores = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(2e9 / total)  # of 3.3 GB of scores
    try:
        found = halving(lists, 4096)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert halving.most < 4096
    torch.testing.assert_close(found[1], scores)
    assert (found[0] == items).float().mean() > 0.999  # products of other sizes round otherwise


def test_tables_on_the_host_are_ranked_as_on_the_device() -> None:
    """As the process that leads has them where several share them out."""
    model, batch = drawn(5_000, 64)
    found = []
    for device in ("cuda", "cpu"):
        for table in (model.item_weight, model.item_bias, *model.sparse_input.tables.values()):
            table.data = table.data.to(device)
        found.append(rank(model, batch, 100, True, block_items=1_000))
    torch.testing.assert_close(found[1][1], found[0][1])
    assert found[1][0].device.type == "cuda"
    assert (found[1][0] == found[0][0]).float().mean() > 0.999  # sums of other devices round so


def test_a_run_without_memory_on_the_device_names_what_takes_less(
    prepared: Path, tmp_path: Path
) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(ResourceError, match=r"a smaller trainer\.batch_users or "):
            trained(prepared, tmp_path / "run", STEPWISE[0], "cuda", "model.hidden_dims=[200000]")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def weights(run: Path) -> dict[str, torch.Tensor]:
    opened = open_run(run, "last")
    return {name: value.cpu() for name, value in cast(Any, opened.model).state_dict().items()}


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad", "rmsprop"])
@pytest.mark.parametrize("goes_on", ["cuda", "cpu"])
def test_an_interrupted_run_goes_on_with_all_of_its_state(
    optimizer: str, goes_on: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (f"optimizer={optimizer}", "optimizer.lr=0.05", "trainer.device=auto")
    whole = trained(prepared, tmp_path / "whole", STEPWISE[0], "cuda", *more)
    end_epoch = Keeper.end_epoch

    def interrupt(keeper: Keeper, training: Any) -> bool:
        over = end_epoch(keeper, training)
        if training.progress.epoch == 3:
            signal.raise_signal(signal.SIGTERM)
        return over

    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "end_epoch", interrupt)
        with pytest.raises(Interrupted):
            trained(prepared, tmp_path / "broken", STEPWISE[0], "cuda", *more)
    broken = tmp_path / "broken"
    if goes_on == "cpu":  # as on another machine, which has no GPU
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train(cast(TrainConfig, compose("train", [f"resume={broken}"])))
    monkeypatch.undo()
    mine, theirs = weights(broken), weights(whole)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=2e-4, rtol=1e-3)


def test_a_step_that_is_not_finite_ends_a_run_in_graphs_and_is_taken_again(
    prepared: Path, tmp_path: Path
) -> None:
    words = ("optimizer.lr=1e30", "model.activation=identity", "trainer.max_epochs=40")
    with pytest.raises(NonFiniteError, match="nothing of it is saved"):
        trained(prepared, tmp_path / "run", STEPWISE[0], "cuda", *words)
    with pytest.raises(NonFiniteError, match="is not finite again, first: "):
        train(TrainConfig(replay=str(tmp_path / "run.replay")))


def test_deterministic_runs_on_cuda_end_alike_to_the_bit(prepared: Path, tmp_path: Path) -> None:
    words = ("trainer.deterministic=true",)
    one = trained(prepared, tmp_path / "one", STEPWISE[0], "cuda", *words)
    other = trained(prepared, tmp_path / "other", STEPWISE[0], "cuda", *words)
    theirs = weights(other)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(one).items())


def test_narrow_training_learns_as_much(prepared: Path, tmp_path: Path) -> None:
    wide = trained(prepared, tmp_path / "wide", STEPWISE[0], "cuda")
    more = ("trainer.precision=bfloat16",)
    narrow = trained(prepared, tmp_path / "narrow", STEPWISE[0], "cuda", *more)
    assert best_score(narrow) == pytest.approx(best_score(wide), abs=CLOSE)


@pytest.mark.parametrize("backend", ["torch", "torchrec"])
def test_either_backend_of_the_tables_trains_on_cuda(
    backend: str, prepared: Path, tmp_path: Path
) -> None:
    if backend == "torchrec":
        pytest.importorskip("torchrec")
    model = f"{STEPWISE[2]} model.table_backend={backend}"
    there = trained(prepared, tmp_path / "cuda", model, "cuda")
    model = f"{STEPWISE[2]} model.table_backend=torch"
    here = trained(prepared, tmp_path / "cpu", model, "cpu")
    theirs = weights(there)
    for name, value in weights(here).items():
        torch.testing.assert_close(theirs[name], value, atol=2e-4, rtol=1e-3)


def test_blends_and_auto_work_where_models_are_on_cuda(prepared: Path, tmp_path: Path) -> None:
    words = ("experiment=auto", "logger.wandb=off", "trainer.device=cuda")
    run = train(small_shop.composed(prepared, tmp_path / "auto", *words))
    made = export(cast(ExportConfig, compose("export", [f"run={run}", f"output_dir={run}.b"])))
    assert_same_answers(made)
