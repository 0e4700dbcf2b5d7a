"""Items by their words: what a person knows of them, and finds them by."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

NAMES = ("name", "title", "description", "label")  # columns that say what an item is
OURS = ("item_index", "item_id", "added_in", "retired_in")
MOST_WORDS = 8  # of a search


class CatalogSearch:
    """The catalog of a bundle, searched by words of ids and attributes.

    Args:
        path: catalog.parquet.
    """

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path, page_checksum_verification=True)
        self._ids = table["item_id"].cast(pa.large_string()).combine_chunks()
        self._attributes = {
            name: table[name].cast(pa.large_string()).combine_chunks()
            for name in table.column_names
            if name not in OURS and _is_plain(table[name].type)
        }
        self._retired = pa.array([False] * table.num_rows)
        if "retired_in" in table.column_names:
            self._retired = pc.is_valid(table["retired_in"]).combine_chunks()
        self.name = _telling(self._attributes)
        texts = [pc.fill_null(one, "") for one in self._named_first()]
        space = pa.scalar(" ", pa.large_string())
        self._text = pc.utf8_lower(pc.binary_join_element_wise(*texts, self._ids, space))

    def _named_first(self) -> list[pa.Array]:
        names = sorted(self._attributes, key=lambda name: name != self.name)
        return [self._attributes[name] for name in names]

    def search(self, words: str, limit: int) -> list[dict[str, Any]]:
        """Items that hold every word, those that begin with the first one before others."""
        wanted = words.lower().split()[:MOST_WORDS]
        if not wanted:
            return []
        places = pc.indices_nonzero(pc.invert(self._retired))
        for word in wanted:
            found = pc.match_substring(self._text.take(places), word)
            places = places.filter(found)
        begins = pc.starts_with(self._text.take(places), wanted[0])
        first, rest = places.filter(begins), places.filter(pc.invert(begins))
        return [self.told(place) for place in [*first.slice(0, limit), *rest.slice(0, limit)]][
            :limit
        ]

    def told(self, place: Any) -> dict[str, Any]:
        """What is known of the item at an index: its id, its name, its other attributes."""
        index = int(place.as_py()) if isinstance(place, pa.Scalar) else place
        item_id = self._ids[index].as_py()
        known = {name: column[index].as_py() for name, column in self._attributes.items()}
        name = known.pop(self.name, None) if self.name else None
        kept = {key: value for key, value in known.items() if value}
        return {"item_id": item_id, "name": name or item_id, "attributes": kept}


def _is_plain(kind: pa.DataType) -> bool:
    """Text and numbers; of lists a person reads little."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
    )


def _telling(attributes: dict[str, pa.Array]) -> str | None:
    """The attribute that says best what an item is: called so, or of the most values."""
    for wanted in NAMES:
        for name in attributes:
            if name.lower() == wanted:
                return name
    values = {name: pc.count_distinct(column).as_py() for name, column in attributes.items()}
    return max(values, key=values.__getitem__) if values else None
