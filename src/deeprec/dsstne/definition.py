"""Network definitions of DSSTNE: JSON, keys in any case, and a list of what each of them became.

A key that DSSTNE does not know stops it; here all that stop it are named at once, and those that
its documentation has and its reader refuses say what was meant.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deeprec.dsstne.direct import bridge
from deeprec.dsstne.network import (
    Activation,
    Error,
    Init,
    Layer,
    LayerFlag,
    LayerKind,
    LayerType,
    Network,
    Pooling,
    Weight,
)
from deeprec.dsstne.remark import Remark
from deeprec.errors import DataError, did_you_mean

ERRORS = {
    "l1": Error.L1, "l2": Error.L2, "l2hinge": Error.L2_HINGE, "hinge": Error.HINGE,
    "crossentropy": Error.CROSS_ENTROPY, "cross entropy": Error.CROSS_ENTROPY,
    "scaledmarginalcrossentropy": Error.SCALED_MARGINAL,
    "datascaledmarginalcrossentropy": Error.DATA_SCALED_MARGINAL,
}  # fmt: skip
ACTIVATIONS = {
    "sigmoid": Activation.SIGMOID, "tanh": Activation.TANH, "linear": Activation.LINEAR,
    "relu": Activation.RECTIFIED_LINEAR, "rectifiedlinear": Activation.RECTIFIED_LINEAR,
    "leakyrelu": Activation.LEAKY_RELU, "lrelu": Activation.LEAKY_RELU, "elu": Activation.ELU,
    "selu": Activation.SELU, "softplus": Activation.SOFT_PLUS, "softsign": Activation.SOFT_SIGN,
    "softmax": Activation.SOFT_MAX, "relumax": Activation.RELU_MAX,
    "linearmax": Activation.LINEAR_MAX,
}  # fmt: skip
INITS = {
    "xavier": Init.XAVIER, "caffexavier": Init.CAFFE_XAVIER, "gaussian": Init.GAUSSIAN,
    "uniform": Init.UNIFORM, "unitball": Init.UNIT_BALL, "constant": Init.CONSTANT,
    "selu": Init.SELU,
}  # fmt: skip
TYPES = {
    "fullyconnected": LayerType.FULLY_CONNECTED,
    "convolutional": LayerType.CONVOLUTIONAL,
    "pooling": LayerType.POOLING,
}
POOLINGS = {
    "max": Pooling.MAX, "average": Pooling.AVERAGE, "maxout": Pooling.MAXOUT,
    "dotproduct": Pooling.DOT_PRODUCT, "cosine": Pooling.COSINE, "lrn": Pooling.LRN,
    "localresponsenormalization": Pooling.LRN, "stochastic": Pooling.STOCHASTIC,
    "localcontrastnormalization": Pooling.LCN,
}  # fmt: skip
MISDOCUMENTED = {
    "weightdata": "DSSTNE documents this key and refuses it; its reader takes WeightsData, and "
    "ignores that. Bring weights by `deeprec dsstne import-weights`",
    "smce": "DSSTNE documents this name and refuses it; say ScaledMarginalCrossEntropy",
    "l1penalty": "DSSTNE documents this and refuses it; there is no such penalty",
}
IGNORED = {
    "weightsdata": "its reader passes over it; bring weights by `deeprec dsstne import-weights`",
    "maxout": "no layer of a recommender reads it",
    "lrn": "it is of convolutions",
    "localresponsenormalization": "it is of convolutions",
    "kernel": "it is of convolutions and pooling",
    "kernelstride": "it is of convolutions and pooling",
}
OF_IMAGES = "it is of convolutions and pooling over images, which are no part of recommending"
SHARED = {"sourceinputlayer", "sourceoutputlayer", "inputlayer"}  # what an entry must say
COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)

Read = Callable[[Any], None]


def read_definition(path: Path) -> tuple[Network, list[Remark]]:
    """A network and what became of each of its settings; of what is refused it holds the defaults.

    Raises:
        DataError: it is not JSON, or no object.
    """
    try:
        told = json.loads(COMMENT.sub(lambda found: found[1] or "", path.read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(told, dict):
        raise DataError(f"{path}: expected a JSON object, the definition of a network")
    reading = _Reading()
    network = reading.network(told, path.stem)
    for output, source in bridge(network):
        says = f"a linear layer of as many units stands between it and {source!r}"
        reading.remarks.append(Remark(f"{output}.Source", "differs", says))
    return network, reading.remarks


class _Reading:
    """Reads one definition, gathering remarks."""

    def __init__(self) -> None:
        self.remarks: list[Remark] = []

    def network(self, told: Mapping[str, Any], name: str) -> Network:
        network = Network(name, [])
        self._defaults = Layer("", LayerKind.HIDDEN)
        scales = self._numbers(
            "SMCE",
            oneTarget=(network, "one_target"),
            zeroTarget=(network, "zero_target"),
            oneScale=(network, "one_scale"),
            zeroScale=(network, "zero_scale"),
        )
        self._object(
            "",
            told,
            {
                "version": self._number(network, "version"),
                "name": self._set(network, "name", str),
                "kind": lambda _: self._say("Kind", "ignored by DSSTNE", "it has no effect"),
                "errorfunction": self._choice(network, "error", ERRORS, "ErrorFunction"),
                "sparsenesspenalty": lambda value: self._pair(
                    "SparsenessPenalty", network, "sparseness", value, ("p", "beta")
                ),
                "denoising": self._numbers("Denoising", p=(network, "denoising_p")),
                "deltaboost": lambda value: self._pair(
                    "DeltaBoost", network, "boost", value, ("one", "zero")
                ),
                "scaledmarginalcrossentropy": scales,
                "datascaledmarginalcrossentropy": scales,
                "shuffleindices": self._set(network, "shuffle", bool),
                "decay": self._number(network, "decay"),
                **self._of_activations(self._defaults),
                "layers": lambda value: self._layers(network, value),
            },
            last="layers",
        )
        if not network.layers:
            self._say("Layers", "refused", "a network needs layers")
        return network

    def _layers(self, network: Network, told: Any) -> None:
        if not isinstance(told, list):
            self._say("Layers", "refused", f"expected a list, got {told!r}")
            return
        for i, one in enumerate(told):
            if not isinstance(one, dict):
                self._say(f"Layers[{i}]", "refused", f"expected an object, got {one!r}")
                continue
            last = len(told) - 1
            kind = LayerKind.INPUT if i == 0 else LayerKind.HIDDEN
            self._layer(network, one, LayerKind.OUTPUT if i == last and i else kind)

    def _layer(self, network: Network, told: Mapping[str, Any], kind: LayerKind) -> None:
        keys = {key.lower(): value for key, value in told.items()}
        kind = self._kind(str(keys.get("kind", kind.name)), len(network.layers), kind)
        name = str(keys.get("name", self._name_of(network, kind)))
        defaults = self._defaults
        layer = Layer(name, kind, slope=defaults.slope, alpha=defaults.alpha, scale=defaults.scale)
        if kind != LayerKind.INPUT and network.layers:
            layer.sources = [network.layers[-1].name]
        reading = {
            "kind": lambda _: None,
            "name": lambda _: None,
            "type": self._choice(layer, "type", TYPES, f"{name}.Type"),
            "sparse": self._flag(layer, LayerFlag.SPARSE),
            "n": lambda value: self._units(layer, value),
            "pdropout": self._number(layer, "dropout"),
            "source": lambda value: setattr(layer, "sources", _names(value)),
        }
        if kind == LayerKind.HIDDEN:
            reading |= {
                "batchnormalization": self._flag(layer, LayerFlag.BATCH_NORMALIZATION),
                "sparsenesspenalty": self._numbers(
                    f"{name}.SparsenessPenalty",
                    p=(layer, "sparseness_p"),
                    beta=(layer, "sparseness_beta"),
                ),
            }
        if kind != LayerKind.INPUT:
            reading |= {
                "function": self._choice(layer, "pooling", POOLINGS, f"{name}.Function"),
                "skip": lambda value: setattr(layer, "skips", _names(value)),
                "activation": self._choice(layer, "activation", ACTIVATIONS, f"{name}.Activation"),
                **self._of_activations(layer),
                "weightnorm": self._number(layer, "weight_norm"),
                "deltanorm": self._number(layer, "delta_norm"),
                "weightinit": lambda value: self._weight_init(layer, value),
                "sharedweights": lambda value: self._shared(network, layer, value),
            }
        if kind != LayerKind.HIDDEN:
            reading["dataset"] = self._set(layer, "data_set", str)
        self._object(name, told, reading)
        network.layers.append(layer)

    def _object(
        self, where: str, told: Mapping[str, Any], reading: Mapping[str, Read], last: str = ""
    ) -> None:
        for key, value in sorted(told.items(), key=lambda entry: entry[0].lower() == last):
            name, at = key.lower(), f"{where}.{key}" if where else key
            if name in reading:
                try:
                    reading[name](value)
                except (TypeError, ValueError, OverflowError):
                    self._say(at, "refused", f"has no meaning as {value!r}")
            elif name in IGNORED:
                self._say(at, "ignored by DSSTNE", IGNORED[name])
            elif name in MISDOCUMENTED:
                self._say(at, "refused", MISDOCUMENTED[name])
            elif name.startswith("kernel"):
                self._say(at, "refused", OF_IMAGES)
            else:
                self._say(at, "refused", f"DSSTNE knows no such key; {did_you_mean(name, reading)}")

    def _kind(self, text: str, place: int, default: LayerKind) -> LayerKind:
        kinds = {kind.name.lower(): kind for kind in LayerKind}
        if text.lower() in kinds:
            return kinds[text.lower()]
        says = f"a layer is Input, Hidden or Output, got {text!r}"
        if text.lower() in ("convolution", "pooling"):
            says += "; DSSTNE documents this and refuses it, because it is a Type"
        self._say(f"Layers[{place}].Kind", "refused", says)
        return default

    def _name_of(self, network: Network, kind: LayerKind) -> str:
        if kind == LayerKind.HIDDEN:
            return f"Hidden{len(network.of_kind(kind)) + 1}"
        return f"{kind.name.capitalize()}{len(network.of_kind(kind)) or ''}"

    def _units(self, layer: Layer, value: Any) -> None:
        if isinstance(value, str) and value.lower() == "auto" and layer.kind != LayerKind.HIDDEN:
            layer.extents = (0,)
            return
        extents = tuple(int(one) for one in (value if isinstance(value, list) else [value]))
        if not 1 <= len(extents) <= 4 or min(extents) < 1 or math.prod(extents) >= 2**31:
            raise ValueError(value)
        layer.extents = extents

    def _weight_init(self, layer: Layer, value: Any) -> None:
        where = f"{layer.name}.WeightInit"
        reading = {
            "scheme": self._choice(layer, "init", INITS, f"{where}.Scheme"),
            "scale": self._number(layer, "init_scale"),
            "bias": self._number(layer, "bias_init"),
        }
        self._object(where, _entries(value), reading)

    def _shared(self, network: Network, layer: Layer, value: Any) -> None:
        for one in value:
            keys = {key.lower(): each for key, each in _entries(one).items()}
            if missing := SHARED - keys.keys():
                raise ValueError(missing)
            ends = str(keys["sourceinputlayer"]), str(keys["sourceoutputlayer"])
            weight = Weight(str(keys["inputlayer"]), layer.name, np.zeros(0, np.float32), None)
            weight.shared_with, weight.transposed = ends, bool(keys.get("transposed", False))
            network.weights.append(weight)

    def _of_activations(self, layer: Layer) -> dict[str, Read]:
        return {
            "reluslope": self._number(layer, "slope"),
            "slope": self._number(layer, "slope"),
            "elualpha": self._number(layer, "alpha"),
            "selulambda": self._number(layer, "scale"),
        }

    def _numbers(self, where: str, **known: tuple[object, str]) -> Read:
        reading = {name.lower(): self._number(*target) for name, target in known.items()}
        return lambda value: self._object(where, _entries(value), reading)

    def _pair(
        self, where: str, network: Network, field: str, told: Any, names: tuple[str, str]
    ) -> None:
        pair = list(getattr(network, field))

        def put(place: int) -> Read:
            return lambda value: pair.__setitem__(place, _finite(value))

        self._object(where, _entries(told), {names[0]: put(0), names[1]: put(1)})
        setattr(network, field, tuple(pair))

    def _choice(self, holder: object, field: str, choices: Mapping[str, Any], where: str) -> Read:
        def read(value: Any) -> None:
            name = str(value).lower()
            if name in choices:
                setattr(holder, field, choices[name])
            elif name in MISDOCUMENTED:
                self._say(where, "refused", MISDOCUMENTED[name])
            else:
                self._say(
                    where, "refused", f"DSSTNE knows no {value!r}; {did_you_mean(name, choices)}"
                )

        return read

    def _flag(self, layer: Layer, flag: LayerFlag) -> Read:
        def read(value: Any) -> None:
            layer.flags = layer.flags | flag if bool(value) else layer.flags & ~flag

        return read

    def _number(self, holder: object, field: str) -> Read:
        return self._set(holder, field, _finite)

    def _set(self, holder: object, field: str, kind: Callable[[Any], Any]) -> Read:
        return lambda value: setattr(holder, field, kind(value))

    def _say(self, where: str, outcome: Any, says: str) -> None:
        self.remarks.append(Remark(where, outcome, says))


def _entries(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def _finite(value: Any) -> float:
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(value)
    return found


def _names(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value])]
