"""An autoencoder as the layered network that it is, where it has nothing that such a one lacks."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from deeprec.model.autoencoder import Autoencoder
from deeprec.model.hidden import Hidden, HiddenLayer
from deeprec.model.layered import Layered
from deeprec.model.layers import ACTIVATIONS, Activation
from deeprec.model.sparse_input import SparseInput


def obstacles(model: Autoencoder) -> Iterator[str]:
    """What a layered network has not, each with the setting that leaves it out."""
    if model.history_weighting != "binary" or model.normalize or model.pooling != "sum":
        yield (
            "histories are weighted; model.history_weighting=binary, model.normalize=false, "
            "model.pooling=sum"
        )
    if model.repeat is not None or model.reconstruction > 0.0:
        yield (
            "items had before have scores of their own; model.repeat_scores=false, "
            "model.reconstruction=0"
        )
    if model.divisors:
        yield "user attributes are of two tables; model.quotient_remainder=[]"
    if model.unit_vectors:
        yield "hidden vectors have length 1; model.unit_vectors=false"


@torch.no_grad()
def layered(model: Autoencoder) -> Layered:
    """The same network, with the same weights; `obstacles` finds none."""
    widths = [len(model.layers.bias)]
    linears = [one for one in model.layers.layers if isinstance(one, nn.Linear)]
    widths += [linear.out_features for linear in linears]
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    used = [names[type(one)] for one in model.layers.layers if type(one) in names]
    parts = [
        Hidden(name=f"Hidden{i}", units=units, activation=cast(Activation, activation))
        for i, (units, activation) in enumerate(zip(widths, used, strict=True), 1)
    ]
    found = Layered(
        model.num_items, fields=model.fields, layers=parts, tied=model.tied, output_bias=0.0
    )
    found.item_weight.copy_(model.item_weight)
    found.item_bias.copy_(model.item_bias)
    inputs = found.inputs[0]
    assert isinstance(inputs, SparseInput)
    for name, table in inputs.tables.items():
        table.copy_(model.sparse_input.tables[name])
    biases = [model.layers.bias, *(linear.bias for linear in linears)]
    for i, (held, bias) in enumerate(zip(found.layers, biases, strict=True)):
        assert isinstance(held, HiddenLayer)
        held.bias.copy_(bias)
        if i:
            assert isinstance(held.from_layers, nn.Linear)
            held.from_layers.weight.copy_(linears[i - 1].weight)
    return found.eval()
