"""MODEL_CARD.md, provenance.json and privacy.json: what is known of a bundle, and what is not."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc
from omegaconf import OmegaConf

from deeprec.data.store import Prepared

PARTS = ("model", "loss", "optimizer", "target")  # of a config; others may name places and people
UNKNOWN = "not known to deeprec; whoever offers this model should say it here"


def provenance(
    made_from: Mapping[str, Any],
    versions: Mapping[str, str],
    created: str,
    *,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """How the bundle came about; what is not known is null.

    Args:
        made_from: identities and hashes.
        versions: of what wrote the bundle.
        created: when it was written, ISO 8601.
        config: of the run.
        environment: what the run was trained with and on.
    """
    settings = None
    if config is not None:
        settings = {"seed": config.get("seed")} | {name: config.get(name) for name in PARTS}
    return {
        "made_from": dict(made_from),
        "settings": settings,
        "trained_with": None if environment is None else dict(environment),
        "written_with": dict(versions),
        "written": created,
    }


def train_config(config: Mapping[str, Any]) -> str:
    """What of a run's config can train such a model again, as YAML.

    The seed and the parts that decide what a model becomes; none that names a place or a tracker.
    """
    kept = ("seed", *PARTS, "weighting")
    return OmegaConf.to_yaml(OmegaConf.create({name: config.get(name) for name in kept}))


def privacy(prepared: Prepared, golden_persons: int) -> dict[str, Any]:
    """What the bundle holds of persons, as far as the prepared folder tells."""
    popularity = prepared.items["popularity"]
    return {
        "user_rows_held": False,
        "user_ids_held": False,
        "golden_requests": {
            "histories_of_persons": golden_persons,
            "user_ids": "left out",
            "meaning": "items and ages of events of so many judged users, without their ids; "
            "export with golden_users=1 to hold one",
        },
        "attribute_values": {
            name: "hashed, none is held" if isinstance(stored, Mapping) else "held as text"
            for name, stored in prepared.vocabularies.items()
        },
        "fewest_training_users_of_an_item": pc.min(popularity).as_py(),
        "consent": None,
        "erased_before_training": None,
        "unknown": "null: nothing of it was recorded with the prepared folder",
    }


def model_card(
    name: str,
    prepared: Prepared,
    kind: str,
    report: Mapping[str, Any] | None,
    precision: str,
    *,
    licensed: bool = False,
) -> str:
    """What people ask before they use a model, with the YAML header of the Hugging Face Hub."""
    slices = "" if report is None else " beyond the slices in `eval.json`"
    return f"""\
---
library_name: deeprec
pipeline_tag: other
tags:
  - recommender
{"license: other" if licensed else "license: unknown"}
---

# {name}

A recommender of items from histories of events ({kind}), with a catalog table in {precision}.

- **Intended use**: {UNKNOWN}.
- **Licence**: {"the file `LICENSE`" if licensed else UNKNOWN}.
- **Contact**: {UNKNOWN}.
- **Catalog**: {prepared.num_items:,} items.
- **Trained on**: {len(prepared.training_users()):,} users, {_period(prepared)}.
- **User attributes it reads**: {", ".join(prepared.vocabularies) or "none"}.
- **Fairness**: nothing was measured for groups of people{slices}.

## What it scored

{_scores(report)}

## Limits

- A user without known items is answered from what is known of items alone.
- An item that came after training is unknown: it is never answered, and left out of histories.
- Scores are comparable inside one answer, and are no probabilities.
- `policy.json` says what else is answered when, `privacy.json` what is held of persons, and
  `provenance.json` how this came about.
"""


def _period(prepared: Prepared) -> str:
    instants = [prepared.instant(part) for part in ("validation", "holdout")]
    known = [datetime.fromtimestamp(one, UTC).date().isoformat() for one in instants if one]
    if known:
        return f"events before {known[0]}"
    return "events not split at a moment" if prepared.has_times else "events without times"


def _scores(report: Mapping[str, Any] | None) -> str:
    systems: Sequence[Mapping[str, Any]] = (report or {}).get("systems", [])
    k = (report or {}).get("headline")
    rows = [
        f"| {system['name']} | {metric} | {system['metrics'][metric]['mean']:.4f} |"
        for system in systems
        for metric in (f"ndcg@{k}", f"recall@{k}", f"hit@{k}")
        if metric in system["metrics"]
    ]
    if not rows:
        return "No report of the run was there when it was exported; `deeprec evaluate` makes one."
    lines = ["| system | metric | mean over users |", "|---|---|---|", *rows]
    return "\n".join(
        [*lines, "", "`eval.json` holds intervals and the rules they were found under."]
    )
