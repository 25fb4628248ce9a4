"""Shapes: what the cached results of a query depend on in one table, and which changes make them wrong.

A query binds some columns of a table to values, as ``category_id = 7`` does, and its result depends on
some columns: those that it filters, orders, groups or returns. The names of both are its **shape**. A
shape with values for the bound columns has a **tag**, which results of all queries with this shape and
these values have in common:

- a row that is inserted or deleted makes the tag wrong that has the row's values;
- a row that is updated makes two tags wrong, one with its old and one with its new values, if the
  update changes a column that the shape depends on. No other tag of the shape can be wrong.

A value enters a tag as a digest of its canonical text. If two values have one digest, too much is
invalidated and never too little.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b

import ormsgpack
from xxhash import xxh3_64_digest, xxh3_128_hexdigest

from cachebackend.interrupts import raise_interrupt
from cachebackend.properties import cached_property

__all__ = ["NULL", "SHAPE_ID_BYTES", "Shape", "value_digest"]

SHAPE_ID_BYTES = 12
#: The digest of NULL. No text has it: the digest of a text is made of at least one byte.
NULL = bytes(8)


def value_digest(text: str | None) -> bytes:
    """Return the eight bytes that stand for a value of a column in a tag.

    Args:
        text: The canonical text of the value; None: NULL.
    """
    return NULL if text is None else xxh3_64_digest(b"=" + text.encode("utf-8", "surrogatepass"))


class Shape:
    """What a query depends on in one alias of a table.

    Args:
        bound: The columns that the query binds to values.
        columns: The columns that its result depends on, the bound ones among them; None: all columns.
    """

    def __init__(self, bound: Collection[str], columns: Collection[str] | None) -> None:
        self.bound = tuple(sorted(bound))
        self.columns = None if columns is None else frozenset(columns).union(bound)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and (self.bound, self.columns) == (other.bound, other.columns)

    def __hash__(self) -> int:
        return hash((self.bound, self.columns))

    def __repr__(self) -> str:
        columns = "all columns" if self.columns is None else ", ".join(sorted(self.columns))
        return f"<Shape {', '.join(self.bound) or 'nothing'} of {columns}>"

    @cached_property
    def description(self) -> bytes:
        """The shape as the registry stores it."""
        return ormsgpack.packb([self.bound, None if self.columns is None else sorted(self.columns)])

    @cached_property
    def id(self) -> bytes:
        """The bytes by which the registry and the tags name the shape."""
        return blake2b(self.description, digest_size=SHAPE_ID_BYTES).digest()

    @classmethod
    def read(cls, description: bytes) -> Shape:
        """Return the shape that a description stands for.

        Raises:
            ValueError: It is not the description of a shape.
        """
        try:
            bound, columns = ormsgpack.unpackb(description)
        except (TypeError, ValueError) as error:
            raise_interrupt(error)
            message = f"{description[:40]!r} is not the description of a shape"
            raise ValueError(message) from error
        names = [bound, *([] if columns is None else [columns])]
        if not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in names):
            message = f"{description[:40]!r} is not the description of a shape"
            raise ValueError(message)
        return cls(bound, columns)

    def depends_on(self, changed: Collection[str] | None) -> bool:
        """Return whether results depend on one of the columns that an update changes; None: all."""
        return changed is None or self.columns is None or not self.columns.isdisjoint(changed)

    def tag(self, digests: Mapping[str, bytes]) -> str | None:
        """Return the last part of the name of the tag with some values.

        Args:
            digests: The digest of the value of each bound column; more columns do no harm.

        Returns:
            None: the value of a bound column is not known.
        """
        values = [digests.get(column) for column in self.bound]
        known = [value for value in values if value is not None]
        return None if len(known) < len(values) else f"{self.id.hex()}:{xxh3_128_hexdigest(b''.join(known))}"
