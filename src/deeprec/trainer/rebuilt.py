"""A bundle's model made again from its weights, with neither TorchScript nor pickle.

`architecture.json` is the model part of the run's config and what the data said; with them the same
class of deeprec is built, so deeprec is needed, of the version that the bundle names.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from deeprec import bundle
from deeprec.errors import ConfigError
from deeprec.model.base import Recommender
from deeprec.trainer import checkpoint
from deeprec.trainer.checkpoint import Checkpoint
from deeprec.trainer.facts import Facts, trained_model


def architecture(part: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """What `rebuild` reads beside the weights."""
    return {"model": dict(part), "facts": asdict(facts)}


def save(draft: Path, model: Any, described: Mapping[str, Any]) -> None:
    """Writes the weights of a model and what it is built with."""
    checkpoint.write_tensors(draft / bundle.WEIGHTS, model.state_dict())
    bundle.write_json(draft / bundle.ARCHITECTURE, described)


def rebuild(path: Path) -> Recommender:
    """The model of a bundle in evaluation mode, on the CPU; its weights stay in their file.

    Raises:
        ConfigError: there is no bundle, it came without weights, or its model is one of a package
            that is not trusted.
        IntegrityError: a file of it was changed or is damaged; it is named.
    """
    if bundle.ARCHITECTURE not in bundle.verify(path)["files"]:
        raise ConfigError(f"{path}: has no {bundle.ARCHITECTURE}; export its run again")
    return built(path)


def built(path: Path) -> Recommender:
    """As `rebuild`, of a folder that is known to be whole."""
    described = json.loads((path / bundle.ARCHITECTURE).read_text(encoding="utf-8"))
    facts = Facts(**described["facts"])
    model = trained_model(described["model"], facts, Checkpoint(path, {}))
    return cast(Recommender, model.eval())
