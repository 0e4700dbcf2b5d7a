"""Every form of a bundle's model answers its golden requests alike."""

import json
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

import deeprec
from deeprec import bundle, folder, forms
from deeprec.batch import Batch, Encoded, Jagged
from deeprec.bundle import Limits
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, IntegrityError
from deeprec.export import export, write
from deeprec.golden import Trained, golden_answer
from deeprec.model import compact
from deeprec.model.base import Recommender
from deeprec.model.blend import Blend
from deeprec.model.exported import Exported, to_program
from deeprec.model.hidden import Hidden
from deeprec.model.ials import Ials
from deeprec.model.in_onnx import to_onnx
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.layered import Layered
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.model.own_frequency import OwnFrequency
from deeprec.model.rank import rank
from deeprec.model.sequence_encoder import SequenceEncoder
from deeprec.model.served import Served
from deeprec.model.solved import SolvedModel
from deeprec.serve import same_answer
from deeprec.train import train
from deeprec.trainer import rebuilt
from deeprec.verb import ExportConfig
from recommender_contract import jagged
from small_shop import make, settings
from standin import FIELDS, StandIn, StandInEncoder, bundle_folder, prepared_folder, trained

MODELS = ("autoencoder", "ease")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(make(tmp_path_factory.mktemp("forms") / "prepared"))


@pytest.fixture(scope="module", params=MODELS)
def made(
    request: pytest.FixtureRequest, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle of each kind of model."""
    place = tmp_path_factory.mktemp(request.param)
    words = ["trainer.max_epochs=1"] if request.param == "autoencoder" else ["model=ease"]
    run = train(settings(prepared.path, place / "run", *words))
    with_onnx = request.param == "autoencoder"  # 8 seconds each
    return export(ExportConfig(str(run), str(place / "bundle"), onnx=with_onnx))


def test_the_weights_without_code_answer_alike(made: Path, prepared: Prepared) -> None:
    opened = deeprec.load(made)
    model = rebuilt.rebuild(made)
    again = Trained(model, {name: 1 for name in opened.fields}, prepared, {})
    requests, expected = (
        bundle.read_lines(made / name) for name in (bundle.GOLDEN_REQUESTS, bundle.GOLDEN_EXPECTED)
    )
    assert len(requests) == 50 + 11
    for request, truth in zip(requests, expected, strict=True):
        found = golden_answer(again.answering, request)
        assert same_answer(found["items"], found["scores"], truth["items"], truth["scores"])


def test_a_program_of_torch_export_is_there_and_was_asked(made: Path) -> None:
    assert (made / bundle.PROGRAM).is_file()
    signature = json.loads((made / "signature.json").read_text())
    assert signature[bundle.PROGRAM].startswith("as forward, in this order: item_ids, offsets")


def test_a_program_answers_batches_as_the_model_does_and_refuses_what_it_refuses(
    made: Path,
) -> None:
    program = torch.export.load(made / bundle.PROGRAM).module()
    opened = deeprec.load(made)
    draw = random.Random(0)
    for users in (0, 1, 2, 70):
        rows = [[draw.randrange(24) for _ in range(draw.randrange(6))] for _ in range(users)]
        items, offsets = jagged(rows)
        denied, allowed = jagged([[draw.randrange(24)] for _ in rows]), jagged([[3, 9, 11]] * users)
        yes, none = torch.tensor(True), torch.zeros(0, dtype=torch.int64)
        fields = len(opened.fields)
        given = items, offsets, torch.zeros(len(items)), [none] * fields
        ends = [torch.zeros(users + 1, dtype=torch.int64)] * fields
        found = program(*given, ends, 7, yes, *denied, yes, *allowed)
        expected = opened.rank(
            items, offsets, k=7, exclude_seen=True, denied=denied, allowed=allowed
        )
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"item_ids must lie in \[0, 24\)"):
        program(items + 24, *given[1:], ends, 7, yes, *denied, yes, *allowed)
    with pytest.raises(RuntimeError, match="offsets of item_ids must start at 0"):
        program(items[:-1], offsets, given[2][:-1], given[3], ends, 7, yes, *denied, yes, *allowed)


def test_a_program_names_no_place(made: Path) -> None:
    with zipfile.ZipFile(made / bundle.PROGRAM) as archive:
        for name in archive.namelist():
            assert str(Path(deeprec.__file__).parent).encode() not in archive.read(name), name


def solved(model: SolvedModel) -> Recommender:
    draw = random.Random(1)
    rows = jagged([[draw.randrange(24) for _ in range(draw.randrange(1, 9))] for _ in range(60)])
    users = Batch(torch.arange(60), Jagged(*rows))
    next(model.solve(users, 0, torch.Generator()))
    return model.eval()


OTHERS: dict[str, Callable[[], Recommender]] = {
    "ials": lambda: solved(Ials(24, width=4)),
    "item_to_item": lambda: solved(ItemToItem(24)),
    "own_frequency": lambda: solved(OwnFrequency(24)),
    "sequence": lambda: SequenceEncoder(
        24, width=8, num_layers=1, max_events=5, time_gaps=True
    ).eval(),
    "fading": lambda: blend_of(
        LinearAutoencoder(24, width=3),
        solved(ItemToItem(24, neighbours=23, history_weighting="decayed", fade_days=2.64)),
    ),
    "blend": lambda: blend_of(
        LinearAutoencoder(24, width=3), OTHERS["sequence"](), solved(ItemToItem(24))
    ),
}


def blend_of(*members: Recommender) -> Recommender:
    blend = Blend(24, members=members, weights=[1 / len(members)] * len(members))
    blend.join()
    return blend.eval()


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_with_rounds_that_data_decides_is_a_program_too(name: str, tmp_path: Path) -> None:
    model = OTHERS[name]()
    torch.export.save(to_program(Exported(model, fields={}).eval()), tmp_path / bundle.PROGRAM)
    program, draw = torch.export.load(tmp_path / bundle.PROGRAM).module(), random.Random(2)
    rows = [[draw.randrange(24) for _ in range(draw.randrange(9))] for _ in range(40)]
    items, offsets = jagged(rows)
    nothing = jagged([[] for _ in rows])
    for ages in (None, torch.rand(len(items)).sort(descending=True)[0] * 100):
        batch = Batch(torch.arange(40), Jagged(items, offsets), ages)
        expected = rank(model, batch, 7, exclude_seen=False)
        known, no = torch.full([len(items)], -1.0) if ages is None else ages, torch.tensor(False)
        found = program(items, offsets, known, [], [], 7, no, *nothing, no.clone(), *nothing)
        for best, scores, truth, true_scores in zip(*found, *expected):
            assert same_answer(*(x.tolist() for x in (best, scores, truth, true_scores)))


def test_layers_that_read_one_input_are_a_program_too() -> None:
    """Values of an attribute may be several, or none."""
    torch.manual_seed(0)
    layers = [
        Hidden(name="likes", units=3, sources=["user:likes"]),
        Hidden(name="both", units=4, sources=["likes", "history"]),
    ]
    model = Layered(24, fields={"age": 2, "likes": 5}, layers=layers).eval()
    program, draw = (
        to_program(Exported(model, fields=model.fields).eval()).module(),
        random.Random(2),
    )
    items, offsets = jagged(
        [[draw.randrange(24) for _ in range(draw.randrange(9))] for _ in range(40)]
    )
    known = {name: jagged([draw.sample(range(size), draw.randrange(size)) for _ in range(40)])
             for name, size in model.fields.items()}  # fmt: skip
    fields = {name: Jagged(*rows) for name, rows in known.items()}
    batch = Batch(torch.arange(40), Jagged(items, offsets), None, fields)
    expected = rank(model, batch, 7, exclude_seen=False)
    values, ends = map(list, zip(*known.values()))
    unknown, no = torch.full([len(items)], -1.0), torch.tensor(False)
    nothing = jagged([[]] * 40)
    found = program(items, offsets, unknown, values, ends, 7, no, *nothing, no.clone(), *nothing)
    for best, scores, truth, true_scores in zip(*found, *expected):
        assert same_answer(*(x.tolist() for x in (best, scores, truth, true_scores)))


def asked_onnx(path: Path, **given: object) -> tuple[np.ndarray, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path / bundle.ONNX, options)
    return session.run(None, {name: np.asarray(one) for name, one in given.items()})


def test_onnx_answers_batches_as_the_model_does_and_refuses_by_number(
    made: Path, prepared: Prepared
) -> None:
    if not (made / bundle.ONNX).exists():
        pytest.skip("written for one model")
    opened, draw = deeprec.load(made), random.Random(0)
    rules = json.loads((made / "signature.json").read_text())[bundle.ONNX]["rules"]
    for users in (0, 1, 70):
        rows = [[draw.randrange(24) for _ in range(draw.randrange(6))] for _ in range(users)]
        (items, offsets), none = jagged(rows), np.zeros(0, np.int64)
        denied, allowed = jagged([[draw.randrange(24)] for _ in rows]), jagged([[3, 9, 11]] * users)
        given = {"item_ids": items, "offsets": offsets, "ages": np.full(len(items), -1, np.float32)}
        for place in range(len(opened.fields)):
            ends = np.zeros(users + 1, np.int64)
            given |= {f"attribute_values_{place}": none, f"attribute_offsets_{place}": ends}
        given |= {"k": 7, "exclude_seen": True, "only_allowed": True}
        given |= dict(zip(("denied_items", "denied_offsets"), denied))
        given |= dict(zip(("allowed_items", "allowed_offsets"), allowed))
        found = asked_onnx(made, **given)
        expected = opened.rank(
            items, offsets, k=7, exclude_seen=True, denied=denied, allowed=allowed
        )
        assert np.array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)
    broken = {"item_ids": items - 24, "offsets": offsets + 1, "ages": given["ages"] * 2}
    for name, value in broken.items():
        with pytest.raises(Exception, match=r"idx=\d+ must be within") as caught:
            asked_onnx(made, **{**given, name: value})
        number = re.search(r"idx=(\d+)", str(caught.value))
        assert number is not None
        assert name in rules[number[1]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blend", "fading"])
def test_a_blend_of_whatever_there_is_is_in_onnx_too(name: str, tmp_path: Path) -> None:
    model, draw = OTHERS[name](), random.Random(3)
    onnx.save(to_onnx(model, {})[0], tmp_path / bundle.ONNX)
    items, offsets = jagged(
        [[draw.randrange(24) for _ in range(draw.randrange(9))] for _ in "1" * 40]
    )
    none, ends = np.zeros(0, np.int64), np.zeros(41, np.int64)
    ages = torch.rand(len(items)).sort(descending=True)[0] * 100
    given = {"item_ids": items, "offsets": offsets, "ages": ages}
    given |= {"k": 7, "exclude_seen": False, "only_allowed": False}
    given |= dict.fromkeys(("denied_items", "allowed_items"), none)
    given |= dict.fromkeys(("denied_offsets", "allowed_offsets"), ends)
    batch = Batch(torch.arange(40), Jagged(items, offsets), ages)
    expected = rank(model, batch, 7, exclude_seen=False)
    for best, scores, truth, true_scores in zip(*asked_onnx(tmp_path, **given), *expected):
        assert same_answer(*(x.tolist() for x in (best, scores, truth, true_scores)))


def test_where_scores_tie_in_onnx_the_lower_item_comes_first(made: Path, tmp_path: Path) -> None:
    if not (made / bundle.ONNX).exists():
        pytest.skip("written for one model")
    model = onnx.load(made / bundle.ONNX)
    for table in model.graph.initializer:
        if table.name in ("p_item_weight", "p_item_bias", "item_weight", "item_bias"):
            rows = np.zeros_like(numpy_helper.to_array(table))
            if rows.ndim == 1:
                rows[1::2] = 1.0
            table.CopyFrom(numpy_helper.from_array(rows, table.name))
    onnx.save(model, tmp_path / bundle.ONNX)
    none, nowhere = np.zeros(0, np.int64), np.zeros(2, np.int64)
    given = {one.name: nowhere if "offsets" in one.name else none for one in model.graph.input}
    given |= {"ages": np.zeros(0, np.float32), "k": 24, "exclude_seen": True, "only_allowed": False}
    items, _ = asked_onnx(tmp_path, **given)
    assert items[0].tolist() == [*range(1, 24, 2), *range(0, 24, 2)]


class Unfollowed(nn.Module):
    """An encoder whose way depends on what a history holds."""

    def __init__(self, encoder: StandInEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        items_N: torch.Tensor,
        offsets_B1: torch.Tensor,
        ages_N: torch.Tensor,
        attribute_values: list[torch.Tensor],
        attribute_offsets: list[torch.Tensor],
    ) -> Encoded:
        if bool((items_N == 3).any()):
            items_N = items_N.clone()
        encoded: Encoded = self.encoder(
            items_N, offsets_B1, ages_N, attribute_values, attribute_offsets
        )
        return encoded


class OneWay(StandIn):
    def serving_encoder(self) -> nn.Module:
        return Unfollowed(self.encoder)


def test_a_model_that_torch_export_cannot_follow_says_so(tmp_path: Path) -> None:
    prepared = prepared_folder(tmp_path / "prepared")
    unfollowed = replace(trained(prepared), model=OneWay(prepared.num_items, FIELDS))
    write(tmp_path / "bundle", unfollowed, golden_users=2, compare_users=2, program=True)
    signature = json.loads((tmp_path / "bundle" / "signature.json").read_text())
    assert "torch.export cannot follow OneWay" in signature[bundle.PROGRAM]
    assert not (tmp_path / "bundle" / bundle.PROGRAM).exists()
    with pytest.raises(ConfigError, match="OneWay cannot be written in ONNX"):
        write(tmp_path / "other", replace(unfollowed, onnx=True), golden_users=2, compare_users=2)
    assert not (tmp_path / "other").exists()


def test_what_triton_asks_is_written_as_often_as_wanted(tmp_path: Path) -> None:
    names = ["item_ids", "offsets", "k", "exclude_seen", "denied_items", "denied_offsets"]
    for path in (tmp_path / "one.pt", tmp_path / "two.pt"):  # a type of each has its own forward
        served = Served(StandIn(30, {}), fields={}, **asdict(Limits())).eval()
        forms.save_in_tensors(path, served, names)
        assert path.is_file()


def test_what_is_allowed_is_answered_however_low_it_stands(tmp_path: Path) -> None:
    asked = trained(prepared_folder(tmp_path / "prepared")).answering
    request = {"item_ids": ["004"], "ages": None, "attributes": {}, "exclude_seen": True}
    request |= {"denied": ["007"], "allowed": None, "k": 30}
    everything = golden_answer(asked, request)["item_ids"]
    assert len(everything) == 28
    last = everything[-3:]
    found = golden_answer(asked, {**request, "allowed": [*last, "004", "007"], "k": 3})
    assert found["item_ids"] == last


def test_other_weights_are_not_taken(made: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    content = bytearray((copied / bundle.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copied / bundle.WEIGHTS).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        rebuilt.rebuild(copied)


def test_weights_of_another_model_are_named(made: Path, tmp_path: Path) -> None:
    for name in (bundle.WEIGHTS, bundle.ARCHITECTURE):
        shutil.copy(made / name, tmp_path)
    tensors = load_file(tmp_path / bundle.WEIGHTS)
    save_file({**tensors, "more": tensors["item_bias"].clone()}, tmp_path / bundle.WEIGHTS)
    with pytest.raises(IntegrityError, match="more is only on one side"):
        rebuilt.built(tmp_path)


def test_a_model_outside_trusted_packages_is_not_built(made: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(made, tmp_path / "copy"))
    described = json.loads((copied / bundle.ARCHITECTURE).read_text())
    described["model"]["_target_"] = "os.system"
    (copied / bundle.ARCHITECTURE).write_text(json.dumps(described))
    folder.seal(copied, bundle.KIND, {})
    with pytest.raises(ConfigError, match=r"os\.system is outside"):
        rebuilt.rebuild(copied)


def test_without_weights_a_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no architecture\.json"):
        rebuilt.rebuild(bundle_folder(tmp_path / "bundle"))


PRECISIONS = [("int8", False), ("bfloat16", False), ("float32", True)]


@pytest.fixture(scope="module")
def run(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of some width, so that a row is wider than its scale."""
    place = tmp_path_factory.mktemp("precision") / "run"
    return train(settings(prepared.path, place, "model.hidden_dims=[64]", "trainer.max_epochs=2"))


@pytest.mark.parametrize(("precision", "scan"), PRECISIONS)
def test_a_narrow_table_answers_alike_and_says_what_it_costs(
    run: Path, tmp_path: Path, precision: str, scan: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ExportConfig(
        str(run), str(tmp_path / "bundle"), precision=precision, scan=scan, program=False
    )
    opened = deeprec.load(export(config))
    assert list(opened.golden()) == []
    table = opened.policy["catalog_table"]
    assert (table["precision"], table["scanned_first"]) == (precision, precision != "bfloat16")
    assert table["price"]["ndcg_after"] == pytest.approx(table["price"]["ndcg_before"], rel=0.01)
    narrower = table["before"]["table_bytes"] / table["after"]["table_bytes"]
    assert narrower == pytest.approx({"int8": 3.4, "bfloat16": 2, "float32": 0.77}[precision], 0.02)
    assert f"precision={precision}: on validation ndcg@100 0." in capsys.readouterr().out


def test_a_precision_that_costs_too_much_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarse(rows: torch.Tensor, precision: str) -> torch.Tensor:
        return -rows

    monkeypatch.setattr(compact, "rounded", coarse)
    config = ExportConfig(str(run), str(tmp_path / "bundle"), precision="int8", max_loss=0.0)
    with pytest.raises(IntegrityError, match=r"of ndcg@100 on validation, and may lose 0\.00%"):
        export(config)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_catalog_table_has_no_precision(
    prepared: Prepared, tmp_path: Path
) -> None:
    run = train(settings(prepared.path, tmp_path / "run", "model=ease"))
    with pytest.raises(ConfigError, match="has no catalog table"):
        export(ExportConfig(str(run), str(tmp_path / "bundle"), precision="int8"))


class Untyped(nn.Module):
    def forward(self, items_N, attribute_values):  # type: ignore[no-untyped-def]
        return items_N + attribute_values[0] if isinstance(attribute_values, list) else items_N.foo


def test_a_model_that_cannot_be_scripted_is_told_to_annotate_its_forward() -> None:
    with pytest.raises(IntegrityError, match=r"(?s)must be what TorchScript takes.*Annotate every"):
        forms.scripted(Untyped())
