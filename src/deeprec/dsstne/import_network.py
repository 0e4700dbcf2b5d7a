"""A network definition to an experiment file that `deeprec train` runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from deeprec import config, folder
from deeprec.console import console
from deeprec.dsstne.definition import read_definition
from deeprec.dsstne.mapped import Mapped
from deeprec.dsstne.mapping import mapped
from deeprec.dsstne.remark import Remark, refuse, show


def import_network(definition: Path, output: Path | None = None) -> Path:
    """Writes the experiment, and says of every setting what became of it.

    Args:
        definition: JSON.
        output: the YAML file; None: `imported/experiment/NAME.yaml` beside the definition, where
            `--config-dir` finds it.

    Raises:
        ConfigError: something of the network is refused; all of it is named, nothing is written.
        DataError: it is no JSON.
    """
    network, remarks = read_definition(definition)
    to = Mapped() if any(one.outcome == "refused" for one in remarks) else mapped(network)
    remarks = [*remarks, *to.remarks]
    show(remarks)
    refuse(definition, remarks)
    path = output or definition.parent / "imported" / "experiment" / f"{definition.stem}.yaml"
    text = experiment(to, remarks, f"{definition.name}, network {network.name!r}")
    with folder.writing_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
    _tell(path)
    return path


def experiment(to: Mapped, remarks: Sequence[Remark], source: str) -> str:
    """The text of the experiment file."""
    head = [f"# A network of DSSTNE: {source}."]
    head += [f"#   {one}" for one in remarks]
    defaults = [{f"override /{group}": choice} for group, choice in to.choices.items()]
    parts: dict[str, Any] = {"defaults": defaults, "model": to.model, "loss": to.loss}
    if to.constraints:
        parts["optimizer"] = {"constraints": to.constraints}
    if to.rate:
        parts["rate"] = to.rate
    body = OmegaConf.to_yaml(OmegaConf.create(parts))
    return "\n".join(["# @package _global_", *head, body])


def _tell(path: Path) -> None:
    """Says what comes next, after the file was composed as `train` will compose it."""
    console.print(f"{path}", soft_wrap=True)
    if path.parent.name != "experiment":
        return
    words = [f"experiment={path.stem}", "prepared=known", "output_dir=known"]
    config.compose("train", words, config_dir=path.parent.parent)
    console.print(
        "how it is trained (optimizer, epochs, batch) is not part of a definition and stays at the "
        "defaults of deeprec\n"
        f"next: deeprec train --config-dir {path.parent.parent} experiment={path.stem} "
        "prepared=FOLDER output_dir=RUN",
        soft_wrap=True,
    )
