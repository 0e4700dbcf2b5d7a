"""Networks in NetCDF-4: what `train` writes and `predict` reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprec.dsstne.direct import bridge
from deeprec.dsstne.netcdf import Attributes, column, put, reading, writing
from deeprec.dsstne.network import (
    Activation,
    BatchNorm,
    Error,
    Floats,
    Init,
    Layer,
    LayerFlag,
    LayerKind,
    LayerType,
    Network,
    Pooling,
    Weight,
)
from deeprec.dsstne.network_check import check_network
from deeprec.errors import DataError

if TYPE_CHECKING:
    from netCDF4 import Dataset

EXTENTS = ("Nx", "Ny", "Nz", "Nw")
BATCH_NORM = ("scaleBN", "biasBN", "runningMeanBN", "runningVarianceBN")
KERNEL = ("kernelX", "kernelY", "kernelZ", "kernelDimensions", "kernelStrideX", "kernelStrideY",
          "kernelStrideZ", "kernelPaddingX", "kernelPaddingY", "kernelPaddingZ")  # fmt: skip
KEPT: dict[str, Any] = {  # what a file must have and a recommender has no use for
    "maxout_k": np.int32(2),
    "LRN_k": np.float32(2),
    "LRN_n": np.int32(5),
    "LRN_alpha": np.float32(1e-4),
    "LRN_beta": np.float32(0.75),
    "checkpoint_name": "",
    "checkpoint_interval": np.int32(0),
    "checkpoint_epochs": np.int32(0),
}


def read_network(path: Path) -> Network:
    """Settings, layers and weights of a network file.

    Settings that older files lack get DSSTNE's defaults. Widths are those of the layers: a file
    that several GPUs wrote says other ones beside its weights.

    Raises:
        ConfigError: netCDF4 is not installed.
        DataError: it is no such file, or a matrix is not of the size of its layers.
    """
    with reading(path) as (file, told):
        network = Network(
            name=told.text("name"),
            layers=[_layer(file, told, path, n) for n in range(told.whole("layers"))],
            version=told.real("version", 0.0),
            kind=told.whole("kind", 0),
            error=told.one_of(Error, "errorFunction"),
            sparseness=(
                told.real("sparsenessPenalty_p", 0),
                told.real("sparsenessPenalty_beta", 0),
            ),
            denoising_p=told.real("denoising_p", 0),
            boost=(told.real("deltaBoost_one", 1), told.real("deltaBoost_zero", 1)),
            one_target=told.real("SMCE_oneTarget", 0.9),
            zero_target=told.real("SMCE_zeroTarget", 0.1),
            one_scale=told.real("SMCE_oneScale", 1),
            zero_scale=told.real("SMCE_zeroScale", 1),
            shuffle=bool(told.whole("ShuffleIndices", 1)),
            decay=told.real("decay", 0),
            more={name: told.values[name] for name in KEPT if name in told},
        )
        for n in range(told.whole("weights")):
            network.weights.append(_weight(file, told, path, n, network))
    check_network(network, path)
    bridge(network)
    return network


def write_network(path: Path, network: Network) -> None:
    """Writes a file that DSSTNE reads."""
    p, beta = network.sparseness
    with writing(path) as file:
        told: dict[str, Any] = {
            "version": np.float32(network.version),
            "name": network.name,
            "kind": np.uint32(network.kind),
            "errorFunction": np.uint32(network.error),
            "decay": np.float32(network.decay),
            **(KEPT | network.more),
            "bSparsenessPenalty": np.uint32(beta > 0),
            "sparsenessPenalty_p": np.float32(p),
            "sparsenessPenalty_beta": np.float32(beta),
            "bDenoising": np.uint32(network.denoising_p > 0),
            "denoising_p": np.float32(network.denoising_p),
            "deltaBoost_one": np.float32(network.boost[0]),
            "deltaBoost_zero": np.float32(network.boost[1]),
            "SMCE_oneScale": np.float32(network.one_scale),
            "SMCE_zeroScale": np.float32(network.zero_scale),
            "SMCE_oneTarget": np.float32(network.one_target),
            "SMCE_zeroTarget": np.float32(network.zero_target),
            "ShuffleIndices": np.uint32(network.shuffle),
            "layers": np.uint32(len(network.layers)),
            "weights": np.uint32(len(network.weights)),
        }
        _tell(file, told)
        for n, layer in enumerate(network.layers):
            _write_layer(file, layer, n)
        for n, weight in enumerate(network.weights):
            _write_weight(file, weight, n, network)


def _layer(file: "Dataset", told: Attributes, path: Path, n: int) -> Layer:
    at = f"layer{n}_"
    dimensions = told.whole(f"{at}dimensions", 1)
    flags = LayerFlag(told.whole(f"{at}attributes", 0))
    batch_norm = None
    if LayerFlag.BATCH_NORMALIZATION in flags and f"{at}scaleBN" in file.variables:
        batch_norm = BatchNorm(*(_floats(file, path, f"{at}{name}") for name in BATCH_NORM))
    return Layer(
        name=told.text(f"{at}name"),
        kind=told.one_of(LayerKind, f"{at}kind"),
        type=told.one_of(LayerType, f"{at}type", 0),
        pooling=told.one_of(Pooling, f"{at}poolingfunction", 0),
        data_set=str(told.values.get(f"{at}dataSet", "")),
        extents=tuple(told.whole(f"{at}{name}", 1) for name in EXTENTS[: max(1, dimensions)]),
        sources=[told.text(f"{at}source{j}") for j in range(told.whole(f"{at}sources", 0))],
        skips=[told.text(f"{at}skip{j}") for j in range(told.whole(f"{at}skips", 0))],
        activation=told.one_of(Activation, f"{at}activation", 0),
        flags=flags,
        dropout=told.real(f"{at}pDropout", 0),
        init=told.one_of(Init, f"{at}weightInit", 0),
        init_scale=told.real(f"{at}weightInitScale", 1),
        bias_init=told.real(f"{at}biasInit", 0),
        weight_norm=told.real(f"{at}weightNorm", 0),
        delta_norm=told.real(f"{at}deltaNorm", 0),
        sparseness_p=told.real(f"{at}sparsenessPenalty_p", 0),
        sparseness_beta=told.real(f"{at}sparsenessPenalty_beta", 0),
        slope=told.real(f"{at}RELUSlope", 1),
        alpha=told.real(f"{at}ELUAlpha", 1),
        scale=told.real(f"{at}SELULambda", 1.050701),
        batch_norm=batch_norm,
    )


def _weight(file: "Dataset", told: Attributes, path: Path, n: int, network: Network) -> Weight:
    at = f"weight{n}_"
    source, target = told.text(f"{at}inputLayer"), told.text(f"{at}outputLayer")
    known = {layer.name: layer for layer in network.layers}
    for name in (source, target):
        if name not in known:
            raise DataError(
                f"{path}: weight {n} is of a layer {name!r} that the file does not have"
            )
    shared = bool(told.whole(f"{at}bShared", 0))
    weight = Weight(
        source=source,
        target=target,
        bias=_floats(file, path, f"{at}bias"),
        values=None,
        norm=told.real(f"{at}norm", 0),
        locked=bool(told.whole(f"{at}bLocked", 0)),
        transposed=bool(told.whole(f"{at}bTransposed", 0)) if shared else False,
    )
    if shared:
        ends = (f"{at}sourceInputLayer", f"{at}sourceOutputLayer")
        weight.shared_with = (told.text(ends[0]), told.text(ends[1]))
        return weight
    flat = _floats(file, path, f"{at}weights")
    plain = all(known[name].type != LayerType.CONVOLUTIONAL for name in (source, target))
    shape = (known[source].units, known[target].units) if plain else (-1, known[target].units)
    if plain and len(flat) != shape[0] * shape[1]:
        raise DataError(
            f"{path}: weights from {source!r} to {target!r} must be {shape[0]} x {shape[1]} "
            f"numbers, got {len(flat)}"
        )
    weight.values = flat.reshape(shape) if plain else flat[None]
    return weight


def _write_layer(file: "Dataset", layer: Layer, n: int) -> None:
    at = f"layer{n}_"
    whole = {
        "kind": layer.kind,
        "type": layer.type,
        "poolingfunction": layer.pooling,
        **dict(zip(EXTENTS, (*layer.extents, 1, 1, 1))),
        "dimensions": len(layer.extents),
        **dict.fromkeys(KERNEL, 0),
        "weightInit": layer.init,
        "activation": layer.activation,
        "attributes": layer.flags,
        "sources": len(layer.sources),
        "skips": len(layer.skips),
    }
    real = {
        "pDropout": layer.dropout,
        "weightInitScale": layer.init_scale,
        "biasInit": layer.bias_init,
        "weightNorm": layer.weight_norm,
        "deltaNorm": layer.delta_norm,
        "sparsenessPenalty_p": layer.sparseness_p,
        "sparsenessPenalty_beta": layer.sparseness_beta,
        "RELUSlope": layer.slope,
        "ELUAlpha": layer.alpha,
        "SELULambda": layer.scale,
    }
    told: dict[str, Any] = {"name": layer.name, "dataSet": layer.data_set}
    told |= {name: np.uint32(int(value)) for name, value in whole.items()}
    told |= {name: np.float32(value) for name, value in real.items()}
    told |= {f"source{j}": name for j, name in enumerate(layer.sources)}
    told |= {f"skip{j}": name for j, name in enumerate(layer.skips)}
    _tell(file, {f"{at}{name}": value for name, value in told.items()})
    if layer.batch_norm is not None:
        file.createDimension(f"{at}bnDim", layer.units)
        for name, values in zip(BATCH_NORM, vars(layer.batch_norm).values()):
            put(file, f"{at}{name}", f"{at}bnDim", values.astype(np.float32))


def _write_weight(file: "Dataset", weight: Weight, n: int, network: Network) -> None:
    at = f"weight{n}_"
    told: dict[str, Any] = {
        "inputLayer": weight.source,
        "outputLayer": weight.target,
        "width": np.uint64(network.layer(weight.target).units),
        "height": np.uint64(network.layer(weight.source).units),
        **dict.fromkeys(("length", "depth", "breadth"), np.uint64(1)),
        "bShared": np.uint32(weight.shared_with is not None),
        "bLocked": np.uint32(weight.locked),
        "norm": np.float32(weight.norm),
    }
    if weight.shared_with is not None:
        told["bTransposed"] = np.uint32(weight.transposed)
        told["sourceInputLayer"], told["sourceOutputLayer"] = weight.shared_with
    _tell(file, {f"{at}{name}": value for name, value in told.items()})
    file.createDimension(f"{at}biasDim", len(weight.bias))
    put(file, f"{at}bias", f"{at}biasDim", weight.bias.astype(np.float32))
    if weight.values is not None:
        flat = np.ascontiguousarray(weight.values, np.float32).reshape(-1)
        file.createDimension(f"{at}weightDim", len(flat))
        put(file, f"{at}weights", f"{at}weightDim", flat)


def _floats(file: "Dataset", path: Path, name: str) -> Floats:
    return column(file, path, name).astype(np.float32, copy=False)


def _tell(file: "Dataset", told: dict[str, Any]) -> None:
    for name, value in told.items():
        file.setncattr(name, value)
