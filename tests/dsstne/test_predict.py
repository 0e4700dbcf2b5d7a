"""`predict`: the lines of DSSTNE, right at any k, with filters that leave out or multiply."""

from pathlib import Path

import numpy as np
import pytest

from deeprec.dsstne import command
from deeprec.dsstne.network import Activation, Error, Network
from deeprec.dsstne.network_file import write_network
from deeprec.dsstne.text import write_index
from deeprec.errors import ConfigError, DataError
from numpy_network import drawn, forward

FEATURES = {f"f{i}": i for i in range(200)}  # of 256 columns
OUTPUTS = {f"f{199 - i}": i for i in range(200)}
SAMPLES = "b\tf3,1112486027:f0:nobody:f5\na\tf9\nnone\tnobody\n"
COLUMNS = [[3, 0, 5], [9], []]


@pytest.fixture
def network(tmp_path: Path) -> Network:
    network = drawn((256, 256))
    write_network(tmp_path / "gl.nc", network)
    write_index(tmp_path / "in", FEATURES)
    write_index(tmp_path / "out", OUTPUTS)
    (tmp_path / "samples").write_text(SAMPLES)
    return network


def lists(tmp_path: Path, *flags: str, filters: str | None = None) -> dict[str, list[list[str]]]:
    given = {"d": "d", "i": tmp_path / "in", "o": tmp_path / "out", "n": tmp_path / "gl.nc",
             "r": tmp_path / "samples", "s": tmp_path / "recs"}  # fmt: skip
    if filters is not None:
        (tmp_path / "filter").write_text(filters)
        given["f"] = tmp_path / "filter"
    words = [word for name, value in given.items() for word in (f"-{name}", str(value))]
    assert command.run(["predict", *words, *flags]) == 0
    found = {}
    for line in (tmp_path / "recs").read_text().splitlines():
        sample, _, told = line.partition("\t")
        assert told == "" or told.endswith(":")
        found[sample] = [one.split(",") for one in told.split(":")[:-1]]
    return found


def expected(scores: np.ndarray, k: int) -> list[str]:
    labels = sorted(OUTPUTS, key=OUTPUTS.__getitem__)
    return [labels[i] for i in np.argsort(-scores[: len(labels)], kind="stable")[:k]]


@pytest.mark.parametrize("k", [1, 30, 200, 500])
def test_lists_are_right_at_any_k(tmp_path: Path, network: Network, k: int) -> None:
    found = lists(tmp_path, "-k", str(k), "-b", "2", "-p", "10.8f")
    assert list(found) == ["b", "a", "none"]
    for row, scores in zip(found.values(), forward(network, COLUMNS)):
        assert len(row) == min(k, 200)  # padding columns have no label
        assert [feature for feature, _ in row] == expected(scores, k)
        told = [float(score) for _, score in row]
        np.testing.assert_allclose(told, np.sort(scores[:200])[::-1][:k], atol=1e-5)


def test_columns_that_the_output_index_does_not_name_are_not_listed(
    tmp_path: Path, network: Network
) -> None:
    every = [feature for feature, _ in lists(tmp_path, "-k", "200")["b"]]
    gone = {every[0], every[5], "f199"}  # the last is that of column 0
    left = {label: column for label, column in OUTPUTS.items() if label not in gone}
    write_index(tmp_path / "out", left)
    found = [feature for feature, _ in lists(tmp_path, "-k", "200")["b"]]
    assert found == [feature for feature in every if feature not in gone]


@pytest.mark.parametrize(("name", "layer"), [("in", "Items"), ("out", "Output")])
def test_an_index_of_more_columns_than_the_network_is_refused(
    tmp_path: Path, network: Network, name: str, layer: str
) -> None:
    write_index(tmp_path / name, {f"f{i}": i for i in range(256)})
    lists(tmp_path)
    write_index(tmp_path / name, {f"f{i}": i for i in range(257)})
    data_set = network.layer(layer).data_set
    said = f"/{name} names column 256, and the network has 256 columns of '{data_set}'; give the"
    with pytest.raises(DataError, match=said):
        lists(tmp_path)


def test_scores_have_the_format_of_dsstne(tmp_path: Path, network: Network) -> None:
    [feature, score] = lists(tmp_path)["b"][0]
    assert feature in OUTPUTS
    assert len(score) == 5
    assert len(lists(tmp_path)["b"]) == 100
    with pytest.raises(ConfigError, match=r"-p must be a format such as 4\.3f, got 'x'"):
        lists(tmp_path, "-p", "x")
    for wide in ("999999999999f", "4.1000f"):
        with pytest.raises(ConfigError, match=f"999 places or fewer, got '{wide}'"):
            lists(tmp_path, "-p", wide)
    with pytest.raises(ConfigError, match="-k must be 1 or more, got 0"):
        lists(tmp_path, "-k", "0")


def test_softmax_scores_are_chances_of_the_labelled_features(tmp_path: Path) -> None:
    network = drawn((256, 256))
    network.layer("Output").activation = Activation.SOFT_MAX
    network.error = Error.CROSS_ENTROPY
    write_network(tmp_path / "gl.nc", network)
    write_index(tmp_path / "in", FEATURES)
    write_index(tmp_path / "out", OUTPUTS)
    (tmp_path / "samples").write_text(SAMPLES)
    found = lists(tmp_path, "-k", "200", "-p", "12.10f")
    scores = forward(network, COLUMNS)[:, :200]
    scores /= scores.sum(1, keepdims=True)
    for row, wanted in zip(found.values(), scores):
        np.testing.assert_allclose([float(s) for _, s in row], np.sort(wanted)[::-1], atol=1e-6)


def test_a_filter_leaves_out_what_it_names_whatever_stands_beside_it(
    tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    best = [feature for feature, _ in lists(tmp_path, "-k", "3")["b"]]
    text = f"b\t{best[0]},1112486027:{best[2]}:nobody\nelse\tf1\n"
    left = [feature for feature, _ in lists(tmp_path, "-k", "199", filters=text)["b"]]
    assert left[0] == best[1]
    assert len(left) == 198
    assert not {best[0], best[2]} & {*left}
    assert "are not read" not in capsys.readouterr().out
    lists(tmp_path, filters=f"b\t{best[0]},0.5\n")
    assert "values of the filter are not read" in " ".join(capsys.readouterr().out.split())


def test_features_that_the_index_does_not_have_are_counted(
    tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "samples").write_text("b\tf3:gone:other:f5\na\tgone,1:f9\n")
    lists(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "3 of 6 features of the samples, 2 different ones such as 'gone', are not in" in said
    (tmp_path / "samples").write_text("b\tf3\n")
    lists(tmp_path)
    assert "features of the samples" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({str(i): i for i in range(256)}, "gives each of the 256 columns its own number"),
        ({str(i): i for i in range(200)}, ""),  # items may be called so
        ({f"f{i}": i for i in range(128)}, "names columns up to 127 of 256, and a data set so"),
        ({f"f{i}": i for i in range(129)}, ""),
    ],
)
def test_an_index_that_looks_like_another_is_told(
    tmp_path: Path,
    network: Network,
    capsys: pytest.CaptureFixture[str],
    index: dict[str, int],
    said: str,
) -> None:
    write_index(tmp_path / "in", index)
    lists(tmp_path)
    found = [line for line in capsys.readouterr().out.splitlines() if f"{tmp_path}/in" in line]
    assert len(found) == bool(said)
    assert all(f"note {tmp_path}/in {said}" in line for line in found)
    write_index(tmp_path / "in", {})
    with pytest.raises(DataError, match="/in: names no column"):
        lists(tmp_path)


@pytest.mark.parametrize("flag", ["-f", "-r"])
def test_an_index_file_is_no_samples(tmp_path: Path, network: Network, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag} must be text samples, .* and .*/out reads as"):
        lists(tmp_path, flag, str(tmp_path / "out"))
    (tmp_path / "few").write_text("a\t1\nb\t0,0\n")  # a value, and it is no index
    lists(tmp_path, flag, str(tmp_path / "few"))


@pytest.mark.parametrize("read", ["gl.nc", "in", "out", "samples"])
def test_lists_do_not_replace_what_is_read(tmp_path: Path, network: Network, read: str) -> None:
    lists(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=r"-s must be a file of its own, .* is read"):
        lists(tmp_path, "-s", str(tmp_path / read))
    assert {path: path.read_bytes() for path in before} == before


def test_a_filter_multiplies_where_that_is_asked_for(
    tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = forward(network, COLUMNS)[0]
    labels = sorted(OUTPUTS, key=OUTPUTS.__getitem__)
    scores[7] *= 3.0
    scores[11] *= 0.0
    text = f"b\t{labels[7]},3:{labels[11]}\n"
    found = lists(tmp_path, "--filter-mode", "multiply", "-k", "200", "-p", "9.7f", filters=text)
    assert [feature for feature, _ in found["b"]] == expected(scores, 200)
    assert "look like timestamps" not in capsys.readouterr().out
    lists(tmp_path, "--filter-mode", "multiply", filters=f"b\t{labels[7]},1112486027\n")
    assert "look like timestamps" in " ".join(capsys.readouterr().out.split())
