"""A network file to a run that evaluates, exports and serves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from deeprec import config
from deeprec.assembly import READ
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.dsstne.further import attribute_columns, check_further
from deeprec.dsstne.mapping import mapped
from deeprec.dsstne.network import LayerKind, Network
from deeprec.dsstne.network_file import read_network
from deeprec.dsstne.remark import show
from deeprec.dsstne.weights import Rows, index_of, model_part, put, rows_by_label
from deeprec.errors import ConfigError
from deeprec.trainer import checkpoint
from deeprec.trainer.logger import MetricsFile
from deeprec.trainer.run import RunFolder, refuse_to_overwrite, take_away_unmade
from deeprec.verb import TrainConfig
from deeprec.work import Work, next_of


def import_weights(
    *,
    network_file: Path,
    input_index: Path,
    output_index: Path,
    further: Mapping[str, Path] | None = None,
    prepared_folder: Path,
    output_dir: Path,
) -> Path:
    """Writes a run that holds the network as trained, over the catalog of a prepared folder.

    An item of the catalog that an index does not have gets a row of zeros, and the lowest bias; so
    does a value of a user attribute, which has no bias.

    Args:
        network_file: the network.
        input_index: feature index of its history.
        output_index: feature index of its output.
        further: by data set, feature index of each further input; the prepared folder has a user
            attribute of its name, and no other.
        prepared_folder: of whose items it recommends.
        output_dir: the run, a new folder.

    Raises:
        ConfigError: the network is not one of ours, its inputs and the user attributes differ, or
            output_dir is not new.
        DataError: a file is not what it must be, or the catalog and the index files share nothing.
    """
    take_away_unmade(output_dir)
    refuse_to_overwrite(output_dir)
    network = read_network(network_file)
    model, remarks = model_part(network, network_file)
    show(one for one in remarks if one.outcome == "mapped")
    check_further(network, further or {})
    prepared = Prepared(prepared_folder, parts=READ)
    _check_attributes(network, prepared)
    attributes = {
        name: attribute_columns(network, prepared, name, path)
        for name, path in (further or {}).items()
    }
    labels = prepared.catalog.item_ids.to_pylist()
    [output] = network.of_kind(LayerKind.OUTPUT)
    inputs, outputs = index_of(network.history, input_index), index_of(output, output_index)
    rows = rows_by_label(labels, inputs, outputs, attributes)
    work = Work(_config(network, model, prepared_folder, output_dir), prepared)
    put(network, rows, work.learner.model)
    _write(work, prepared, output_dir)
    for remark in _left_out(rows, labels, outputs, prepared_folder):
        console.print(f"[yellow]note[/yellow] {remark}", soft_wrap=True)
    console.print(f"run: {output_dir}\nnext: {next_of(output_dir, prepared)}", soft_wrap=True)
    return output_dir


def _write(work: Work, prepared: Prepared, output_dir: Path) -> None:
    """The run, which has one checkpoint and no epoch."""
    work.learner.progress.epoch = work.schedule.max_epochs  # a resume must train nothing of it
    with RunFolder.begun(output_dir, work.config, prepared, work.facts, from_data=False) as run:
        MetricsFile(run.path / "metrics.csv")
        checkpoint.save(run.checkpoints, work.learner, None, run.made_from())
        run.finish()


def _left_out(
    rows: Rows, labels: Sequence[str], outputs: Mapping[str, int], prepared_folder: Path
) -> Iterator[str]:
    """The items that network and prepared folder do not share."""
    if absent := int((rows.outputs < 0).sum()):
        yield (
            f"{absent:,} of {len(rows):,} items are not in the output index and come last in every "
            "list"
        )
    if left_out := len(outputs.keys() - {*labels}):
        yield (
            f"{left_out:,} of the {len(outputs):,} items that the network knows are not in "
            f"{prepared_folder}: the run neither reads nor answers them. For production, prepare "
            "it with train_on=everything"
        )


def _check_attributes(network: Network, prepared: Prepared) -> None:
    """The user attributes are the further inputs, by name."""
    wanted, there = {*network.further}, {*prepared.vocabularies}
    if more := there - wanted:
        raise ConfigError(
            f"{prepared.path} has user attributes that the network does not read, "
            f"{', '.join(sorted(more))}; prepare the events without them (data.user_attributes)"
        )
    if missing := wanted - there:
        raise ConfigError(
            f"the network reads {', '.join(sorted(missing))}, and {prepared.path} has no user "
            "attribute of this name; prepare the events with it (data.user_attributes)"
        )


def _config(
    network: Network, model: dict[str, Any], prepared_folder: Path, output_dir: Path
) -> TrainConfig:
    """What such a run would have been told."""
    to = mapped(network)
    words = [f"loss={to.choices['loss']}", "trainer.max_epochs=1", "logger.wandb=off"]
    words += [f"prepared={prepared_folder}", f"output_dir={output_dir}"]
    told = cast(TrainConfig, config.compose("train", words))
    assert told.loss is not None
    return replace(told, model=model, loss={**told.loss, **to.loss})
