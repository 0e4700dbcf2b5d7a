"""The sequence encoder against PyTorch's own transformer, against itself, and on the whole road."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import standin
from deeprec import config
from deeprec.batch import Batch, Jagged
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.loss.asymmetric import Asymmetric
from deeprec.loss.hinge import Hinge
from deeprec.loss.marginal import Marginal
from deeprec.loss.sampled_binary import SampledBinary
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.loss.squared import Squared
from deeprec.model.sequence_encoder import Asks, SequenceEncoder
from deeprec.model.transformer import Transformer
from deeprec.model.window import newest
from deeprec.prepare import prepare
from deeprec.train import train
from deeprec.trainer.learner import Progress
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Adam
from deeprec.verb import EvaluateConfig, ExportConfig, PrepareConfig, TrainConfig
from recommender_contract import NUM_ITEMS, RecommenderContract, scores

NONE = torch.zeros(0)


class TestSequenceEncoder(RecommenderContract):
    def new_model(self) -> SequenceEncoder:
        return SequenceEncoder(NUM_ITEMS, width=8, max_events=4, num_heads=2)


class TestUntiedSequenceEncoder(RecommenderContract):
    def new_model(self) -> SequenceEncoder:
        return SequenceEncoder(
            NUM_ITEMS, width=6, max_events=50, num_layers=1, num_heads=1, tied=False
        )


class TestSequenceEncoderWithRepeats(RecommenderContract):
    def new_model(self) -> SequenceEncoder:
        popularity = torch.arange(NUM_ITEMS)
        return SequenceEncoder(NUM_ITEMS, popularity=popularity, repeats=True, width=8)


def noisy(module: nn.Module) -> None:
    """Parameters are noise, so that a part that starts at zero hides nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)


def new_model(*, asks: Asks = "instant", repeats: bool = True, **more: Any) -> SequenceEncoder:
    torch.manual_seed(0)
    settings = {"width": 8, "max_events": 6, "num_heads": 2, "dropout": 0.0, **more}
    model = SequenceEncoder(NUM_ITEMS, asks=asks, repeats=repeats, **settings)
    noisy(model)
    return model


def shown(*lengths: int) -> Batch:
    """Users with so many events, of days on some of which there are several."""
    draw = torch.Generator().manual_seed(3)
    num = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    days = [torch.randint(20, (n,), generator=draw).sort(descending=True).values for n in lengths]
    items = torch.randint(NUM_ITEMS, (num,), generator=draw)
    ages = torch.cat(days).float()
    return Batch(torch.arange(len(lengths)), Jagged(items, offsets), ages)


def test_blocks_are_those_of_pytorch_with_a_bias_of_distance() -> None:
    torch.manual_seed(0)
    width, heads, length = 12, 3, 7
    ours = Transformer(width, max_events=9, num_layers=2, num_heads=heads, dropout=0.0)
    noisy(ours)
    for block, theirs in zip(ours.blocks, layers := _theirs(width, heads, 2), strict=True):
        _copy(block, theirs)
    rows = torch.randn(2, length, width)
    truth = rows
    for block, theirs in zip(ours.blocks, layers, strict=True):
        truth = theirs(truth, src_mask=_mask(block, length).repeat(2, 1, 1))
    truth = functional.layer_norm(truth, [width], ours.norm.weight, ours.norm.bias)
    windows = newest(torch.tensor([0, length]), torch.tensor([length, 2 * length]), 9)
    found = ours(rows.flatten(0, 1), windows)
    torch.testing.assert_close(found.view_as(truth), truth, atol=1e-5, rtol=0)


def _theirs(width: int, heads: int, count: int) -> list[nn.TransformerEncoderLayer]:
    return [
        nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        for _ in range(count)
    ]


def _copy(block: nn.Module, layer: nn.TransformerEncoderLayer) -> None:
    state = block.state_dict()
    names = {
        "self_attn.in_proj_weight": "attention.asked.weight",
        "self_attn.in_proj_bias": "attention.asked.bias",
        "self_attn.out_proj.weight": "attention.said.weight",
        "self_attn.out_proj.bias": "attention.said.bias",
        "norm1.weight": "attention.norm.weight",
        "norm1.bias": "attention.norm.bias",
        "norm2.weight": "layers.0.weight",
        "norm2.bias": "layers.0.bias",
        "linear1.weight": "layers.1.weight",
        "linear1.bias": "layers.1.bias",
        "linear2.weight": "layers.3.weight",
        "linear2.bias": "layers.3.bias",
    }
    layer.load_state_dict({theirs: state[own] for theirs, own in names.items()})


def _mask(block: Any, length: int) -> Tensor:
    """Float32 [H, L, L], entry by entry."""
    bias = block.attention.bias_LH.detach()
    mask = torch.full((bias.shape[1], length, length), float("-inf"))
    for query in range(length):
        for key in range(query + 1):
            mask[:, query, key] = bias[query - key]
    return mask


def said_of(model: SequenceEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """What a training step says of its positions, and which these are."""
    arranged = model.arrange(batch, torch.Generator())
    [task] = model.tasks(arranged)
    return task.encoded.hidden_BD.detach(), arranged.asked_P


@pytest.mark.parametrize("asks", ["event", "instant"])
def test_a_later_item_never_changes_what_is_said_before_it(asks: Asks) -> None:
    model, batch = new_model(asks=asks, max_events=50), shown(12)
    before, asked = said_of(model, batch)
    for place in range(12):
        items = batch.history.values.clone()
        items[place] = (items[place] + 1) % NUM_ITEMS
        changed = Batch(batch.user_rows, Jagged(items, batch.history.offsets), batch.ages)
        after, _ = said_of(model, changed)
        unchanged = asked <= place  # 1 + place of the last event that a position has seen
        torch.testing.assert_close(after[unchanged], before[unchanged], atol=0, rtol=0)
        assert (after[~unchanged] != before[~unchanged]).any(1).all()


@pytest.mark.parametrize("asks", ["event", "instant"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_trained_in_the_middle_of_a_history_is_what_is_served_at_its_end(
    asks: Asks, tied: bool
) -> None:
    model, batch = new_model(asks=asks, max_events=50, tied=tied), shown(9, 0, 1, 5)
    assert batch.ages is not None
    arranged = model.arrange(batch, torch.Generator())
    [task] = model.tasks(arranged)
    trained = scores(model, task.encoded)
    assert (arranged.asked_P > 0).sum() > 5
    for said, position in zip(trained, arranged.asked_P.tolist(), strict=True):
        events = torch.zeros(0, dtype=torch.int64)
        ages = NONE
        if position:
            user = arranged.windows.users_W[position - 1]
            last = arranged.windows.events_W[position - 1]
            events = torch.arange(int(batch.history.offsets[user]), int(last) + 1)
            ages = batch.ages[events] - batch.ages[last + 1]
        alone = torch.tensor([0, len(events)])
        served = model.eval().encode(batch.history.values[events], alone, ages, {})
        assert len(served.repeat_items_M) == len(batch.history.values[events].unique())
        torch.testing.assert_close(said, scores(model, served)[0], atol=1e-5, rtol=0)


def test_loss_and_gradient_are_those_of_each_event_from_the_events_before_it() -> None:
    """Against one history after the other, prefix by prefix, and PyTorch's cross entropy."""
    model, batch = new_model(asks="event", max_events=50), shown(7, 3)
    batch.ages = None
    [task] = model.tasks(model.arrange(batch, torch.Generator()))
    loss = Softmax(block_items=7)(*task[1:])
    costs = []
    for start, end in ((0, 7), (7, 10)):
        for event in range(start, end):
            items = batch.history.values[start:event]
            encoded = model.encode(items, torch.tensor([0, len(items)]), NONE, {})
            products = encoded.hidden_BD[0] @ model.item_weight.T + model.item_bias
            own = encoded.repeat_items_M, encoded.repeat_scores_M
            all_scores = products.index_put((own[0],), own[1])
            costs.append(functional.cross_entropy(all_scores, batch.history.values[event]))
    truth = torch.stack(costs).mean()
    torch.testing.assert_close(loss, truth, atol=1e-5, rtol=0)
    weights = list(model.parameters())
    expected, found = torch.autograd.grad(truth, weights), torch.autograd.grad(loss, weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.to_dense(), other.to_dense(), atol=1e-5, rtol=0)


def test_only_the_newest_events_are_read() -> None:
    model, batch = new_model(max_events=4).eval(), shown(9)
    assert batch.ages is not None
    whole = model.encode(batch.history.values, batch.history.offsets, batch.ages, {})
    newest_four = batch.history.values[5:], torch.tensor([0, 4]), batch.ages[5:]
    torch.testing.assert_close(
        whole.hidden_BD, model.encode(*newest_four, {}).hidden_BD, atol=1e-6, rtol=0
    )
    three = batch.history.values[6:], torch.tensor([0, 3]), batch.ages[6:]
    assert not torch.allclose(whole.hidden_BD, model.encode(*three, {}).hidden_BD, atol=1e-3)


LOSSES = {
    "softmax": Softmax(),
    "sampled_softmax": SampledSoftmax(NUM_ITEMS, negatives=8),
    "own targets": SampledSoftmax(NUM_ITEMS, negatives=8, shared_targets=False),
    "gBCE": SampledBinary(NUM_ITEMS, negatives=8, calibration=0.75),
    "marginal": Marginal(),
    "hinge": Hinge(),
    "asymmetric": Asymmetric(),
    "squared": Squared(NUM_ITEMS),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_catalog_loss_teaches_it(loss: str, tied: bool) -> None:
    """The item after each is the next number, which it must score above all others."""
    torch.manual_seed(0)
    model = SequenceEncoder(
        NUM_ITEMS,
        popularity=torch.ones(NUM_ITEMS),
        log_odds=getattr(LOSSES[loss], "log_odds", True),
        width=16,
        num_layers=1,
        dropout=0.0,
        tied=tied,
        repeats=True,
        repeat_scores=False,
    )
    training = Training(
        model,
        LOSSES[loss],
        Adam(lr=0.02, betas=(0.9, 0.99)),
        seed=0,
        total_steps=10**9,
        progress=Progress(),
    )
    training.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    rounds = torch.arange(40).repeat(4) + torch.arange(4).repeat_interleave(40) * 7
    batch = Batch(torch.arange(4), Jagged(rounds % NUM_ITEMS, torch.arange(5) * 40), torch.zeros(0))
    for step in range(50):
        training.training_step(training.arrange(batch, torch.Generator().manual_seed(step)), 0)
    everything = torch.arange(NUM_ITEMS), torch.arange(NUM_ITEMS + 1)
    encoded = model.eval().encode(*everything, NONE, {})
    best = (encoded.hidden_BD @ model.item_weight.T + model.item_bias).argmax(1)
    right = (best == (torch.arange(NUM_ITEMS) + 1) % NUM_ITEMS).float().mean()
    assert right > 0.6  # by chance: 0.03


@pytest.mark.parametrize("repeat_scores", [True, False])
def test_what_the_plan_says_is_kept_is_what_is_kept(repeat_scores: bool) -> None:
    """Counted where autograd keeps it."""
    users, length = 30, 60
    more = {"width": 32, "max_events": length, "dropout": 0.1, "repeat_scores": repeat_scores}
    model = new_model(tied=False, **more).train()
    batch = shown(*[length + 1] * users)
    batch.ages = None
    arranged = model.arrange(batch, torch.Generator())
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tasks = model.tasks(arranged)
    planned = users * model.per_user(np.full(users, length)).floats * 4
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    assert 0.5 * planned < sum(kept.values()) - weights < 1.2 * planned
    assert len(tasks[0].encoded.hidden_BD) <= users * model.per_user(np.full(users, 61)).hidden


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"max_events": 0}, "max_events must be 1 or more, got 0"),
        ({"num_layers": 0}, "num_layers must be 1 or more, got 0"),
        ({"width": 10, "num_heads": 4}, "width must be a multiple of num_heads=4, got 10"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"asks": "day"}, "asks must be 'event' or 'instant', got 'day'"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceEncoder(3, **arguments)


KINDS, EVENTS, USERS = 20, 20, 400


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Histories in which each item follows from the two before it, but for a tenth of them."""
    path = tmp_path_factory.mktemp("sequence")
    draw = np.random.default_rng(0)
    follows = draw.integers(0, KINDS, (KINDS, KINDS))
    with (path / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "time"])
        for user in range(USERS):
            items = draw.integers(0, KINDS, 2).tolist()
            while len(items) < EVENTS:
                follower = int(follows[items[-2], items[-1]])
                known = draw.random() > 0.1 or len(items) >= EVENTS - 2
                items.append(follower if known else int(draw.integers(KINDS)))
            rows.writerows((f"u{user}", f"i{item}", 60 * at) for at, item in enumerate(items))
    words = [
        "data=table",
        f"data.events={path / 'events.csv'}",
        "data.time=time",
        "data.repeats=true",
        "split=leave_last_out",
        f"output_dir={path / 'prepared'}",
    ]
    found = config.compose("prepare", words)
    assert isinstance(found, PrepareConfig)
    return prepare(found)


def hit_at_1(prepared: Path, run: Path, *words: str) -> tuple[float, dict[str, Any]]:
    told = [f"prepared={prepared}", f"output_dir={run}", "logger.wandb=off", *words]
    found = config.compose("train", told)
    assert isinstance(found, TrainConfig)
    judged = evaluate(EvaluateConfig(run=str(train(found)), cutoffs=[1], baselines=[]))
    return judged["systems"][0]["metrics"]["hit@1"]["mean"], judged


@pytest.mark.slow
def test_it_knows_what_only_order_tells_and_exports_what_was_evaluated(
    prepared: Path, tmp_path: Path
) -> None:
    small = (
        "model.width=32",
        "model.max_events=20",
        "model.repeat_scores=false",
        "trainer.batch_users=64",
    )
    found, evaluated = hit_at_1(
        prepared,
        tmp_path / "run",
        "experiment=sequence",
        *small,
        "trainer.max_epochs=25",
        "optimizer.lr=0.01",
    )
    assert found > 0.8
    bag, _ = hit_at_1(
        prepared, tmp_path / "bag", "target=next_item", "trainer.max_epochs=15", "optimizer.lr=0.01"
    )
    assert bag < 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        bundle = export(
            ExportConfig(
                run=str(tmp_path / "run"), output_dir=str(tmp_path / "bundle"), program=False
            )
        )
    assert json.loads((bundle / "manifest.json").read_text())["kind"] == "bundle"
    judged = EvaluateConfig(
        bundle=str(bundle),
        prepared=str(prepared),
        output_dir=str(tmp_path / "report"),
        cutoffs=[1],
        baselines=[],
    )
    assert standin.of_lists(evaluate(judged)) == standin.of_lists(evaluated)


def test_events_of_long_ago_are_told_apart_by_their_seconds() -> None:
    """60 events, seven seconds apart, eight years ago: as float32 days many of them are equal."""
    times = torch.arange(60) * 7
    ages = (3000.0 - times / 86_400).float()
    assert len(ages.unique()) < 30
    history = Jagged(torch.arange(60), torch.tensor([0, 60]))
    batch = Batch(torch.tensor([0]), history, ages, target=history, times=times)
    model = SequenceEncoder(60, width=8, max_events=100, num_heads=2)
    [asked] = model.arrange(batch, torch.Generator()).asked
    assert asked.target.values.tolist() == [*range(60)]
    assert asked.target.offsets.tolist() == [*range(61)]
