"""A network file to a run that evaluates, exports and serves."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from deeprec import config, folder
from deeprec.config import TrainConfig
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.dsstne.mapping import mapped
from deeprec.dsstne.network import Network
from deeprec.dsstne.network_file import read_network
from deeprec.dsstne.remark import show
from deeprec.dsstne.text import read_index
from deeprec.dsstne.weights import model_part, put, rows_by_label
from deeprec.errors import ConfigError
from deeprec.trainer import checkpoint
from deeprec.trainer.run import RunFolder, refuse_to_overwrite
from deeprec.work import READ, Work, next_of


def import_weights(
    *,
    network_file: Path,
    input_index: Path,
    output_index: Path,
    prepared_folder: Path,
    output_dir: Path,
) -> Path:
    """Writes a run that holds the network as trained, over the catalog of a prepared folder.

    An item of the catalog that an index does not have gets a row of zeros, and the lowest bias.

    Raises:
        ConfigError: the network is not one of ours, or output_dir is not new.
        DataError: a file is not what it must be, or the catalog and the index files share nothing.
    """
    refuse_to_overwrite(output_dir)
    network = read_network(network_file)
    model, remarks = model_part(network, network_file)
    show(one for one in remarks if one.outcome == "mapped")
    prepared = Prepared(prepared_folder, parts=READ)
    if prepared.vocabularies:
        raise ConfigError(
            f"{prepared_folder} has user attributes, which the network does not read; prepare the "
            "events without data.user_attributes"
        )
    labels = prepared.catalog.item_ids.to_pylist()
    rows = rows_by_label(labels, read_index(input_index), read_index(output_index))
    work = Work(_config(network, model, prepared_folder, output_dir), prepared)
    put(network, rows, work.learner.model)
    with RunFolder.begun(output_dir, work.config, prepared, work.facts) as run:
        checkpoint.save(run.checkpoints, work.learner, None, run.made_from())
        with folder.writing_file(run.path / "metrics.csv") as draft:
            draft.write_text("epoch\n")
        run.finish()
    absent = int((rows.outputs < 0).sum())
    if absent:
        console.print(
            f"[yellow]note[/yellow] {absent:,} of {len(rows):,} items are not in the output index "
            "and come last in every list"
        )
    console.print(f"run: {output_dir}\nnext: {next_of(output_dir, prepared)}", soft_wrap=True)
    return output_dir


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
