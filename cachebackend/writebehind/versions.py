"""Batches of another version of the code: a worker may run an older version than the writer, or a newer one.

In a rolling deploy an old worker meets a column that its model does not have, or a table whose columns
have other types by now; a new worker may run before its migration. If it parked such a row, a person
would have to retry it, and all later writes of the row would be parked behind it. If it wrote the row,
Postgres would round a value to the type of the column. So it asks the database. If a written column of the
table is not the one that the worker's model describes, the write waits for a worker whose model agrees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django.db import models

from cachebackend.protocol.queue import QueueState
from cachebackend.writebehind.conversion import described, find_encoding, split_code
from cachebackend.writebehind.stored_columns import StoredColumn, is_declared_type, read_stored_columns

__all__ = ["columns_fault", "has_other_types", "version_fault"]

#: The types whose input functions accept a text or refuse it; those of others may round it.
_EXACT_INPUTS = frozenset({"u", "j", "i", "b"})


def columns_fault(
    model: type[models.Model], columns: Iterable[str], stored: Mapping[str, StoredColumn]
) -> str | None:
    """Return why a write has to wait for a worker that runs another version of the code; None if it does not.

    Args:
        model: The rows' model.
        columns: The columns that are written, as ``convert_columns`` names them.
        stored: The columns of the model's table.
    """
    if not stored:
        return None
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    for name in sorted({str(model._meta.pk.column), *columns}):
        column, code = split_code(name)
        field = fields.get(column)
        if field is None and column in stored:
            return (
                f"a batch has the column {column!r}, which the table of {model._meta.label} has, but not the "
                "model of this process; it waits for a worker with newer code, or until the column is dropped"
            )
        if field is not None and column not in stored:
            return (
                f"a batch has the column {column!r}, which the table of {model._meta.label} does not have; "
                "it waits for the migration that adds the column"
            )
        encoding = find_encoding(field)
        if field is None or encoding is None or (stored_code := stored[column].code) is None:
            continue
        is_exact = code is not None or field.primary_key
        if stored_code != encoding.code and (is_exact or not _is_held(encoding.code, stored_code)):
            return (
                f"a batch has values of another type than {field} has in this process: there it is "
                f"{described(encoding.code)}, in the table {described(stored_code)}; it waits for "
                "a worker whose model agrees with the table"
            )
    return None


def version_fault(model: type[models.Model], using: str, state: QueueState) -> str | None:
    """Return why a partition's next batch may wait for a worker of another version; None if it does not.

    Args:
        model: The rows' model.
        using: The alias of the rows' database.
        state: The partition's queue.
    """
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    columns = []
    for column, code in state.encodings.get(state.done + 1, {}).items():
        encoding = find_encoding(fields.get(column))
        columns.append(column if encoding and encoding.code == code else f"{column}\0{code}")
    return columns_fault(model, columns, read_stored_columns(model, using, lock=False)) if columns else None


def has_other_types(
    model: type[models.Model], using: str, columns: Iterable[str], stored: Mapping[str, StoredColumn]
) -> bool:
    """Return whether one of some columns of the table is longer or shorter than the model declares it."""
    names = {split_code(column)[0] for column in columns}
    fields = [field for field in model._meta.local_concrete_fields if field.column in names]
    return not all(is_declared_type(field, using, stored) for field in fields)


def _is_held(code: str, stored_code: str) -> bool:
    """Return whether a column holds each value of an encoding exactly, or refuses it."""
    if code == "s":
        return stored_code in _EXACT_INPUTS
    places, stored_places = _decimal_places(code), _decimal_places(stored_code)
    return places is not None and stored_places is not None and places <= stored_places


def _decimal_places(code: str) -> int | None:
    if code == "i":
        return 0
    return int(code[1:]) if code.startswith("n") and code[1:].isdecimal() else None
