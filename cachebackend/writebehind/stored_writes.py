"""Parked writes as MessagePack, checked completely when they are read.

Other programs can write to the table of parked writes. The type of each part is checked here and nowhere
else, so a write that was read can be applied, merged and shown like one of a batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ormsgpack

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.interrupts import raise_interrupt
from cachebackend.writebehind.batch import MARKERS
from cachebackend.writebehind.expressions import KINDS

__all__ = ["StoredChange", "StoredWrite", "unpack_write"]

_KINDS = frozenset(KINDS)


class StoredChange(NamedTuple):
    """A change of one column.

    Attributes:
        column: The column.
        kind: The kind of change.
        value: The encoded value.
        code: The code of the value's encoding; None: the present encoding of the column.
    """

    column: str
    kind: bytes
    value: bytes
    code: str | None


class StoredWrite(NamedTuple):
    """A write of one row.

    Attributes:
        marker: As of a ``BatchRow``.
        changes: Its changes.
    """

    marker: bytes
    changes: list[StoredChange]


def unpack_write(packed: bytes) -> StoredWrite:
    """Return a write from the bytes of a parked write.

    Raises:
        WriteBehindDamagedError: The bytes have another form than those that are stored.
    """
    try:
        stored = ormsgpack.unpackb(packed)
        marker, changes = stored["marker"], stored["changes"]
        codes = stored.get("codes") or [None] * len(changes)  # an earlier release stored none
        write = StoredWrite(
            marker,
            [
                StoredChange(column, kind, value, code)
                for (column, kind, value), code in zip(changes, codes, strict=True)
            ],
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise_interrupt(error)
        message = f"the changes of the parked write are not as they are stored: {error!r}"
        raise WriteBehindDamagedError(message) from error
    if not (_is_marker(marker) and all(map(_is_change, write.changes))):
        message = "a part of the parked write's changes has another type than is stored"
        raise WriteBehindDamagedError(message)
    return write


def _is_marker(marker: Any) -> bool:
    return isinstance(marker, bytes) and (not marker or marker in MARKERS)


def _is_change(change: StoredChange) -> bool:
    column, kind, value, code = change
    has_types = isinstance(column, str) and isinstance(kind, bytes) and isinstance(value, bytes)
    return has_types and kind in _KINDS and "\0" not in column and (code is None or isinstance(code, str))
