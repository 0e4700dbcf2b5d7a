"""A feed-forward network whose layers are said one by one, as DSSTNE's are.

Layers may read several earlier ones, or the input, and add the activations of others. What the
layers that the output reads say, side by side, is what the model says of a user.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from deeprec.batch import (
    Arranged,
    Batch,
    Encoded,
    Jagged,
    Penalty,
    Task,
    multiplied,
    with_transposition,
)
from deeprec.errors import did_you_mean
from deeprec.model import autoencoder
from deeprec.model.as_dsstne import LayerAsDsstne
from deeprec.model.attribute_field import Bags, attribute_fields, attribute_tables, field_of
from deeprec.model.dropping import check_share, thinned
from deeprec.model.hidden import Hidden, HiddenLayer, divergence
from deeprec.model.history import (
    FADE_DAYS,
    History,
    HistoryWeighting,
    ages_read,
    aggregate,
    aggregated,
    check_weighting,
    history_weights,
    normalized,
)
from deeprec.model.initial import Init, check_init, fill
from deeprec.model.pooled import PooledLayer, pooled_units
from deeprec.model.repeat import without_repeat
from deeprec.model.sparse_input import HISTORY, Backend, SparseInput
from deeprec.model.user_input import asked_without_repeats

INPUT = "input"
OF_USER = "user:"  # before the name of a user attribute, where one is a source
ONE_LAYER = (Hidden(name="hidden", units=128),)
UNWEIGHTED: Mapping[str, Tensor] = {}


class Layered(nn.Module):
    """Hidden layers in any order that goes forward, scored against every item of the catalog.

    Args:
        num_items: V, known from the data.
        fields: user attribute -> size of its vocabulary, known from the data.
        popularity: int64 [V], training users that had each item, known from the data.
        log_odds: whether the loss reads scores as log odds, known from the loss.
        num_users: training users, known from the data.
        target_share: items in a target over items in a history, known from the data.
        layers: hidden layers, each after those that it reads.
        output_sources: layers that the output reads; D is the sum of their units. None: the last.
        history_weighting: as of `Autoencoder`.
        fade_days: as of `Autoencoder`.
        normalize: as of `Autoencoder`.
        input_dropout: as of `Autoencoder`.
        dropped_inputs: of which inputs values are dropped, by name as in `sources` of a layer.
        tied: one table for the items of a history and for the catalog, where one layer alone reads
            the history and has D units.
        input_init: where the input tables start, see `deeprec.model.initial.fill`; None: as the
            layer that reads them.
        input_init_scale: of that; None: as the layer.
        output_init: where the catalog table starts, if it is not tied.
        output_init_scale: of that.
        output_bias: where the output bias starts; None: at the log odds of an item being in a
            target, as of `Autoencoder`.
        table_backend: what updates the input tables, see `SparseInput`.
        compatibility: `dsstne` trains with dropout, denoising and the scheme `selu` as DSSTNE has
            them, known from the run; see docs/from-dsstne.md.

    Example:
        >>> two = [Hidden(name="one", units=4), Hidden(name="two", units=2, activation="relu")]
        >>> model = Layered(3, layers=two, output_sources=["one", "two"]).eval()
        >>> model.encode(torch.tensor([2, 0]), torch.tensor([0, 2]), torch.zeros(0), {})[0].shape
        torch.Size([1, 6])
    """

    reads_bags_alone = True

    def __init__(
        self,
        num_items: int,
        *,
        fields: Mapping[str, int] | None = None,
        popularity: Tensor | None = None,
        log_odds: bool = True,
        num_users: int = 0,
        target_share: float = 1.0,
        layers: Sequence[Hidden] = ONE_LAYER,
        output_sources: Sequence[str] | None = None,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
        normalize: bool = False,
        input_dropout: float = 0.0,
        dropped_inputs: Sequence[str] = (HISTORY,),
        tied: bool = False,
        input_init: Init | None = None,
        input_init_scale: float | None = None,
        output_init: Init = "xavier",
        output_init_scale: float = 1.0,
        output_bias: float | None = None,
        table_backend: Backend = "auto",
        compatibility: Literal["none", "dsstne"] = "none",
    ) -> None:
        super().__init__()
        check_weighting(history_weighting, fade_days)
        check_share("input_dropout", input_dropout)
        check_init("output_init", output_init)
        as_dsstne = compatibility == "dsstne"
        if as_dsstne:
            layers = [_as_dsstne(layer) for layer in layers]
        self.num_items = num_items
        self.fields = _stand_ins(layers, dropped_inputs) if fields is None else dict(fields)
        self.fields_of_inputs = known = _fields_of_inputs(self.fields)
        plan = _Plan(layers, output_sources, known)
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.normalize, self.input_dropout, self.tied = normalize, input_dropout, tied
        self.dropped = _named(known, "dropped_inputs", dropped_inputs)
        _check_read(dropped_inputs, known, plan)
        self.parts, self.output = tuple(layers), plan.output
        width = sum(layers[i].units for i in self.output)
        _check_tied(tied, plan, width)
        tables = {HISTORY: num_items, **attribute_tables(self.fields, {})}
        self.inputs = nn.ModuleList()
        for i in plan.readers:
            borrowed = [HISTORY] if tied and HISTORY in plan.shown[i] else []
            own = {name: tables[name] for name in plan.shown[i] if name not in borrowed}
            inputs = SparseInput(own, layers[i].units, borrowed=borrowed, backend=table_backend)
            _start(inputs, layers[i], input_init, input_init_scale)
            self.inputs.append(inputs)
        denoising = input_dropout if as_dsstne else None
        self.layers = nn.ModuleList(plan.new_layers(denoising, self.dropped))
        self.item_weight = nn.Parameter(torch.empty(num_items, width))
        if as_dsstne and output_init == "selu":
            output_init = "selu_narrow"
        fill(self.item_weight.data, output_init, output_init_scale, num_in=width, num_out=num_items)
        self.item_bias = nn.Parameter(
            autoencoder.output_bias(
                num_items, popularity, num_users, target_share, log_odds=log_odds
            )
            if output_bias is None
            else torch.full((num_items,), float(output_bias))
        )

    @property
    def users_apart(self) -> bool:
        """See `Trainable`."""
        return not any(part.batch_norm or part.sparseness_weight for part in self.parts)

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: Mapping[str, tuple[Tensor, Tensor]],
        input_weights: Mapping[str, Tensor] = UNWEIGHTED,
    ) -> Encoded:
        """What the model says of each user; see `Recommender.encode`.

        Args:
            input_weights: as of `Batch`.
        """
        known = {name: Jagged(*attributes[name]) for name in self.fields}
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        fields = self._shown(history, known)
        return self._encoded(self._run(self._weighted(fields, input_weights)))

    def arrange(self, batch: Batch, draw: torch.Generator) -> Arranged:
        """Aggregates histories and draws what is dropped of them; see `Recommender.arrange`."""
        known = {name: batch.attributes[name] for name in self.fields}
        ages_N = ages_read(batch.known_ages, self.history_weighting)
        history = aggregated(batch, ages_N, self.num_items, self.fade_days)
        fields = self._shown(history, known)
        fields = self._weighted(fields, batch.input_weights)
        for name in self.dropped:
            fields[name] = thinned(fields[name], self.input_dropout, draw)
        fields = {name: with_transposition(rows) for name, rows in fields.items()}
        return Arranged(batch.num_users, fields, [asked_without_repeats(batch)])

    def tasks(self, arranged: Arranged) -> list[Task | Penalty]:
        """The target from the history, and what layers that should be sparse are penalised."""
        outputs = self._run(arranged.fields)
        [asked] = arranged.asked
        return [
            Task(1.0, self._encoded(outputs), self.item_weight, self.item_bias, asked),
            *(
                Penalty(part.sparseness_weight, divergence(activations_BH, part.sparseness))
                for part, activations_BH in zip(self.parts, outputs)
                if part.sparseness_weight
            ),
        ]

    def serving_encoder(self) -> nn.Module:
        """`encode` as a scriptable module, sharing the parameters of this model."""
        return ServingEncoder(self)

    def _shown(self, history: History, attributes: Mapping[str, Jagged]) -> dict[str, Jagged]:
        weights_M = history_weights(history, self.history_weighting)
        if self.normalize:
            weights_M = normalized(weights_M, history.users_M, len(history.offsets_B1) - 1)
        rows = Jagged(history.items_M, history.offsets_B1, weights_M)
        return {HISTORY: rows, **attribute_fields(attributes, {})}

    def _weighted(
        self, fields: Mapping[str, Jagged], input_weights: Mapping[str, Tensor]
    ) -> dict[str, Jagged]:
        """The fields, each times what its input counts of a user."""
        found = dict(fields)
        for source, weights_B in input_weights.items():
            for name in self.fields_of_inputs[source]:
                found[name] = multiplied(found[name], weights_B)
        return found

    def _run(self, fields: Mapping[str, Jagged]) -> list[Tensor]:
        """What every layer says, each [B, H]."""
        tables = {HISTORY: self.item_weight} if self.tied else {}
        sums = [inputs(fields, tables) for inputs in self.inputs]
        outputs: list[Tensor] = []
        for layer in self.layers:
            outputs.append(layer(sums, outputs))
        return outputs

    def _encoded(self, outputs: Sequence[Tensor]) -> Encoded:
        return without_repeat(torch.cat([outputs[i] for i in self.output], 1))


class ServingEncoder(nn.Module):
    """The encoder of a `Layered` network in plain aten operations, for TorchScript.

    Args:
        model: whose parameters it shares.
    """

    output: list[int]

    def __init__(self, model: Layered) -> None:
        super().__init__()
        self.num_items = model.num_items
        self.history_weighting, self.fade_days = model.history_weighting, model.fade_days
        self.normalize, self.output = model.normalize, model.output
        self.bags = nn.ModuleList()
        for inputs in model.inputs:
            assert isinstance(inputs, SparseInput)
            own = inputs.tables.get(HISTORY)
            history = model.item_weight if inputs.borrowed else own
            self.bags.append(Bags(history, inputs.tables, model.fields, {}))
        self.layers = model.layers

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """As `Layered.encode` in evaluation; attributes in the order of the model's fields."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        if self.normalize:
            weights_M = normalized(weights_M, history.users_M, offsets_B1.shape[0] - 1)
        sums: list[Tensor] = []
        for bags in self.bags:
            sums.append(bags(history, weights_M, attribute_values, attribute_offsets))
        outputs: list[Tensor] = []
        for layer in self.layers:
            outputs.append(layer(sums, outputs))
        return without_repeat(torch.cat([outputs[i] for i in self.output], 1))


class _Plan:
    """Which layer reads which, by their places."""

    def __init__(
        self,
        layers: Sequence[Hidden],
        output_sources: Sequence[str] | None,
        inputs: Mapping[str, Sequence[str]],
    ) -> None:
        if not layers:
            raise ValueError("layers must be one or more, got none")
        self.layers, self.inputs = layers, inputs
        places: dict[str, int] = {}
        self.sources: list[list[int]] = []  # of each layer; -1 is an input
        self.shown: list[list[str]] = []  # the sparse fields that each reads, in order
        self.skips: list[list[int]] = []
        for i, layer in enumerate(layers):
            _check_name(layer.name, places)
            read = layer.sources
            if read is None:
                read = (layers[i - 1].name,) if i else (INPUT,)
            self.sources.append(_places({**places, **dict.fromkeys(inputs, -1)}, layer.name, read))
            self.shown.append(_read_once(layer.name, read, inputs))
            self.skips.append(_places(places, layer.name, layer.skips))
            if layer.pooling != "none":
                self._check_pooled(i, layer)
            for j in self.skips[-1]:
                if layers[j].units != layer.units:
                    raise ValueError(
                        f"layers: {layer.name!r} adds {layers[j].name!r}, so both need as many "
                        f"units, got {layer.units} and {layers[j].units}"
                    )
            places[layer.name] = i
        self.readers = [i for i, sources in enumerate(self.sources) if -1 in sources]
        if not self.readers:
            raise ValueError("layers: none of them reads the input")
        wanted = [layers[-1].name] if output_sources is None else list(output_sources)
        self.output = _places(places, "the output", wanted)

    def _check_pooled(self, i: int, layer: Hidden) -> None:
        if -1 in self.sources[i]:
            raise ValueError(f"layers: {layer.name!r} pools layers alone, and reads the input")
        units = pooled_units(layer.pooling, [self.layers[j].units for j in self.sources[i]])
        if layer.units != units:
            raise ValueError(
                f"layers: {layer.name!r} has {units} units by pooling={layer.pooling} of its "
                f"sources, got {layer.units}"
            )

    def new_layers(self, denoising: float | None, dropped: Sequence[str]) -> list[nn.Module]:
        """The layers; with `denoising`, as DSSTNE has them."""
        found: list[nn.Module] = []
        for i, layer in enumerate(self.layers):
            sources = [j for j in self.sources[i] if j >= 0]
            if layer.pooling != "none":
                found.append(PooledLayer(layer.pooling, sources))
                continue
            make: Callable[..., HiddenLayer] = HiddenLayer
            if denoising is not None:
                noise = denoising if denoising and self._denoised(i, dropped) else 0.0
                before = self.sources[i][: self.sources[i].index(-1)] if noise else []
                units = sum(self.layers[j].units for j in before)
                make = partial(LayerAsDsstne, denoising=noise, before_input=units)
            found.append(
                make(
                    layer,
                    reads=self.readers.index(i) if i in self.readers else -1,
                    sources=sources,
                    skips=self.skips[i],
                    width=sum(self.layers[j].units for j in sources),
                )
            )
        return found

    def _denoised(self, i: int, dropped: Sequence[str]) -> bool:
        """Whether a layer reads an input with dropped values; it must be the first of its inputs.

        What comes before such an input is multiplied too, and inputs are read as one sum.
        """
        of_layer = [name for name in self.shown[i] if name in dropped]
        if of_layer and (len(of_layer) > 1 or of_layer[0] != self.shown[i][0]):
            raise ValueError(
                f"layers: {self.layers[i].name!r} reads several inputs, of which DSSTNE's "
                "denoising multiplies those before one with dropped values; compatibility=dsstne "
                "knows it where the first input alone has them"
            )
        return bool(of_layer)


def _fields_of_inputs(attributes: Mapping[str, int]) -> dict[str, list[str]]:
    """By what a layer may name as a source, the sparse fields that it then reads."""
    own = {f"{OF_USER}{name}": [field_of(name)] for name in attributes}
    every = [HISTORY, *(field_of(name) for name in attributes)]
    return {INPUT: every, HISTORY: [HISTORY], **own}


def _stand_ins(layers: Sequence[Hidden], dropped_inputs: Sequence[str]) -> dict[str, int]:
    """The attributes that are named, of one value each: a config is checked without data."""
    named = [*(name for layer in layers for name in layer.sources or ()), *dropped_inputs]
    return {name.removeprefix(OF_USER): 1 for name in named if name.startswith(OF_USER)}


def _check_read(
    dropped_inputs: Sequence[str], inputs: Mapping[str, Sequence[str]], plan: _Plan
) -> None:
    """Of what no layer reads nothing can be dropped; the history is what the default says."""
    read = {field for fields in plan.shown for field in fields}
    for name in dropped_inputs:
        if name != HISTORY and not read & {*inputs[name]}:
            raise ValueError(
                f"dropped_inputs: no layer reads {name!r}; name it in the sources of one, or leave "
                "it out here"
            )


def _named(inputs: Mapping[str, Sequence[str]], what: str, names: Sequence[str]) -> list[str]:
    """The sparse fields of these inputs, each once."""
    for name in names:
        if name not in inputs:
            raise ValueError(
                f"{what}: {name!r} is no input of this data; {did_you_mean(name, inputs)}"
            )
    return list(dict.fromkeys(field for name in names for field in inputs[name]))


def _read_once(reader: str, names: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """The sparse fields that a layer reads, in the order of its sources."""
    found: list[str] = []
    for field in (field for name in names for field in inputs.get(name, ())):
        if field in found:
            raise ValueError(f"layers: {reader!r} reads {field!r} twice; name it once")
        found.append(field)
    return found


def _check_name(name: str, taken: Mapping[str, int]) -> None:
    if name in taken:
        raise ValueError(f"layers: the name {name!r} is taken")
    if name in (INPUT, HISTORY) or name.startswith(OF_USER):
        raise ValueError(f"layers: the name {name!r} is taken by an input")


def _as_dsstne(layer: Hidden) -> Hidden:
    """The same, its scheme `selu` as narrow as DSSTNE's."""
    if layer.init != "selu":
        return layer
    narrow = copy(layer)
    narrow.init = "selu_narrow"
    return narrow


def _places(places: Mapping[str, int], reader: str, names: Sequence[str]) -> list[int]:
    if not names and reader == "the output":
        raise ValueError("output_sources must name one or more layers, got none")
    for name in names:
        if name not in places:
            raise ValueError(
                f"layers: {reader!r} reads {name!r}, which is no layer before it; those are "
                f"{', '.join(places)}"
            )
    return [places[name] for name in names]


def _start(
    inputs: SparseInput, reader: Hidden, init: Init | None, init_scale: float | None
) -> None:
    """Where tables start that a layer reads; each has so many rows as it has values."""
    if init is not None:
        check_init("input_init", init)
    for table in inputs.tables.values():
        fill(
            table.data,
            reader.init if init is None else init,
            reader.init_scale if init_scale is None else init_scale,
            num_in=table.shape[0],
            num_out=reader.units,
        )


def _check_tied(tied: bool, plan: _Plan, width: int) -> None:
    units = [plan.layers[i].units for i in plan.readers if HISTORY in plan.shown[i]]
    if tied and units != [width]:
        raise ValueError(
            "tied makes one table of history and catalog, so one layer must read the history and "
            f"have {width} units, as many as the output reads; got {units}"
        )
