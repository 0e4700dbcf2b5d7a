"""Item ids to indices, in catalogs of any size and order."""

import random

import numpy as np
import pyarrow as pa
import pytest

from deeprec import serve
from deeprec.catalog import Catalog

ODD = ["", "0", "00", "7", "007", "a", "A", "é", "e\u0301", "\U0001f600", "\uffff", "z" * 300]


def ids_of(count: int) -> list[str]:
    draw = random.Random(count)
    ids = {f"{draw.choice(ODD)}{draw.randrange(10**6)}" for _ in range(count)} | set(ODD[:count])
    return sorted(ids, key=str.encode)[:count]


@pytest.mark.parametrize("count", [1, 2, 3, 31, 32, 33, 2000])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("many_items", [0, 10**6])
def test_every_id_is_found_and_no_other(
    count: int, in_order: bool, many_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MANY_ITEMS", many_items)
    ids = ids_of(count)
    if not in_order:
        random.Random(0).shuffle(ids)
    wanted = [*ids, *(f"{name}?" for name in ids), *ODD, "\U0010ffff", " "]
    expected = [ids.index(name) if name in ids else -1 for name in wanted]
    catalog, served = Catalog(ids), serve._Indices(pa.array(ids))
    assert catalog.indices_of(wanted).tolist() == expected  # many: by hashing
    assert [served.index_of(name) for name in wanted] == expected
    for start in range(0, len(wanted), 7):  # few: by halving where the catalog is in order
        few = slice(start, start + 7)
        assert catalog.indices_of(wanted[few]).tolist() == expected[few]


def test_no_id_is_at_no_place() -> None:
    ids = Catalog(ids_of(500))
    assert ids.indices_of([]).tolist() == []
    assert ids.indices_of([None]).tolist() == [-1]  # type: ignore[list-item]  # as an event without


def test_the_order_of_ids_is_that_of_bytes() -> None:
    ids = ids_of(300)
    assert Catalog(ids)._is_sorted
    swapped = np.array(ids, object)
    swapped[[10, 11]] = swapped[[11, 10]]
    assert not Catalog(swapped.tolist())._is_sorted
