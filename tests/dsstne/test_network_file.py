"""Network files: written as documented, read again as they were, and read where they say less."""

import re
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from deeprec.dsstne.network import (
    Activation,
    BatchNorm,
    Error,
    Layer,
    LayerFlag,
    LayerKind,
    Network,
    Weight,
)
from deeprec.dsstne.network_file import read_network, write_network
from deeprec.errors import DataError


def small() -> Network:
    draw = np.random.default_rng(1)

    def floats(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    layers = [
        Layer("Input", LayerKind.INPUT, data_set="in", extents=(128,), flags=LayerFlag.SPARSE),
        Layer(
            "Hidden",
            LayerKind.HIDDEN,
            extents=(3,),
            sources=["Input"],
            activation=Activation.LEAKY_RELU,
            flags=LayerFlag.BATCH_NORMALIZATION,
            dropout=0.25,
            slope=0.5,
            batch_norm=BatchNorm(floats(3), floats(3), floats(3), floats(3)),
        ),
        Layer("Output", LayerKind.OUTPUT, data_set="out", extents=(128,), sources=["Hidden"]),
    ]
    weights = [
        Weight("Input", "Hidden", floats(3), floats(128, 3), norm=2.0, locked=True),
        Weight("Hidden", "Output", floats(128), None, shared_with=("Input", "Hidden"),
               transposed=True),
    ]  # fmt: skip
    return Network(
        "small", layers, weights, error=Error.SCALED_MARGINAL, one_scale=30.0, denoising_p=0.2
    )


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, np.asarray(other)))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    if hasattr(one, "__dataclass_fields__"):
        return all(same(getattr(one, name), getattr(other, name)) for name in vars(one))
    return one == pytest.approx(other) if isinstance(one, float) else one == other


def test_a_network_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_network(tmp_path / "n.nc", small())
    found = read_network(tmp_path / "n.nc")
    assert same(replace(found, more={}), small())
    assert np.array_equal(found.matrix(found.weights[1]), small().weights[0].values.T)


def words(text: str) -> list[str]:
    return re.findall(r"\S+", text)


REQUIRED = words("""version name kind errorFunction maxout_k LRN_k LRN_n LRN_alpha LRN_beta
    bSparsenessPenalty sparsenessPenalty_p sparsenessPenalty_beta bDenoising denoising_p
    deltaBoost_one deltaBoost_zero SMCE_oneScale SMCE_zeroScale SMCE_oneTarget SMCE_zeroTarget
    ShuffleIndices checkpoint_name checkpoint_interval checkpoint_epochs layers weights""")
OF_LAYER = words("""name kind type dataSet Nx Ny Nz Nw dimensions kernelX kernelY kernelZ
    kernelDimensions kernelStrideX kernelStrideY kernelStrideZ kernelPaddingX kernelPaddingY
    kernelPaddingZ pDropout activation sparsenessPenalty_p sparsenessPenalty_beta RELUSlope
    ELUAlpha SELULambda attributes sources skips""")
OF_WEIGHT = words("inputLayer outputLayer width height length depth breadth bShared")


def test_the_file_holds_what_its_reader_requires(tmp_path: Path) -> None:
    write_network(tmp_path / "n.nc", small())
    required = {*REQUIRED, *(f"layer{n}_{name}" for n in range(3) for name in OF_LAYER)}
    required |= {f"weight{n}_{name}" for n in range(2) for name in OF_WEIGHT}
    with netCDF4.Dataset(tmp_path / "n.nc") as file:
        assert required <= {*file.ncattrs()}
        assert file.getncattr("layer1_source0") == "Input"
        assert (file.weight0_width, file.weight0_height) == (3, 128)
        # row-major [units of the source][units of the target]
        assert file["weight0_weights"][3 * 5 + 1] == small().weights[0].values[5, 1]
        assert "weight1_weights" not in file.variables
        assert file["layer1_scaleBN"].dimensions == ("layer1_bnDim",)


def test_widths_are_those_of_the_layers_and_missing_settings_the_defaults(tmp_path: Path) -> None:
    write_network(tmp_path / "n.nc", small())
    with netCDF4.Dataset(tmp_path / "n.nc", "a") as file:
        file.weight0_width = np.uint64(1)  # as each of several GPUs says it
        for name in ("RELUSlope", "ELUAlpha", "SELULambda", "skips", "weightInit"):
            file.delncattr(f"layer1_{name}")
        file.delncattr("decay")
    found = read_network(tmp_path / "n.nc")
    assert found.weights[0].values is not None
    assert found.weights[0].values.shape == (128, 3)
    assert (found.layers[1].slope, found.layers[1].skips) == (1.0, [])


def test_a_matrix_of_another_size_is_refused(tmp_path: Path) -> None:
    write_network(tmp_path / "n.nc", small())
    with netCDF4.Dataset(tmp_path / "n.nc", "a") as file:
        file.layer1_Nx = np.uint32(4)
    with pytest.raises(DataError, match="'Input' to 'Hidden' must be 128 x 4 numbers, got 384"):
        read_network(tmp_path / "n.nc")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("errorFunction", np.uint32(77), "errorFunction must be one of 0 (L1), 1 (L2)"),
        ("layer1_activation", np.uint32(99), "layer1_activation must be one of 0 (SIGMOID)"),
        ("layer1_kind", np.uint32(99), "layer1_kind must be one of 0 (INPUT)"),
        ("layer1_type", np.uint32(99), "layer1_type must be one of 0 (FULLY_CONNECTED)"),
        ("layer1_weightInit", np.int32(-1), "layer1_weightInit must be one of 0 (XAVIER)"),
        ("layer2_poolingfunction", np.uint32(10), "poolingfunction must be one of 0 (NONE)"),
        ("layers", "abc", "layers must be a finite number, got 'abc'"),
        ("layers", np.array([1, 2]), "layers must be a finite number, got array([1, 2])"),
        ("layers", np.float32(2.5), "layers must be a whole number, got"),
        ("layers", np.uint32(9), "has no attribute 'layer3_name'"),
        ("layers", np.uint32(0), "weight 0 is of a layer 'Input' that the file does not have"),
        ("layer0_kind", np.uint32(1), "has no layer of kind 0 (INPUT)"),
        ("denoising_p", "zz", "denoising_p must be a finite number, got 'zz'"),
        ("layer1_pDropout", np.float32(np.nan), "layer1_pDropout must be a finite number, got"),
        ("layer1_sources", "x", "layer1_sources must be a finite number, got 'x'"),
        ("layer1_name", "Input", "weight 0 is of a layer 'Hidden' that the file does not have"),
        ("layer2_source0", "Nobody", "from 'Nobody' to 'Output': the layer reads it, and"),
        ("layer0_Nx", np.uint64(2**40), "must be 1099511627776 x 3 numbers, got 384"),
        ("layer2_Nx", np.uint64(2**40), "'Output' must be (3, 1099511627776), got (3, 128)"),
        ("weights", np.uint32(0), "from 'Input' to 'Hidden': the layer reads it, and"),
        (
            "weights",
            np.uint32(1),
            "from 'Hidden' to 'Output': the layer reads it, and",
        ),
        ("weight1_sourceOutputLayer", "Output", "share those of ('Input', 'Output'), which the"),
        ("weight1_sourceInputLayer", "Hidden", "share those of ('Hidden', 'Hidden'), which the"),
        ("weight1_inputLayer", "Nobody", "weight 1 is of a layer 'Nobody'"),
        ("weight1_bTransposed", np.uint32(0), "must be (3, 128), got (128, 3), shared"),
    ],
)
def test_a_damaged_attribute_is_named_with_its_value(
    tmp_path: Path, name: str, value: object, says: str
) -> None:
    write_network(tmp_path / "n.nc", small())
    with netCDF4.Dataset(tmp_path / "n.nc", "a") as file:
        file.setncattr(name, value)
    with pytest.raises(DataError) as caught:
        read_network(tmp_path / "n.nc")
    assert f"{tmp_path / 'n.nc'}: " in str(caught.value)
    assert says in str(caught.value)


def test_weights_that_share_themselves_are_refused(tmp_path: Path) -> None:
    network = small()
    network.weights[1].shared_with = ("Hidden", "Output")
    write_network(tmp_path / "n.nc", network)
    with pytest.raises(DataError, match="from 'Hidden' to 'Output' share those of"):
        read_network(tmp_path / "n.nc")


def test_two_layers_of_one_name_are_refused(tmp_path: Path) -> None:
    network = small()
    network.layers.append(replace(network.layers[2]))
    write_network(tmp_path / "n.nc", network)
    with pytest.raises(DataError, match="names of their own, got Input, Hidden, Output, Output"):
        read_network(tmp_path / "n.nc")


@pytest.mark.parametrize("damage", ["bias", "scale", "text"])
def test_vectors_of_another_kind_or_length_are_refused(tmp_path: Path, damage: str) -> None:
    network, says = small(), "bias must be 3 numbers, got 2"
    if damage == "bias":
        network.weights[0].bias = np.zeros(2, np.float32)
    write_network(tmp_path / "n.nc", network)
    with netCDF4.Dataset(tmp_path / "n.nc", "a") as file:
        if damage == "scale":
            file.renameVariable("layer1_scaleBN", "old")
            file.createDimension("two", 2)
            file.createVariable("layer1_scaleBN", "f4", ("two",))[:] = [1, 1]
            says = "scale of layer 'Hidden' must be 3 numbers, got 2"
        elif damage == "text":
            file.renameVariable("weight0_bias", "old")
            file.createVariable("weight0_bias", str, ("weight0_biasDim",))[:] = np.array(["a"] * 3)
            says = "variable 'weight0_bias' must hold numbers"
    with pytest.raises(DataError, match=says):
        read_network(tmp_path / "n.nc")
