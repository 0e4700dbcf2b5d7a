"""Data set files: the dumps that DSSTNE documents, what its files may look like, the way back."""

from pathlib import Path

import netCDF4
import numpy as np
import pytest

from deeprec.dsstne import command, train_data
from deeprec.dsstne.data_set import (
    Attribute,
    DataSet,
    DataType,
    read_data_sets,
    sparse,
    write_data_sets,
)
from deeprec.dsstne.generate import generate
from deeprec.dsstne.text import read_index
from deeprec.errors import ConfigError, DataError, ResourceError


def made(tmp_path: Path, text: str, **how: str) -> Path:
    (tmp_path / "samples.txt").write_text(text)
    generate(
        name="d",
        samples=tmp_path / "samples.txt",
        output=tmp_path / "d.nc",
        feature_index=tmp_path / "features",
        sample_index=tmp_path / "samples",
        **how,  # type: ignore[arg-type]
    )
    return tmp_path / "d.nc"


def test_indicators_are_stored_as_the_users_guide_dumps_them(tmp_path: Path) -> None:
    text = "k1\tf1:f2:f3\nk2\tf4:f2:f5\nk3\tf6:f7:f8\n"
    with netCDF4.Dataset(made(tmp_path, text, grow="create")) as file:
        assert (file.datasets, file.attributes0, file.kind0, file.dataType0) == (1, 3, 0, 0)
        assert (file.dimensions0, file.width0, file.name0) == (1, 128, "d")
        assert file["sparseStart0"][:].tolist() == [0, 3, 6]
        assert file["sparseEnd0"][:].tolist() == [3, 6, 9]
        assert file["sparseIndex0"][:].tolist() == [0, 1, 2, 3, 1, 4, 5, 6, 7]
        assert file["sparseIndex0"].dtype == file["sparseStart0"].dtype == np.uint32
        sizes = {name: len(dimension) for name, dimension in file.dimensions.items()}
        assert sizes == {"examplesDim0": 3, "uniqueExamplesDim0": 3, "sparseDataDim0": 9}
    assert sorted((tmp_path / "features").read_text().split("\n"))[1] == "f1\t0"


def test_analog_values_are_stored_as_the_users_guide_dumps_them(tmp_path: Path) -> None:
    text = "k1\tf1,123\nk2\tf2,234\nk3\tf3,345:f4,456\n"
    with netCDF4.Dataset(made(tmp_path, text, grow="create", kind="analog")) as file:
        assert (file.attributes0, file.dataType0) == (1, 4)
        assert file["sparseStart0"][:].tolist() == [0, 1, 2]
        assert file["sparseEnd0"][:].tolist() == [1, 2, 4]
        assert file["sparseIndex0"][:].tolist() == [0, 1, 2, 3]
        assert file["sparseData0"][:].tolist() == [123.0, 234.0, 345.0, 456.0]


def test_a_failed_generate_changes_no_file(tmp_path: Path) -> None:
    made(tmp_path, "k1\tf1:f2\n", grow="create")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "samples.txt"}
    (tmp_path / "samples").unlink()
    (tmp_path / "samples").mkdir()  # where the last of the three files is to go
    with pytest.raises(ConfigError, match="samples is a folder"):
        made(tmp_path, "k1\tf1:f3\n", grow="merge")
    del before[tmp_path / "samples"]
    assert all(path.read_bytes() == held for path, held in before.items())
    assert {path.name for path in tmp_path.iterdir()} == {
        *["d.nc", "features", "samples", "samples.txt"]
    }


def test_what_generate_replaces_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in DSSTNE, it is replaced; in DSSTNE, without a word."""
    made(tmp_path, "k1\tf1:f2\n", grow="create")
    assert "replaced" not in capsys.readouterr().out
    made(tmp_path, "k1\tf2\n")
    said = capsys.readouterr().out
    assert f"replaced {tmp_path}/d.nc, which was there" in said
    assert "features, which was there" not in said
    made(tmp_path, "k1\tf3\n", grow="create")
    assert f"replaced {tmp_path}/features, which was there; where" in capsys.readouterr().out


def test_a_file_is_not_two_of_them(tmp_path: Path) -> None:
    flags = ["-d", "d", "-c", "-i", "s", "-o", "o.nc", "-f", "f", "-s", "./s"]
    paths = [str(tmp_path / one) if one[0] in "sof." else one for one in flags]
    (tmp_path / "s").write_text("k1\tf1\n")
    with pytest.raises(ConfigError, match=r"-i, -o, -f and -s must be four files, got .*s twice"):
        command.run(["generate", *paths])
    assert (tmp_path / "s").read_text() == "k1\tf1\n"
    paths[4] = str(tmp_path)
    with pytest.raises(ConfigError, match=r"o\.nc lies in .*, all of which is read as samples"):
        command.run(["generate", *paths])


def test_rows_come_in_the_order_of_the_sample_index(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("b\t0\na\t1\n")
    [data_set] = read_data_sets(made(tmp_path, "c\tx\na\ty:y\nb\tz:x\n", grow="create"))
    offsets, columns, _ = data_set.rows()
    assert np.split(columns, offsets[1:-1])[0].tolist() == [2, 0]  # b
    assert np.split(columns, offsets[1:-1])[1].tolist() == [1, 1]  # a, repeats kept
    assert (tmp_path / "samples").read_text() == "b\t0\na\t1\nc\t2\n"


def test_data_sets_of_one_sample_index_stay_row_beside_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line by line they tell of other users, and one of them has no line in the second."""
    made(tmp_path, "a\tx\nb\tx:y\nc\ty\n", grow="create")
    assert "empty row" not in capsys.readouterr().out
    [second] = read_data_sets(made(tmp_path, "new\tz\nc\tv:w\na\tw\n", grow="create"))
    features = [*read_index(tmp_path / "features")]
    offsets, columns, _ = second.rows()
    rows = [[features[column] for column in row] for row in np.split(columns, offsets[1:-1])]
    assert rows == [["w"], [], ["v", "w"], ["z"]]  # of a, b, c and new
    assert "1 of 4 samples of the index have no line and got an" in capsys.readouterr().out


def test_a_sample_index_with_a_gap_has_no_rows_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("a\t0\nb\t2\n")
    with pytest.raises(DataError, match="the numbers must be 0 to 1, each once"):
        made(tmp_path, "c\tx\n", grow="create")


def test_no_samples_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"samples\.txt: holds no samples"):
        made(tmp_path, "\n\n", grow="create")


def test_a_feature_index_with_a_gap_is_read_and_not_extended(tmp_path: Path) -> None:
    """A new feature gets the number after all, which one of them would have already."""
    (tmp_path / "features").write_text("x\t0\ny\t2\n")
    [data_set] = read_data_sets(made(tmp_path, "c\ty:z\n", grow="no"))
    assert data_set.rows()[1].tolist() == [2]
    with pytest.raises(DataError, match="features: the numbers must be 0 to 1, each once"):
        made(tmp_path, "c\tz\n", grow="merge")


def test_unknown_features_are_left_out_or_extend_the_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no feature index; say -c"):
        made(tmp_path, "a\tx:y\n")
    (tmp_path / "features").write_text("y\t0\n")
    [data_set] = read_data_sets(made(tmp_path, "a\tx:y\n"))
    assert data_set.rows()[1].tolist() == [0]
    assert (tmp_path / "features").read_text() == "y\t0\n"
    [data_set] = read_data_sets(made(tmp_path, "a\tx:y\n", grow="merge"))
    assert data_set.rows()[1].tolist() == [1, 0]
    assert (tmp_path / "features").read_text() == "y\t0\nx\t1\n"


def test_the_way_there_and_back_keeps_every_kind(tmp_path: Path) -> None:
    ends = np.array([2, 2, 5])
    weighted = sparse("weighted", 256, [[1, 5], [], [200, 0, 7]], [[1, 2], [], [0.5, 3, 4]])
    weighted.attributes |= Attribute.WEIGHTED | Attribute.INDEXED
    weighted.weights = np.array([1, 2, 0.5], np.float32)
    weighted.index = np.array([2, 0, 2, 1], np.uint32)
    dense = DataSet(
        "dense", Attribute(0), DataType.UCHAR, (2, 3), values=np.arange(12, dtype=np.uint8)
    )
    one_hot = DataSet(
        "one", Attribute.BOOLEAN, DataType.UINT, (9,), values=np.array([8, 0], np.uint32)
    )
    write_data_sets(tmp_path / "all.nc", [weighted, dense, one_hot])
    found = read_data_sets(tmp_path / "all.nc")
    assert [one.name for one in found] == ["weighted", "dense", "one"]
    assert found[0].ends is not None
    assert found[0].ends.tolist() == ends.tolist()
    assert (found[0].num_examples, found[0].num_unique, found[0].width) == (4, 3, 256)
    offsets, columns, values = found[0].rows()
    assert offsets.tolist() == [0, 3, 5, 8, 8]
    assert columns.tolist() == [200, 0, 7, 1, 5, 200, 0, 7]
    assert values.tolist() == [0.5, 3, 4, 1, 2, 0.5, 3, 4]
    assert found[0].weights is not None
    assert found[0].weights.tolist() == [1, 2, 0.5]
    offsets, columns, values = found[1].rows()
    assert (found[1].num_examples, found[1].width, offsets.tolist()) == (2, 6, [0, 5, 11])
    assert values[0] == 1 / 256  # bytes are parts of 256
    assert found[2].rows()[1].tolist() == [8, 0]


def foreign(path: Path, **attributes: object) -> Path:
    """A file of the older kind: 64-bit bounds, no unique examples, the type spelt in small."""
    with netCDF4.Dataset(path, "w") as file:
        told = {"datasets": 1, "attributes0": 3, "kind0": 0, "datatype0": 0, "dimensions0": 1}
        for name, value in (told | {"width0": 128} | attributes).items():
            file.setncattr(name, np.uint32(value))
        file.name0 = "old"
        file.createDimension("examplesDim0", 2)
        file.createDimension("sparseDataDim0", 3)
        file.createVariable("sparseStart0", "u8", ("examplesDim0",))[:] = [0, 1]
        file.createVariable("sparseEnd0", "u8", ("examplesDim0",))[:] = [1, 3]
        file.createVariable("sparseIndex0", "u8", ("sparseDataDim0",))[:] = [5, 0, 127]
    return path


def test_files_of_dsstnes_own_writer_and_64_bit_bounds_are_read(tmp_path: Path) -> None:
    [data_set] = read_data_sets(foreign(tmp_path / "old.nc"))
    assert data_set.rows()[1].tolist() == [5, 0, 127]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("datatype0", 77, r"datatype0 must be one of 0 \(UINT\), .*, got"),
        ("width0", 2**31, "width0 must be 0 or more and below 2147483648, got 2147483648"),
        ("examples", 3, r"2 starts must have as many ends, got 3"),
        ("data", 3, r"3 indices must have as many values, got 2"),
        ("weights", 3, r"2 examples must have as many weights, got 3"),
        ("start", 3, "rows must lie within its 3 indices"),
    ],
)
def test_a_damaged_data_set_is_refused_by_what_is_wrong(
    tmp_path: Path, name: str, value: int, says: str
) -> None:
    path = foreign(tmp_path / "d.nc", **{name: value} if name[-1] == "0" else {})
    with netCDF4.Dataset(path, "a") as file:
        file.createDimension("two", 2)
        file.createDimension("three", 3)
        if name == "examples":
            file.renameVariable("sparseEnd0", "old")
            file.createVariable("sparseEnd0", "u4", ("three",))[:] = [1, 2, 3]
        elif name == "data":
            file.attributes0 = np.uint32(1)
            file.createVariable("sparseData0", "f4", ("two",))[:] = [1, 2]
        elif name == "weights":
            file.attributes0 = np.uint32(3 | 128)
            file.createVariable("dataWeight0", "f4", ("three",))[:] = [1, 2, 3]
        elif name == "start":
            file["sparseStart0"][:] = np.array([2**64 - 1, 1], np.uint64)
    with pytest.raises(DataError, match=says):
        read_data_sets(path)


def test_attributes_of_another_kind_are_refused(tmp_path: Path) -> None:
    for name, value in (("datasets", "abc"), ("width0", [1, 2]), ("dimensions0", "x")):
        path = foreign(tmp_path / f"{name}.nc")
        with netCDF4.Dataset(path, "a") as file:
            file.setncattr(name, value)
        with pytest.raises(DataError, match=f"{name} must be a finite number, got"):
            read_data_sets(path)


@pytest.mark.parametrize(("width", "numbers"), [(0, 4), (3, 4)])
def test_dense_rows_that_are_not_whole_are_refused(
    tmp_path: Path, width: int, numbers: int
) -> None:
    one = DataSet("one", Attribute.BOOLEAN, DataType.UINT, (width,), values=np.zeros(numbers))
    write_data_sets(tmp_path / "d.nc", [one])
    with netCDF4.Dataset(tmp_path / "d.nc", "a") as file:
        file.attributes0 = np.uint32(0)
    with pytest.raises(DataError, match=f"4 numbers are no rows of its width {width}"):
        read_data_sets(tmp_path / "d.nc")


def test_a_width_that_memory_has_no_room_for_is_refused_and_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign(tmp_path / "d.nc", width0=2**31 - 1)
    monkeypatch.setattr(train_data, "available_bytes", lambda _: 64 * 1024**3)
    with pytest.raises(ResourceError, match="'old' has width 2,147,483,647; a catalog of so many"):
        train_data.data_set_of("old", path)
    with netCDF4.Dataset(path, "a") as file:
        file.width0 = np.uint64(2**40)
    with pytest.raises(DataError, match="width0 must be 0 or more and below 2147483648"):
        train_data.data_set_of("old", path)


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column must be below its width 64, got 127"):
        read_data_sets(foreign(tmp_path / "w.nc", width0=64))[0].rows()
    with pytest.raises(DataError, match="dimensions0 must be 1, 2 or 3, got 4"):
        read_data_sets(foreign(tmp_path / "d.nc", dimensions0=4))
    with pytest.raises(DataError, match="has no variable 'sparseData0'"):
        read_data_sets(foreign(tmp_path / "v.nc", attributes0=1))
    (tmp_path / "text.nc").write_text("no NetCDF")
    with pytest.raises(DataError, match="cannot be read as NetCDF-4"):
        read_data_sets(tmp_path / "text.nc")
