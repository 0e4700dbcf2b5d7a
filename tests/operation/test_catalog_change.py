"""A changed catalog changes the answers about its items and no other; what was is never touched."""

import json
import random
import re
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import deeprec
from deeprec import bundle, folder, versions
from deeprec.bundle import Limits
from deeprec.cli import main
from deeprec.errors import ConfigError
from deeprec.export import export
from deeprec.forms import onnx_session
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.base import Recommender
from deeprec.model.ease import Ease
from deeprec.model.ials import Ials
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.own_frequency import OwnFrequency
from deeprec.model.rbm import Rbm
from deeprec.model.sequence_encoder import SequenceEncoder
from deeprec.model.served import Served
from deeprec.operation.scripted import rewrite
from deeprec.train import train
from deeprec.verb import ExportConfig
from small_shop import make, settings
from standin import bundle_folder

NUM_ITEMS = 30
NOTHING = torch.zeros(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_folder(tmp_path_factory.mktemp("operation") / "made")


@pytest.fixture
def shop(made: Path, tmp_path: Path) -> Path:
    """A folder of one version."""
    shutil.copytree(made, tmp_path / "shop" / "1")
    return tmp_path / "shop"


def do(*words: object) -> None:
    assert main(["bundle", *map(str, words)]) == 0


def histories(number: int, num_items: int) -> list[list[str]]:
    draw = random.Random(number)
    return [
        [f"{draw.randrange(num_items):03}" for _ in range(draw.randrange(12))]
        for _ in range(number)
    ]


def test_a_retired_item_is_never_answered_and_still_read(shop: Path) -> None:
    do("retire", "003", "017", f"bundle={shop}")
    before, after = deeprec.load(shop / "1"), deeprec.load(shop / "2")
    asked = histories(10_000, NUM_ITEMS)
    was = before.recommend(asked, k=12)
    now = after.recommend(asked, k=10, batch_users=512)
    for old, new in zip(was, now, strict=True):
        left = [one for one in old.item_ids if one not in ("003", "017")][:10]
        assert new.item_ids == left
    assert after.recommend([["003"]]) != after.recommend([[]])
    assert len(after.recommend([[]], k=NUM_ITEMS)[0].item_ids) == NUM_ITEMS - 2


def test_an_added_item_is_the_mean_of_those_it_is_like(shop: Path) -> None:
    do("add", "new", "--like", "002", "like=[005,011]", f"bundle={shop}")
    after = deeprec.load(shop / "2")
    like = ["002", "005", "011"]
    (answer,) = after.recommend([["020"]], k=NUM_ITEMS + 1)
    score = dict(zip(answer.item_ids, answer.scores, strict=True))
    assert score["new"] == pytest.approx(sum(score[one] for one in like) / 3, rel=1e-5)
    # read as the mean of their rows: the stand-in says tanh of the sum of rows
    model = torch.jit.load(shop / "2" / "model.pt")
    rows = model.encoder.items.weight[torch.tensor([2, 5, 11])]
    hidden = torch.tanh(rows.mean(0))
    (read,) = after.recommend([["new"]], k=NUM_ITEMS, exclude_seen=True)
    expected = model.catalog.item_weight[20] @ hidden + model.item_bias[20]
    said = dict(zip(read.item_ids, read.scores, strict=True))["020"]
    assert said == pytest.approx(float(expected), rel=1e-5)


def test_a_renamed_item_keeps_its_index_and_its_answers(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do("rename", "003", "three", f"bundle={shop}")
    printed = capsys.readouterr().out
    assert "item '003' is now called 'three'" in printed
    assert "0 of 15 golden requests are answered differently" in printed
    before, after = deeprec.load(shop / "1"), deeprec.load(shop / "2")
    (old,), (new,) = before.recommend([["003"]], k=30), after.recommend([["three"]], k=30)
    assert [{"003": "three"}.get(one, one) for one in old.item_ids] == new.item_ids
    assert after.recommend([["003"]])[0].num_unknown == 1


def test_an_id_may_hold_what_elsewhere_ends_a_line(shop: Path) -> None:
    do("rename", "003", "line\u2028separator", f"bundle={shop}")
    do("retire", "017", f"bundle={shop}")
    do("verify", shop / "3")
    (answer,) = deeprec.load(shop / "3").recommend([["line\u2028separator"]], k=30)
    assert answer.num_unknown == 0


def test_what_maps_ids_knows_the_changed_catalog(shop: Path) -> None:
    do("rename", "003", "Pécs \0 \u2028 🍵", f"bundle={shop}")
    do("add", "new", "like=017", f"bundle={shop}")
    do("retire", "017", f"bundle={shop}")
    catalog = pq.read_table(shop / "4" / "catalog.parquet")["item_id"].to_pylist()
    ids = torch.jit.load(shop / "4" / "ids.pt")
    items, offsets, known = ids(["003", *catalog, "gone"], torch.tensor([0, 2, 2, 33]))
    assert items.tolist() == [*range(31)]
    assert offsets.tolist() == [0, 1, 1, 31]
    assert known.tolist() == [False, *[True] * 31, False]
    assert ids.of(items[None]) == [catalog]


def test_versions_count_up_and_no_index_or_id_is_used_twice(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (shop / "1" / "manifest.json").read_bytes()
    do("retire", "003", f"bundle={shop}")
    assert main(["bundle", "add", "003", "like=001", f"bundle={shop}"]) == 2
    assert "never used twice" in capsys.readouterr().err
    do("add", "more", "like=001", f"bundle={shop}")
    do("retire", "more", f"bundle={shop / '3'}")
    catalog = pq.read_table(shop / "4" / "catalog.parquet")
    assert catalog["item_index"].to_pylist() == list(range(31))
    assert catalog["item_id"].to_pylist()[30] == "more"
    assert catalog["retired_in"].to_pylist()[3::27] == [2, 4]
    assert catalog["added_in"].to_pylist()[29:] == [None, 3]
    assert (shop / "1" / "manifest.json").read_bytes() == first
    changes = json.loads((shop / "4" / "manifest.json").read_text())["changes"]
    assert [next(iter(change)) for change in changes] == ["retire", "add", "retire"]
    do("verify", shop)
    assert capsys.readouterr().out.count("are answered as expected") == 4
    do("inspect", shop)
    assert "31, 2 of them retired, 1 added" in capsys.readouterr().out


def test_a_changed_bundle_says_what_is_different(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = deeprec.load(shop / "1").recommend([[]], k=1)[0].item_ids[0]
    do("retire", best, f"bundle={shop}", f"output_dir={shop.parent / 'elsewhere'}")
    printed = capsys.readouterr().out
    assert f"item '{best}' is retired" in printed
    assert f"'nothing is known': '{best}' is not recommended any more (was at 1)" in printed
    assert versions.numbers(shop) == [1]
    do("diff", shop / "1", shop / "1")
    assert capsys.readouterr().out == "0 of 15 golden requests are answered differently\n"


def test_a_rollback_is_followed_by_changes_of_what_is_served(shop: Path) -> None:
    do("retire", "003", f"bundle={shop}")
    assert versions.current(shop) == shop / "2"
    do("rollback", shop)
    assert versions.current(shop) == shop / "1"
    do("retire", "004", f"bundle={shop}")
    assert versions.current(shop) == shop / "3"
    assert "003" in deeprec.load(shop / "3").recommend([[]], k=30)[0].item_ids
    do("rollback", shop, "to=2")
    assert versions.current(shop) == shop / "2"
    do("rollback", shop, "to=1")  # or killed before version 3 was served
    do("retire", "004", f"bundle={shop}")
    assert versions.current(shop) == shop / "3"
    do("rollback", shop, "to=1")
    do("retire", "005", f"bundle={shop}")
    assert versions.current(shop) == shop / "4"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "needs an operation"),
        (["retir", "003"], 2, "did you mean 'retire'"),
        (["retire", "x17"], 2, "bundle: missing"),
        (["retire", "031", "bundle=SHOP"], 2, "no item '031'.*did you mean"),
        (["retire", "bundle=SHOP"], 2, "expected the ids of items"),
        (["retire", "003", "bundle=SHOP", "like=004"], 2, "like: not for this"),
        (["retire", "003", "--lik", "004"], 2, "did you mean 'like'"),
        (["add", "003", "like=004", "bundle=SHOP"], 2, "already"),
        (["add", "new", "bundle=SHOP"], 2, "like: missing"),
        (["add", "new", "like=x", "bundle=SHOP"], 2, "no item 'x'"),
        (["rename", "003", "004", "bundle=SHOP"], 2, "already"),
        (["rename", "003", "", "bundle=SHOP"], 2, "at least one letter"),
        (["rename", "003", "bundle=SHOP"], 2, "the old and the new id"),
        (["rollback", "SHOP"], 2, "the first"),
        (["rollback", "SHOP", "to=7"], 2, "one of 1, got 7"),
        (["rollback", "SHOP/1"], 2, "one bundle"),
        (["verify", "nowhere"], 2, "no such folder"),
        (["inspect", "nowhere"], 2, "no such folder"),
        (["inspect", "SHOP/1/golden"], 2, "neither a bundle nor"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(
    shop: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", *(word.replace("SHOP", str(shop)) for word in words)]) == code
    assert re.search(said, capsys.readouterr().err)
    assert [path.name for path in shop.iterdir()] == ["1"]


def test_a_bundle_without_a_number_has_no_next_one(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "retire", "003", f"bundle={made}"]) == 2
    assert "move it to" in capsys.readouterr().err


def test_a_damaged_bundle_is_refused_by_every_operation(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((shop / "1" / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (shop / "1" / "model.pt").write_bytes(content)
    for words in (["verify", shop], ["retire", "003", f"bundle={shop}"], ["inspect", shop]):
        assert main(["bundle", *map(str, words)]) == 4
        assert "model.pt" in capsys.readouterr().err
    assert [path.name for path in shop.iterdir()] == ["1"]


def test_a_bundle_that_answers_otherwise_is_not_verified(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shop / "1" / "golden" / "expected.jsonl"
    lines = bundle_lines(path)
    lines[2]["scores"][0] += 1.0
    manifest = json.loads((shop / "1" / "manifest.json").read_text())
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder.seal(shop / "1", bundle.KIND, {"versions": manifest["versions"]})
    assert main(["bundle", "verify", str(shop / "1")]) == 4
    assert "golden request user 2" in capsys.readouterr().err


def bundle_lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text().splitlines()]


# model.pt of every kind of model, by another road


def new_models() -> dict[str, Recommender]:
    torch.manual_seed(0)
    own = Autoencoder(NUM_ITEMS, hidden_dims=[8], repeats=True)
    models: dict[str, Recommender] = {
        "autoencoder": own,
        "tied": Autoencoder(NUM_ITEMS, hidden_dims=[8], tied=True),
        "ease": Ease(NUM_ITEMS),
        "ials": Ials(NUM_ITEMS, width=4),
        "item_to_item": ItemToItem(NUM_ITEMS),
        "own_frequency": OwnFrequency(NUM_ITEMS),
        "rbm": Rbm(NUM_ITEMS),
        "sequence": SequenceEncoder(NUM_ITEMS, width=8, repeats=True),
    }
    with torch.no_grad():
        for model in models.values():
            assert isinstance(model, nn.Module)
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
    between = models["item_to_item"].between_items  # type: ignore[attr-defined]
    between.starts_V1 = torch.arange(NUM_ITEMS + 1) * 4
    between.neighbours_X = torch.randint(0, NUM_ITEMS, (NUM_ITEMS * 4,), dtype=torch.int32)
    between.weights_X = torch.rand(NUM_ITEMS * 4) + 3
    return models


MODELS = list(new_models())


def saved(name: str, path: Path) -> Path:
    model = new_models()[name]
    served = Served(model, fields={}, **asdict(Limits())).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(served).save(str(path))  # type: ignore[no-untyped-call]
    return path


def ask(path: Path, rows: list[list[int]], k: int, denied: list[int]) -> tuple[Tensor, Tensor]:
    model = torch.jit.load(path)  # type: ignore[no-untyped-call]
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    values = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    ends = torch.arange(len(rows) + 1) * len(denied)
    ages = torch.zeros(0)
    with torch.jit.optimized_execution(False):  # asked once or twice
        answer: tuple[Tensor, Tensor] = model(
            values, offsets, ages, [], [], k, False, torch.tensor(denied * len(rows)).long(), ends
        )
    return answer


def rows_of_items(number: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(NUM_ITEMS) for _ in range(draw.randrange(8))] for _ in range(number)]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_without_its_retired_items_answers_as_if_they_were_denied(
    name: str, tmp_path: Path
) -> None:
    before = saved(name, tmp_path / "before.pt")
    retired, rows = [0, 3, 4, 29], rows_of_items(60)
    rewrite(before, tmp_path / "once.pt", retired=retired[:1], like=[])
    rewrite(tmp_path / "once.pt", tmp_path / "after.pt", retired=retired, like=[])
    for k in (5, NUM_ITEMS):
        expected = ask(before, rows, k, retired)
        torch.testing.assert_close(ask(tmp_path / "after.pt", rows, k, []), expected)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_with_one_more_item_says_the_same_of_all_others(
    name: str, tmp_path: Path
) -> None:
    before, rows = saved(name, tmp_path / "before.pt"), rows_of_items(60)
    if name == "ials":
        pytest.skip("weighs by the number of items, so every answer changes, and goldens refuse it")
    if name == "own_frequency":
        with pytest.raises(ConfigError, match="there is no mean"):
            rewrite(before, tmp_path / "after.pt", retired=[], like=[1, 2])
        return
    rewrite(before, tmp_path / "after.pt", retired=[2], like=[1, 5, 6])
    expected = ask(before, rows, 12, [2])
    torch.testing.assert_close(ask(tmp_path / "after.pt", rows, 12, [NUM_ITEMS]), expected)
    items, scores = ask(tmp_path / "after.pt", [[8], []], NUM_ITEMS + 1, [])
    for row in range(2):
        score = dict(zip(items[row].tolist(), scores[row].tolist(), strict=True))
        if name == "item_to_item":  # its own test says what it scores
            continue
        mean = (score[1] + score[5] + score[6]) / 3
        assert score[NUM_ITEMS] == pytest.approx(mean, rel=1e-4, abs=1e-4)
    ask(tmp_path / "after.pt", [[NUM_ITEMS, 3]], 5, [])


def test_a_new_item_is_a_neighbour_as_those_it_is_like_are_on_average(tmp_path: Path) -> None:
    before, like = saved("item_to_item", tmp_path / "before.pt"), [1, 5, 6]
    rewrite(before, tmp_path / "after.pt", retired=[], like=like)
    between = new_models()["item_to_item"].between_items  # type: ignore[attr-defined]
    said_VV = torch.zeros(NUM_ITEMS, NUM_ITEMS)
    owners = torch.arange(NUM_ITEMS).repeat_interleave(between.starts_V1.diff())
    said_VV.index_put_((owners, between.neighbours_X.long()), between.weights_X, accumulate=True)
    own = said_VV.diagonal()[like].mean()[None, None]
    last_1V = torch.cat([said_VV[like].mean(0)[None], own], 1)
    said_VV = torch.cat([said_VV, said_VV[:, like].mean(1)[:, None]], 1)
    said_VV = torch.cat([said_VV, last_1V])
    row = [8, NUM_ITEMS, 21]
    items, scores = ask(tmp_path / "after.pt", [row], NUM_ITEMS + 1, [])
    found = dict(zip(items[0].tolist(), scores[0].tolist(), strict=True))
    wanted = said_VV[row].sum(0)
    for item in torch.nonzero(wanted)[:, 0].tolist():
        assert found[item] == pytest.approx(float(wanted[item]), rel=1e-5)
    assert NUM_ITEMS in torch.nonzero(wanted)


def test_a_shared_table_stays_one(tmp_path: Path) -> None:
    saved("tied", tmp_path / "before.pt")
    rewrite(tmp_path / "before.pt", tmp_path / "after.pt", retired=[], like=[1])
    more = (tmp_path / "after.pt").stat().st_size - (tmp_path / "before.pt").stat().st_size
    assert more < 8 * 4 * NUM_ITEMS / 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a run in every form, in a folder of versions."""
    place = tmp_path_factory.mktemp("exported")
    prepared = make(place / "prepared")
    run = train(settings(prepared, place / "run", "trainer.max_epochs=1"))
    export(
        ExportConfig(
            str(run),
            str(place / "shop" / "1"),
            golden_users=3,
            compare_users=5,
            onnx=True,
            triton=True,
        )
    )
    return place / "shop"


@pytest.mark.slow
def test_every_form_is_made_again_and_answers_as_the_changed_bundle(exported: Path) -> None:
    do("retire", "i03", f"bundle={exported}")
    do("add", "new", "like=[i01,i02]", f"bundle={exported}")
    before, after = (bundle.verify(exported / number)["files"] for number in ("1", "3"))
    assert set(before) == set(after)
    for name in ("model.pt", "model.pt2", "model.onnx", "weights.safetensors"):
        assert before[name]["sha256"] != after[name]["sha256"], name
    last = exported / "3"
    opened, rows = deeprec.load(last), [["i01", "new"], []]
    expected = [answer.item_ids for answer in opened.recommend(rows, k=25)]
    assert "new" in expected[1]
    assert not any("i03" in row for row in expected)
    items, offsets = torch.tensor([1, 24]), torch.tensor([0, 2, 2])
    nothing = NOTHING, torch.zeros(3, dtype=torch.int64)
    given = {"item_ids": items, "offsets": offsets, "ages": torch.full([2], -1.0)}
    seen, only = torch.tensor(opened.policy["exclude_seen"]), torch.tensor(False)
    program = torch.export.load(last / bundle.PROGRAM).module()
    values, ends = [NOTHING], [nothing[1]]
    found, _ = program(*given.values(), values, ends, 25, seen, *nothing, only, *nothing)
    assert [names(opened, row) for row in found] == expected
    given |= {
        "attribute_values_0": NOTHING,
        "attribute_offsets_0": nothing[1],
        "only_allowed": only,
    }
    given |= {"k": torch.tensor(25), "exclude_seen": seen}
    given |= dict(zip(("denied_items", "denied_offsets"), nothing))
    given |= dict(zip(("allowed_items", "allowed_offsets"), nothing))
    session = onnx_session(last / bundle.ONNX)
    in_onnx, _ = session.run(None, {name: one.numpy() for name, one in given.items()})
    assert [names(opened, row) for row in torch.from_numpy(in_onnx)] == expected
    [triton] = last.glob("triton/*/1/model.pt")
    model = torch.jit.load(triton)  # type: ignore[no-untyped-call]
    each = torch.full([2, 1], -1), seen.expand(2, 1)
    in_triton, _ = model(
        items,
        offsets,
        torch.zeros(2),
        torch.full([2, 1], 25),
        each[1],
        *nothing,
        each[0],
    )
    assert [names(opened, row) for row in in_triton] == expected


def names(opened: deeprec.serve.Bundle, row: Tensor) -> list[str]:
    return [opened.item_ids[item].as_py() for item in row[row >= 0].tolist()]
