"""The encodings of a batch: for each of its columns the code of the encoding of the queued values.

A column's type may change while its values are queued. Without the code, 12345 that was queued as
123.45 would be read as 1.2345 once the column has four decimal places. A batch has one encoding of
a column: ``fold.lua`` seals the batch before it takes a value in another one. A batch of a release
that did not store encodings has none; its values have the column's present encoding.
"""

from __future__ import annotations

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.protocol.queue.partition import Partition

__all__ = ["encoding_entry", "parse_encodings"]


def encoding_entry(column: str, code: str) -> bytes:
    """Return a column and the code of its encoding, as the queue stores them. Neither contains NUL."""
    return f"\0{column}\0{code}\0".encode()


def parse_encodings(partition: Partition, text: bytes) -> dict[str, str]:
    """Return the code of each column from the entries of a batch.

    Raises:
        WriteBehindDamagedError: The text is not made of entries.
    """
    if not text:
        return {}
    entries = text.decode(errors="replace").removeprefix("\0").removesuffix("\0").split("\0\0")
    pairs = [entry.split("\0") for entry in entries]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        message = f"the queue of {partition} is damaged: {text[:80]!r} names no encodings of columns"
        raise WriteBehindDamagedError(message)
    return dict(pairs)
