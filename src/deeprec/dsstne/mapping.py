"""A network of DSSTNE as parts of a config: model and loss, and what of it came how.

The layers become those of `model=layered`. Where DSSTNE's convention is another one (the range of
its Xavier, the sign of its Constant) the value is changed so that the weights start the same.
"""

from typing import Any

from deeprec.data.store import is_reserved
from deeprec.dsstne.mapped import Mapped
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
)
from deeprec.dsstne.output import OUTPUTS, output_of
from deeprec.model.layered import INPUT, OF_USER
from deeprec.model.sparse_input import HISTORY

ACTIVATIONS = {
    Activation.SIGMOID: "sigmoid", Activation.TANH: "tanh", Activation.LINEAR: "identity",
    Activation.RECTIFIED_LINEAR: "relu", Activation.LEAKY_RELU: "leaky_relu",
    Activation.ELU: "elu", Activation.SELU: "selu", Activation.SOFT_PLUS: "softplus",
    Activation.SOFT_SIGN: "softsign",
}  # fmt: skip
INITS = {
    Init.XAVIER: "xavier", Init.CAFFE_XAVIER: "caffe_xavier", Init.GAUSSIAN: "gaussian",
    Init.UNIFORM: "uniform", Init.UNIT_BALL: "unit_ball", Init.CONSTANT: "constant",
    Init.SELU: "selu",
}  # fmt: skip
POOLINGS = {
    Pooling.MAXOUT: "maxout", Pooling.DOT_PRODUCT: "dot", Pooling.COSINE: "cosine",
}  # fmt: skip
ERRORS = {
    Error.L1: "absolute", Error.L2: "squared", Error.L2_HINGE: "squared_hinge",
    Error.HINGE: "hinge",
}  # fmt: skip
NOT_RECOMMENDING = {
    LayerType.CONVOLUTIONAL: "convolutions are no part of recommending",
    LayerType.POOLING: "pooling over images is no part of recommending; MaxOut, DotProduct and "
    "Cosine of hidden layers are built, and for an output of them there is model=two_tower",
}


def mapped(network: Network) -> Mapped:
    """Model and loss of a network; check `remarks` for what was refused."""
    to = Mapped()
    outputs, inputs = network.of_kind(LayerKind.OUTPUT), network.of_kind(LayerKind.INPUT)
    if len(outputs) != 1 or not inputs:
        to.say("Layers", "refused", "a recommender has inputs and exactly one output layer")
        return to
    [output] = outputs
    hidden = network.of_kind(LayerKind.HIDDEN)
    if network.of_kind(LayerKind.TARGET):
        to.say("Layers", "refused", "DSSTNE documents Target layers and has none")
    to.choices = {"model": "layered"}
    _map_inputs(to, network)
    to.model["layers"] = [_hidden(to, network, layer) for layer in hidden]
    _map_output(to, network, output, {layer.name for layer in hidden})
    _map_sharing(to, network, output)
    _map_loss(to, network, output)
    _map_rest(to, network, hidden)
    _map_norms(to, output)
    return to


def _map_inputs(to: Mapped, network: Network) -> None:
    history, further = network.history, network.further
    inputs = network.of_kind(LayerKind.INPUT)
    to.say(history.name, "mapped", f"data set {history.data_set!r} is the history of a user")
    for name, layer in further.items():
        to.say(
            layer.name,
            "mapped",
            f"data set {name!r} is the user attribute {name!r}, several values a user "
            f"(data.user_attributes), read by the layers that name it, as {OF_USER}{name}",
        )
        if is_reserved(name, "user"):
            says = f"no user attribute may be called {name!r}; generate it with another -d"
            to.say(f"{layer.name}.DataSet", "refused", says)
    if len(further) + 1 < len(inputs):
        says = "several input layers read one data set; give each layer that reads it one of them"
        to.say("Layers", "refused", says)
    for layer in inputs:
        if LayerFlag.SPARSE not in layer.flags:
            to.say(layer.name, "differs", "an input is sparse and its values count 1, dense or not")
        if layer.dropout:
            to.say(f"{layer.name}.pDropout", "not carried", "input_dropout is Denoising.p")
    _map_denoising(to, network)


def _map_denoising(to: Mapped, network: Network) -> None:
    """DSSTNE denoises the inputs with Sparse."""
    inputs = network.of_kind(LayerKind.INPUT)
    noisy = [source_of(network, one.name) for one in inputs if LayerFlag.SPARSE in one.flags]
    to.model["input_dropout"] = network.denoising_p if noisy else 0.0
    if not network.denoising_p:
        return
    if not noisy:
        to.say("Denoising.p", "ignored by DSSTNE", "it is of inputs with Sparse alone")
        return
    says = f"model.input_dropout={network.denoising_p:g}, drawn anew at each step"
    if network.further:
        to.model["dropped_inputs"] = noisy
        says += f", of {', '.join(noisy)}"
    to.say("Denoising.p", "mapped", says)


def source_of(network: Network, name: str) -> str:
    """What a layer of ours reads, where one of the network reads the layer of this name."""
    attributes = {layer.name: attribute for attribute, layer in network.further.items()}
    if name in attributes:
        return f"{OF_USER}{attributes[name]}"
    if name == network.history.name:
        return HISTORY if attributes else INPUT
    return _plain(name)


def _hidden(to: Mapped, network: Network, layer: Layer) -> dict[str, Any]:
    if layer.type == LayerType.POOLING and layer.pooling in POOLINGS:
        return _pooled(to, network, layer)
    if layer.type in NOT_RECOMMENDING:
        to.say(layer.name, "refused", NOT_RECOMMENDING[layer.type])
    if layer.activation not in ACTIVATIONS:
        says = "a hidden layer of this activation is not built"
        to.say(f"{layer.name}.Activation", "refused", f"{layer.activation.name}: {says}")
    part: dict[str, Any] = {
        "_target_": "deeprec.model.hidden.Hidden",
        "name": _plain(layer.name),
        "units": max(layer.units, 1),
        "sources": list(dict.fromkeys(source_of(network, name) for name in layer.sources)),
        "activation": ACTIVATIONS.get(layer.activation, "identity"),
        **_init(layer),
        "init_bias": layer.bias_init,
    }
    if layer.skips:
        part["skips"] = [_plain(name) for name in layer.skips]
    _map_activation(to, layer, part)
    _map_norms_of_layer(to, network, layer, part)
    _map_dropout(to, layer, part)
    _map_sparseness(to, network, layer, part)
    to.say(
        layer.name,
        "mapped",
        f"{part['units']} {part['activation']} units from {', '.join(part['sources'])}",
    )
    return part


def _map_norms_of_layer(to: Mapped, network: Network, layer: Layer, part: dict[str, Any]) -> None:
    for key, name, norm in (
        ("WeightNorm", "unit_norm", layer.weight_norm),
        ("DeltaNorm", "slope_norm", layer.delta_norm),
    ):
        if norm > 0.0:
            part[name] = norm
            to.say(f"{layer.name}.{key}", "mapped", f"{name}={norm:g} of the layer")
    inputs = {one.name for one in network.of_kind(LayerKind.INPUT)}
    if layer.weight_norm > 0.0 and len(set(layer.sources) - inputs) > 1:
        says = "it holds for the weights from all hidden sources together, not from each"
        to.say(f"{layer.name}.WeightNorm", "differs", says)


def _map_dropout(to: Mapped, layer: Layer, part: dict[str, Any]) -> None:
    """What layers do in training alone, or otherwise than when they are asked."""
    if layer.dropout:
        part["dropout"] = layer.dropout
        to.say(
            f"{layer.name}.pDropout",
            "differs",
            f"dropout={layer.dropout:g} sets units to 0 and scales the others up; DSSTNE sets "
            "sigmoid units to 0.5, scales none of them, and leaves the mask out of the gradient "
            "(compatibility=dsstne does)",
        )
    if LayerFlag.BATCH_NORMALIZATION in layer.flags:
        part["batch_norm"] = True
        to.say(
            f"{layer.name}.BatchNormalization",
            "differs",
            "running statistics are means over batches, not those of the last one",
        )


def _pooled(to: Mapped, network: Network, layer: Layer) -> dict[str, Any]:
    pooling = POOLINGS[layer.pooling]
    read = [network.layer(name) for name in layer.sources]
    if any(one.kind != LayerKind.HIDDEN for one in read) or len(read) < 2:
        to.say(f"{layer.name}.Source", "refused", "it pools two hidden layers or more")
        return {}
    widths = [max(one.units, 1) for one in read]
    layer.extents = (widths[0] if pooling == "maxout" else len(widths) - 1,)
    if len({*widths}) > 1:
        to.say(f"{layer.name}.Source", "refused", f"needs layers of as many units, got {widths}")
    to.say(layer.name, "mapped", f"pooling={pooling} of {', '.join(layer.sources)}")
    return {
        "_target_": "deeprec.model.hidden.Hidden",
        "name": _plain(layer.name),
        "units": layer.units,
        "sources": [_plain(name) for name in layer.sources],
        "activation": "identity",
        "pooling": pooling,
    }


def _map_activation(to: Mapped, layer: Layer, part: dict[str, Any]) -> None:
    where = f"{layer.name}.Activation"
    if layer.activation == Activation.LEAKY_RELU:
        part["slope"] = layer.slope
        _say_of_slope(to, layer)
    elif layer.activation in (Activation.ELU, Activation.SELU):
        part["alpha"] = layer.alpha
        if layer.activation == Activation.SELU:
            part["scale"] = layer.scale
        if layer.activation == Activation.SELU and layer.alpha == 1.0:
            to.say(where, "mapped", "alpha=1, DSSTNE's default; a SELU that normalises has 1.6733")
    elif layer.activation in (Activation.SOFT_PLUS, Activation.SOFT_SIGN):
        to.say(where, "differs", "DSSTNE reads it and computes the identity; here it is computed")


def _map_sparseness(to: Mapped, network: Network, layer: Layer, part: dict[str, Any]) -> None:
    if LayerFlag.SPARSE not in layer.flags or network.sparseness[1] <= 0.0:
        return
    p = layer.sparseness_p or network.sparseness[0]
    beta = layer.sparseness_beta or network.sparseness[1]
    where = f"{layer.name}.SparsenessPenalty"
    if layer.activation != Activation.SIGMOID or not 0.0 < p < 1.0:
        to.say(where, "not carried", "it is of sigmoid units, with p between 0 and 1")
        return
    part |= {"sparseness": p, "sparseness_weight": beta}
    to.say(where, "mapped", f"sparseness={p:g}, sparseness_weight={beta:g}; it is in the loss too")


def _init(layer: Layer) -> dict[str, Any]:
    """The scheme and scale with which weights start as in DSSTNE."""
    scale = layer.init_scale
    if layer.init == Init.XAVIER:
        scale = 0.5 * scale  # its range is half that of Glorot and Bengio
    elif layer.init == Init.CONSTANT:
        scale = -scale
    elif layer.init == Init.SELU:
        scale = 1.0  # DSSTNE takes none, and 1 / units for the root of it
    return {"init": INITS[layer.init], "init_scale": scale}


def _map_output(to: Mapped, network: Network, output: Layer, hidden: set[str]) -> None:
    if output.type in NOT_RECOMMENDING or output.pooling != Pooling.NONE:
        to.say(output.name, "refused", NOT_RECOMMENDING[LayerType.POOLING])
    for name in output.sources:
        if name not in hidden:
            says = f"reads {name!r}, which is no hidden layer: a table of all items by all items"
            to.say(f"{output.name}.Source", "refused", f"{says}; model=ease solves that")
    if output.skips:
        to.say(f"{output.name}.Skip", "refused", "an output has no skips here")
    start = _init(output)
    to.model |= {
        "output_sources": [_plain(name) for name in output.sources],
        "output_init": start["init"],
        "output_init_scale": start["init_scale"],
    }
    where = f"{output.name}.WeightInit.Bias"
    if output.bias_init:
        to.model["output_bias"] = output.bias_init
        to.say(where, "mapped", f"model.output_bias={output.bias_init:g}")
    else:
        to.say(
            where,
            "differs",
            "DSSTNE starts at 0; here the output bias starts at the log odds of each item, where "
            "it has to go (model.output_bias=0 for DSSTNE's)",
        )
    to.say(output.name, "mapped", f"data set {output.data_set!r} is what is learned to predict")


def _map_norms(to: Mapped, output: Layer) -> None:
    for key, name, norm in (
        ("WeightNorm", "item_norm", output.weight_norm),
        ("DeltaNorm", "score_slope_norm", output.delta_norm),
    ):
        if norm > 0.0:
            to.constraints[name] = norm
            says = f"optimizer.constraints.{name}={norm:g}"
            to.say(f"{output.name}.{key}", "mapped", says)
    if output.weight_norm > 0.0 and len(output.sources) > 1:
        says = "it holds for the weights from all its sources together, not from each"
        to.say(f"{output.name}.WeightNorm", "differs", says)


def _map_sharing(to: Mapped, network: Network, output: Layer) -> None:
    is_trained = any(weight.values is not None for weight in network.weights)
    for weight in network.weights:
        if weight.shared_with is None:
            continue
        source, target = weight.shared_with
        of_output = weight.target == output.name and weight.transposed
        if (
            of_output
            and source == network.history.name
            and output.sources == [weight.source] == [target]
        ):
            to.model["tied"] = True
            to.say(f"{output.name}.SharedWeights", "mapped", "model.tied=true")
        elif is_trained:
            says = f"from {weight.source} it holds a copy of the weights from {source} to {target}"
            says += ", and training it further would part them"
            to.say(f"{weight.target}.SharedWeights", "mapped", says)
        else:
            to.say(
                f"{weight.target}.SharedWeights",
                "refused",
                "only an output that shares, transposed, the weights of the history is trained: "
                "others have tables of their own, which change inside backward; a file that "
                "shares others is brought over, each with a copy",
            )


def _map_loss(to: Mapped, network: Network, output: Layer) -> None:
    error, activation = network.error, output.activation
    name = f"{error.name} on {activation.name}"
    probable = activation == Activation.SIGMOID
    if error in ERRORS and activation in OUTPUTS:
        _map_regression(to, network, output)
    elif error in (Error.CROSS_ENTROPY, Error.SCALED_MARGINAL) and (
        activation == Activation.SOFT_MAX
    ):
        to.choices["loss"] = "softmax"
        to.loss = {"normalise_targets": True}
        to.loss |= _margins(network) if error == Error.SCALED_MARGINAL else {}
    elif error == Error.CROSS_ENTROPY and probable:
        to.choices["loss"] = "marginal"
        one, zero = network.boost
        to.loss = {"one_target": 1.0, "zero_target": 0.0, "one_scale": one, "zero_scale": zero}
    elif error not in ERRORS and probable:
        to.choices["loss"] = "marginal"
        to.loss = _margins(network)
    else:
        says = f"{name} has no gradient in DSSTNE and is not built"
        to.say("ErrorFunction", "refused", says)
        return
    to.say("ErrorFunction", "mapped", f"{name} is loss={to.choices['loss']}")
    _map_loss_details(to, network, activation)


def _map_regression(to: Mapped, network: Network, output: Layer) -> None:
    one, zero = network.boost if boosts(network.error, output.activation) else (1.0, 1.0)
    to.choices["loss"] = "regression"
    to.loss = {"error": ERRORS[network.error], **output_of(output)}
    to.loss |= {"one_scale": one, "zero_scale": zero}
    _say_of_slope(to, output)
    if network.error == Error.HINGE:
        says = "its slope is that of max(0, 1 - t a); DSSTNE has -t where a is below 0"
        to.say("ErrorFunction", "differs", says)
    if output.activation in (Activation.SOFT_PLUS, Activation.SOFT_SIGN):
        says = "DSSTNE reads it and computes the identity; here it is computed"
        to.say(f"{output.name}.Activation", "differs", says)


def _say_of_slope(to: Mapped, layer: Layer) -> None:
    if layer.activation == Activation.LEAKY_RELU and layer.slope == 1.0:
        says = "a leaky rectifier of slope 1, DSSTNE's default, does nothing"
        to.say(f"{layer.name}.Activation", "mapped", says)


def _margins(network: Network) -> dict[str, float]:
    return {
        "one_target": network.one_target,
        "zero_target": network.zero_target,
        "one_scale": network.one_scale,
        "zero_scale": network.zero_scale,
    }


def boosts(error: Error, activation: Activation) -> bool:
    """Whether DSSTNE reads DeltaBoost, of indicators."""
    if error == Error.L1:
        return True
    read_by = (Error.L2, Error.L2_HINGE, Error.CROSS_ENTROPY)
    return error in read_by and activation == Activation.SIGMOID


def _map_loss_details(to: Mapped, network: Network, activation: Activation) -> None:
    error = network.error
    if network.boost != (1.0, 1.0):
        if boosts(error, activation):
            to.say("DeltaBoost", "mapped", "one_scale and zero_scale, in the loss as in its slope")
        else:
            says = "indicators of this error and activation do not read it"
            to.say("DeltaBoost", "ignored by DSSTNE", says)
    if error == Error.DATA_SCALED_MARGINAL:
        says = "values weigh targets in `deeprec dsstne train` and with target.weigh=true, not else"
        to.say("ErrorFunction", "differs", says)
    elif error in ERRORS:
        says = (
            "values of an analog output are read in `deeprec dsstne train`, and with "
            "loss.values=true target.weigh=true; else a target should be 1"
        )
        to.say("ErrorFunction", "mapped", says)
    if error == Error.SCALED_MARGINAL:
        to.say("ScaledMarginalCrossEntropy", "mapped", "one_target, zero_target and scales")
        if activation == Activation.SOFT_MAX and to.loss["zero_target"] > 0.0:
            says = (
                "an output below zeroTarget leaves the sum that others are compared with; in DSSTNE"
                " its slope alone is 0, so that slopes are those of no loss"
            )
            to.say("ScaledMarginalCrossEntropy", "differs", says)


def _map_rest(to: Mapped, network: Network, hidden: list[Layer]) -> None:
    for layer in (*hidden, *network.of_kind(LayerKind.OUTPUT)):
        if layer.init == Init.SELU:
            says = "deviation 1 / sqrt(units read); DSSTNE has 1 / units (compatibility=dsstne too)"
            to.say(f"{layer.name}.WeightInit", "differs", says)
        elif layer.init == Init.XAVIER:
            says = "half of Xavier's range, as DSSTNE draws it (init_scale=1 for the whole)"
            to.say(f"{layer.name}.WeightInit", "mapped", says)
    if network.decay:
        to.choices["rate"], to.rate = "inverse", {"decay": network.decay}
        to.say("decay", "mapped", f"rate=inverse rate.decay={network.decay:g}")
    if not network.shuffle:
        to.say("ShuffleIndices", "not carried", "users come in an order drawn for each epoch")


def _plain(name: str) -> str:
    """A name of a hidden layer that no input has."""
    return f"{name}_" if name in (INPUT, HISTORY) else name.replace(OF_USER, "user_")
