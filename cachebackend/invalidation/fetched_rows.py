"""The rows of a statement's result, also if Python cannot hold each of their values.

Postgres has moments that no ``datetime`` can be, such as ``infinity``. psycopg raises an error then, and the
statement that has returned them is executed, and maybe committed. So each value is read by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cachebackend.interrupts import raise_interrupt

__all__ = ["UNREADABLE", "FetchError", "fetch_rows"]

#: Instead of a value that Python cannot hold.
UNREADABLE = object()
FetchError = Exception | None


def fetch_rows(cursor: Any) -> tuple[list[Sequence[Any]], FetchError]:
    """Return the rows of a cursor's result, and the driver's error if one of their values is unreadable.

    Raises:
        Exception: The driver's error, if the driver is not psycopg 3.
    """
    try:
        return cursor.fetchall(), None
    except Exception as error:  # a loader of the project may raise anything
        raise_interrupt(error)
        result = getattr(cursor, "pgresult", None)
        if result is None:
            raise
        columns = [_values(cursor, result, column) for column in range(result.nfields)]
        return list(zip(*columns, strict=True)), error


def _values(cursor: Any, result: Any, column: int) -> list[Any]:
    """Return the values of one column of a psycopg result."""
    kind, form = result.ftype(column), result.fformat(column)
    loader = cursor.adapters.get_loader(kind, form) or cursor.adapters.get_loader(0, form)
    load = loader(kind, cursor.connection).load
    return [_value(load, result.get_value(row, column)) for row in range(result.ntuples)]


def _value(load: Any, data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        return load(data)
    except Exception as error:  # noqa: BLE001  # as above
        raise_interrupt(error)
        return UNREADABLE
