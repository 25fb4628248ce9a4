"""The encodings of a batch: for each of its columns the code of the encoding of the queued values.

A column's type may change while its values are queued. Without the code, 12345 that was queued as
123.45 would be read as 1.2345 once the column has four decimal places. A batch has one encoding of
a column: ``fold.lua`` seals the batch before it takes a value in another one. A batch of a release
that did not store encodings has none; its values have the column's present encoding.

A code may be followed by the alias of the database to which the writer's routers send the rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.protocol.queue.partition import Partition

__all__ = ["DEFAULT_DATABASE", "Encodings", "encoding_entry", "entry_of_database", "parse_encodings"]

#: Django's alias of the default database: entries do not name it.
DEFAULT_DATABASE = "default"
_DATABASE = "@"


class Encodings(dict[str, str]):
    """The code of the encoding of each column of a batch.

    Args:
        codes: Each column and its code.
        databases: The aliases of the databases to which the routers of the writers send the rows; none if
            a release wrote the batch that did not store encodings.

    Attributes:
        databases: As the argument.
    """

    def __init__(self, codes: Iterable[tuple[str, str]] = (), databases: Iterable[str] = ()) -> None:
        super().__init__(codes)
        self.databases = frozenset(databases)


def encoding_entry(column: str, code: str) -> bytes:
    """Return a column and the code of its encoding, as the queue stores them. Neither contains NUL."""
    return f"\0{column}\0{code}\0".encode()


def entry_of_database(entry: bytes, database: str) -> bytes:
    """Return an entry that also names the database of the rows, if it is not the default one.

    So ``fold.lua`` seals a batch before a value of another database replaces one, and a drain knows a
    batch that belongs to another database than its own.
    """
    if database == DEFAULT_DATABASE:
        return entry
    return b"%b%b\0" % (entry[:-1], f"{_DATABASE}{database}".encode())


def parse_encodings(partition: Partition, text: bytes) -> Encodings:
    """Return the code of each column from the entries of a batch.

    Raises:
        WriteBehindDamagedError: The text is not made of entries.
    """
    if not text:
        return Encodings()
    entries = text.decode(errors="replace").removeprefix("\0").removesuffix("\0").split("\0\0")
    pairs = [entry.split("\0") for entry in entries]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        message = f"the queue of {partition} is damaged: {text[:80]!r} names no encodings of columns"
        raise WriteBehindDamagedError(message)
    codes = [(column, *code.partition(_DATABASE)[::2]) for column, code in pairs]
    return Encodings(
        ((column, code) for column, code, _ in codes), (name or DEFAULT_DATABASE for *_, name in codes)
    )
