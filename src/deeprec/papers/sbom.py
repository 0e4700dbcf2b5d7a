"""sbom.cdx.json: the software of a bundle as CycloneDX, from what is installed where it is written.

What answers from a bundle is `required`; what it was trained and written with is `excluded`, as
CycloneDX calls what does not run there. Hashes are those of the lock file of the checkout, one for
each wheel that it allows; an installation without a checkout has none, and says so.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from deeprec import __version__

SERVING = ("torch", "pyarrow")
REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?")
LOCKS = Path(__file__).parents[3] / "requirements"


def sbom(name: str, identity: str, created: str) -> dict[str, Any]:
    """The document of a bundle.

    Args:
        name: of the bundle.
        identity: of the checkpoint it was made of; "" where none is known.
        created: when, ISO 8601.
    """
    serving, writing = closure(SERVING), closure(["deeprec"])
    hashes = locked_hashes(LOCKS)
    found = {**writing, **serving}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": {
                "components": [{"type": "application", "name": "deeprec", "version": __version__}]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "bundle",
                "name": name,
                "version": identity[:12] or "unknown",
            },
        },
        "components": [
            component(found[key], hashes.get(key, []), is_serving=key in serving)
            for key in sorted(found)
        ],
        "dependencies": [
            {"ref": "bundle", "dependsOn": sorted(reference(found[key]) for key in SERVING)},
            *(
                {
                    "ref": reference(found[key]),
                    "dependsOn": sorted(
                        reference(found[need]) for need in needs(found[key]) if need in found
                    ),
                }
                for key in sorted(found)
            ),
        ],
        "properties": [
            {"name": "deeprec:python", "value": sys.version.split()[0]},
            {
                "name": "deeprec:hashes",
                "value": "of requirements/*.lock"
                if hashes
                else "none: installed without lock file",
            },
        ],
    }


def component(found: Distribution, hashes: Iterable[str], *, is_serving: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": "library",
        "bom-ref": reference(found),
        "name": found.metadata["Name"],
        "version": found.version,
        "purl": reference(found),
        "scope": "required" if is_serving else "excluded",
    }
    if "License-Expression" in found.metadata:
        told["licenses"] = [{"expression": found.metadata["License-Expression"]}]
    if allowed := sorted(hashes):
        told["properties"] = [{"name": "deeprec:locked-sha256", "value": " ".join(allowed)}]
    return told


def reference(found: Distribution) -> str:
    """The package URL; a build such as "+cpu" is another file of the same release."""
    release, _, build = found.version.partition("+")
    plain = f"pkg:pypi/{canonical(found.metadata['Name'])}@{release}"
    return f"{plain}?local={build}" if build else plain


def closure(names: Iterable[str]) -> dict[str, Distribution]:
    """What is installed of these and all they need, by canonical name."""
    found: dict[str, Distribution] = {}
    waiting = [canonical(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another platform, or not installed as a distribution
            continue
        waiting += needs(found[name])
    return found


def needs(found: Distribution) -> list[str]:
    """The names in its requirements, those of extras left out."""
    return [
        canonical(match[1])
        for line in found.requires or []
        if "extra ==" not in line and (match := REQUIREMENT.match(line))
    ]


def canonical(name: str) -> str:
    """As package indices write it.

    >>> canonical("Typing_Extensions")
    'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def locked_hashes(folder: Path) -> Mapping[str, list[str]]:
    """Canonical name -> SHA-256 of every wheel that a lock file with hashes allows."""
    hashes: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.lock")):
        name = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"([a-z0-9][a-z0-9._-]*)==", line):
                name = canonical(match[1])
            elif match := re.match(r"\s+--hash=sha256:([0-9a-f]{64})", line):
                hashes.setdefault(name, []).append(match[1])
    return {name: sorted(set(known)) for name, known in hashes.items()}
