"""Parked writes are checked completely when they are read."""

from __future__ import annotations

from typing import Any

import ormsgpack
import pytest

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.writebehind.stored_writes import StoredChange, StoredWrite, unpack_write

GOOD: dict[str, Any] = {"marker": b"c", "changes": [["count", b"d", b"5"]], "codes": ["i"]}


def test_a_write_comes_back() -> None:
    """An earlier release stored no codes; a column that is gone has none."""
    change = StoredChange("count", b"d", b"5", "i")
    assert unpack_write(ormsgpack.packb(GOOD)) == StoredWrite(b"c", [change])
    assert unpack_write(ormsgpack.packb(GOOD | {"codes": [None]})).changes == [change._replace(code=None)]
    assert unpack_write(ormsgpack.packb({"marker": b"x", "changes": []})) == StoredWrite(b"x", [])


@pytest.mark.parametrize("part", ["marker", "column", "kind", "value", "code"])
@pytest.mark.parametrize("odd", [None, 5, 1.5, True, "d", b"\xff", [], {}, [b"d"], "nul\0"])
def test_no_part_may_have_another_type(part: str, odd: Any) -> None:
    """A text and bytes are two types."""
    kinds: dict[str, tuple[type, ...]] = {"column": (str,), "value": (bytes,), "code": (str, type(None))}
    names = ["column", "kind", "value"]
    change = ["count", b"d", b"5"]
    write = GOOD | {"changes": [change]}
    if part in names:
        change[names.index(part)] = odd
    else:
        write |= {part: odd} if part == "marker" else {"codes": [odd]}
    packed = ormsgpack.packb(write)
    if isinstance(odd, kinds.get(part, ())) and (part, odd) != ("column", "nul\0"):
        assert unpack_write(packed)
    else:
        with pytest.raises(WriteBehindDamagedError):
            unpack_write(packed)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xff",
        b"\x91" * 5000 + b"\x90",
        b"\xdd\xff\xff\xff\xff",
        *map(
            ormsgpack.packb,
            [
                [1],
                5,
                {},
                {"marker": b""},
                {"changes": []},
                GOOD | {"changes": 5},
                GOOD | {"changes": [["count", b"d"]]},
                GOOD | {"changes": [5]},
                GOOD | {"codes": []} | {"changes": None},
                GOOD | {"codes": ["i", "i"]},
                GOOD | {"codes": 5},
            ],
        ),
    ],
)
def test_another_form_is_damaged(packed: bytes) -> None:
    """Only one error comes out."""
    with pytest.raises(WriteBehindDamagedError):
        unpack_write(packed)
