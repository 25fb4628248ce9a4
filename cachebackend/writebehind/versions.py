"""Batches of another version of the code: a worker may run an older version than the writer, or a newer one.

In a rolling deploy an old worker meets a column that its model does not have, or a value of a type
that its model's column does not have yet. If it parked such a row, a person would have to retry it,
and all later writes of the row would be parked behind it. So it asks the database. If the table is
not the one that the worker's model describes, another version of the code is deployed, and the
batch waits for a worker of that version.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connections, models

from cachebackend.errors import WriteBehindVersionError
from cachebackend.protocol import QueueState
from cachebackend.writebehind.batch import RowGroup
from cachebackend.writebehind.conversion import described, find_encoding, split_code

__all__ = ["require_same_version", "version_fault"]

_COLUMNS = """
    SELECT a.attname, b.typname, a.atttypmod
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    JOIN pg_type AS b ON b.oid = COALESCE(NULLIF(t.typbasetype, 0), t.oid)
    WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
#: The code of the encoding of Postgres' types; that of numeric has the number of decimal places.
_CODES = (
    dict.fromkeys(("int2", "int4", "int8"), "i")
    | dict.fromkeys(("float4", "float8"), "f")
    | dict.fromkeys(("text", "varchar", "bpchar", "citext", "inet"), "s")
    | dict.fromkeys(("timestamptz", "timestamp"), "ts")
    | {"date": "d", "time": "t", "interval": "dur", "bool": "b", "uuid": "u", "bytea": "x", "jsonb": "j"}
)


def require_same_version(model: type[models.Model], using: str, batch: Iterable[RowGroup]) -> None:
    """Raise if a batch has to wait for a worker that runs another version of the code.

    Args:
        model: The rows' model.
        using: The alias of the rows' database.
        batch: The rows, as ``read_batch`` returned them.

    Raises:
        WriteBehindVersionError: The table has a column, or a type, that the model does not have.
    """
    columns = {column for group in batch for column, _ in group.shape}
    fields = {field.column for field in model._meta.local_concrete_fields}
    unwritable = [split_code(column) for column in sorted(columns - fields)]
    if fault := _fault(model, using, [column for column, _ in unwritable]):
        raise WriteBehindVersionError(fault)


def version_fault(model: type[models.Model], using: str, state: QueueState) -> str | None:
    """Return why a partition's next batch may wait for a worker of another version; None if it does not.

    Args:
        model: The rows' model.
        using: The alias of the rows' database.
        state: The partition's queue.
    """
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    codes = state.encodings.get(state.done + 1, {})
    encodings = {column: find_encoding(fields.get(column)) for column in codes}
    other = [column for column, each in encodings.items() if each is None or each.code != codes[column]]
    return _fault(model, using, other)


def _fault(model: type[models.Model], using: str, columns: Iterable[str]) -> str | None:
    """Return how the table differs from the model in one of these columns; None if it does in none."""
    if not (columns := list(columns)):
        return None
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    stored = _stored_codes(model, using)
    for column in columns:
        field = fields.get(column)
        if field is None and column in stored:
            return (
                f"a batch has the column {column!r}, which the table of {model._meta.label} has, but not the "
                "model of this process; it waits for a worker with newer code, or until the column is dropped"
            )
        encoding, stored_code = find_encoding(field), stored.get(column)
        if encoding and stored_code and stored_code != encoding.code:
            return (
                f"a batch has values of another type than {field} has in this process: there it is "
                f"{described(encoding.code)}, in the table {described(stored_code)}; it waits for "
                "a worker whose model agrees with the table"
            )
    return None


def _stored_codes(model: type[models.Model], using: str) -> dict[str, str | None]:
    """Return the columns of the model's table, each with the code of its encoding; None if it has none."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_COLUMNS, [connection.ops.quote_name(model._meta.db_table)])
        return {name: _code(type_name, modifier) for name, type_name, modifier in cursor.fetchall()}


def _code(type_name: str, modifier: int) -> str | None:
    if type_name == "numeric":
        # The scale is in the low 11 bits of the modifier, which is 4 too large; -1: it has no scale
        return None if modifier < 0 else f"n{(modifier - 4) & 0x7FF}"
    return _CODES.get(type_name)
