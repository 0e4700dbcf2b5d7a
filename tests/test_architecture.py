"""docs/architecture.md names what is there, and nothing that is not."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
TREE = (CHECKOUT / "docs" / "architecture.md").read_text().split("## The tree")[1].split("## ")[0]
SOURCES = [path.name for path in (CHECKOUT / "src").rglob("*.py") if path.name[0] != "_"]


def test_every_module_is_in_the_tree() -> None:
    assert [name for name in SOURCES if name not in TREE] == []


def test_every_module_of_the_tree_exists() -> None:
    assert [name for name in re.findall(r"\b[a-z_]+\.py\b", TREE) if name not in SOURCES] == []
