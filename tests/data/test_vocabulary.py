"""Open vocabularies: every value has a row, the same one everywhere, from prepare to a bundle."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deeprec import serve
from deeprec.config import compose
from deeprec.data.attribute import hashed_column
from deeprec.data.judge import attributes_of
from deeprec.data.store import Prepared
from deeprec.data.vocabulary import Hashed, rows_of, vocabulary_of
from deeprec.errors import ConfigError
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.prepare import prepare
from deeprec.recommend import recommend
from deeprec.serve import hash_row
from deeprec.train import train
from deeprec.verb import EvaluateConfig, ExportConfig, RecommendConfig

# blake2b of the UTF-8 text, eight bytes, little-endian: what an implementation elsewhere must give
KNOWN = {"": 13020603013274838756, "Pécs": 6780874221474897655, "town 7": 1520868678635775303}


@pytest.mark.parametrize("value", KNOWN)
def test_the_hash_is_what_it_was(value: str) -> None:
    assert hash_row(value, 2**64) == KNOWN[value]
    assert hash_row(value, 1000) == KNOWN[value] % 1000


def test_every_value_has_a_row_and_null_has_none() -> None:
    values = pa.array(["a", None, "b", "a", ""])
    found = Hashed(50).indices_of(values).tolist()
    assert found == [hash_row("a", 50), -1, hash_row("b", 50), hash_row("a", 50), hash_row("", 50)]
    owned = rows_of(pa.chunked_array([values]), vocabulary_of({"hashed": 50}))
    assert owned.offsets.tolist() == [0, 1, 1, 2, 3, 4]


def test_rows_are_taken_as_evenly_as_chance_takes_them() -> None:
    rows = Hashed(1000).indices_of([f"value {n}" for n in range(3000)])
    empty = np.bincount(rows, minlength=1000) == 0
    assert empty.mean() == pytest.approx(np.exp(-3), abs=0.03)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users of 150 towns, hashed into 64 rows; trained with one table and with two."""
    path = tmp_path_factory.mktemp("vocabulary")
    draw = np.random.default_rng(0)
    users = [f"u{n:03}" for n in range(200)]
    events = pa.table(
        {
            "user": np.repeat(users, 8),
            "item": [f"i{n:02}" for n in draw.integers(0, 40, 1600)],
            "time": np.tile(np.arange(8) * 86_400 + 1_600_000_000, 200),
        }
    )
    pq.write_table(events, path / "events.parquet")
    towns = [f"town {n}" for n in draw.integers(0, 150, 200)]
    known = pa.table({"user": users, "town": [None, *towns[1:]], "age": draw.integers(20, 60, 200)})
    pq.write_table(known, path / "users.parquet")
    words = [
        "data=table",
        f"data.events={path / 'events.parquet'}",
        "data.user=user",
        "data.item=item",
        "data.time=time",
        f"data.user_attributes={{file: {path / 'users.parquet'}, key: user}}",
        "data.filters.hashed_attributes={town: 64}",
        f"output_dir={path / 'prepared'}",
    ]
    prepare(compose("prepare", words))
    for name, split in (("one", "[]"), ("two", "[town]")):
        settings = ["trainer.max_epochs=2", "optimizer.warmup_steps=1"]
        model = ["model.hidden_dims=[8]", f"model.quotient_remainder={split}"]
        folders = [f"prepared={path / 'prepared'}", f"output_dir={path / name}"]
        train(compose("train", [*folders, *settings, *model]))
        export(
            ExportConfig(
                run=str(path / name), output_dir=str(path / f"{name}-bundle"), program=False
            )
        )
    return path


def test_prepare_keeps_the_text_and_says_how_many_share_a_row(shop: Path) -> None:
    prepared = Prepared(shop / "prepared")
    assert prepared.vocabularies["town"] == {"hashed": 64}
    assert isinstance(prepared.vocabularies["age"], list)
    town = prepared.users["town"][5].as_py()
    rows = attributes_of(prepared, np.array([0, 5]))["town"]
    assert rows.values.tolist() == [hash_row(town, 64)]
    contract = json.loads((shop / "prepared" / "contract.json").read_text())
    (check,) = [one for one in contract["checks"] if one["name"] == "user attribute town"]
    assert check["level"] == "warn"  # more towns than rows
    assert "of 64 rows" in check["says"]


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_value_that_nobody_had_is_answered_like_one_of_its_row(shop: Path, name: str) -> None:
    bundle = serve.load(shop / f"{name}-bundle")
    known = Prepared(shop / "prepared").users["town"][7].as_py()
    twin = next(
        f"new {n}" for n in range(10_000) if hash_row(f"new {n}", 64) == hash_row(known, 64)
    )
    towns = [known, twin, "elsewhere", None]
    answers = bundle.recommend([["i01", "i02"]] * 4, k=40, attributes={"town": towns})
    scores = [dict(zip(one.item_ids, one.scores, strict=True)) for one in answers]
    assert scores[0] == scores[1]
    assert scores[0] != scores[3]
    assert scores[2] != scores[3]  # never seen, and yet it has an embedding


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_bundle_answers_as_its_run_is_judged_and_knows_nobodys_value(
    shop: Path, name: str
) -> None:
    prepared, bundle = str(shop / "prepared"), str(shop / f"{name}-bundle")
    settings = {"output_dir": str(shop / "report"), "bootstrap_samples": 10, "baselines": []}
    report = evaluate(EvaluateConfig(run=str(shop / name), compare=[bundle], **settings))
    ours, theirs = (
        {name: found["mean"] for name, found in system["metrics"].items()}
        for system in report["systems"]
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    recommend(RecommendConfig(bundle, prepared, str(shop / "lists.parquet"), k=10))
    assert json.loads((Path(bundle) / "vocabularies.json").read_text())["town"] == {"hashed": 64}
    assert b"town " not in content(Path(bundle))


def content(bundle: Path) -> bytes:
    """Every byte of a bundle, and of its archive and its table what they hold unpacked."""
    files = [path for path in bundle.rglob("*") if path.is_file()]
    with zipfile.ZipFile(bundle / "model.pt") as archive:
        packed = [archive.read(name) for name in archive.namelist()]
    catalog = json.dumps(pq.read_table(bundle / "catalog.parquet").to_pylist()).encode()
    return b"".join([*(path.read_bytes() for path in files), *packed, catalog])


def test_a_report_by_value_goes_into_a_bundle_without_the_values(
    shop: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(shop / "one", run)
    slices = ["user.town", "user.age"]
    report = evaluate(
        EvaluateConfig(run=str(run), bootstrap_samples=10, baselines=[], slices=slices)
    )
    bands = {one["name"]: one["bands"] for one in report["slices"]}
    assert any(band.startswith("town ") for band in bands["user.town"])  # in the house it says all
    export(ExportConfig(run=str(run), output_dir=str(tmp_path / "bundle"), program=False))
    assert b"town " not in content(tmp_path / "bundle")
    kept = json.loads((tmp_path / "bundle" / "eval.json").read_text())
    assert [len(one["bands"]) for one in kept["slices"]] == [len(bands[name]) for name in slices]
    assert kept["slices"][1] == report["slices"][1]
    assert {**kept, "slices": 0} == {**json.loads((run / "report.json").read_text()), "slices": 0}


def test_a_bundle_says_how_another_language_finds_the_row_of_a_value(shop: Path) -> None:
    bundle = shop / "one-bundle"
    for said in ((bundle / "README.md").read_text(), (bundle / "signature.json").read_text()):
        assert "BLAKE2b" in said
        assert "little-endian" in said
    assert "`town` (any text)" in (bundle / "README.md").read_text()


def test_any_text_that_json_can_bring_has_a_row(shop: Path) -> None:
    bundle = serve.load(shop / "one-bundle")
    alone = json.loads('"\\ud800"')  # half a character, which UTF-8 cannot say
    answers = bundle.recommend([["i01"]] * 2, k=3, attributes={"town": [alone, None]})
    assert answers[0].scores != answers[1].scores


def test_a_serving_process_without_deeprec_hashes_alike(shop: Path) -> None:
    serving = Path(serve.__file__).parent
    code = (
        f"import sys; sys.path.insert(0, {str(serving)!r}); import serve; "
        "print(serve.load(sys.argv[1]).vocabularies['town']['Pécs'])"
    )
    command = [sys.executable, "-I", "-c", code, str(shop / "one-bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == hash_row("Pécs", 64)


def test_what_is_not_there_cannot_be_hashed_or_divided(shop: Path, tmp_path: Path) -> None:
    words = ["data=table", f"data.events={shop / 'events.parquet'}", "data.user=user"]
    words += ["data.item=item", "data.filters.hashed_attributes={twon: 64}"]
    words += [f"data.user_attributes={{file: {shop / 'users.parquet'}, key: user}}"]
    with pytest.raises(ConfigError, match="did you mean 'town'"):
        prepare(compose("prepare", [*words, f"output_dir={tmp_path / 'no'}"]))
    with pytest.raises(ConfigError, match="1 row or more"):
        compose(
            "prepare", [*words[:-2], "data.filters.hashed_attributes={town: 0}", "output_dir=x"]
        )
    with pytest.raises(ConfigError, match="did you mean 'town'"):
        folders = [f"prepared={shop / 'prepared'}", f"output_dir={tmp_path / 'run'}"]
        train(compose("train", [*folders, "model.quotient_remainder=[twon]"]))


def test_a_name_of_their_own_for_each_user_is_warned_of_although_hashed() -> None:
    names = pa.chunked_array([[f"mail {n}" for n in range(3000)]])
    _, check = hashed_column("mail", names, 100_000)
    assert (check.level, "says who it is" in check.advice) == ("warn", True)
    towns = pa.chunked_array([[f"town {n % 1200}" for n in range(3000)]])
    assert hashed_column("town", towns, 100_000)[1].level == "ok"
