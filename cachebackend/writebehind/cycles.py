"""Parked rows that refer to each other: none of them can be written before the others.

Each write was possible when it was queued: row A was created, then row B that refers to A, then A was made
to refer to B. The queue folds the writes of A into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from django.db import models

from cachebackend.writebehind.batch import BatchRow
from cachebackend.writebehind.expressions import PUT

__all__ = ["RowName", "find_cycles", "referred_rows"]

#: The label of a row's model, and its encoded key.
RowName: TypeAlias = tuple[str, str]


def referred_rows(model: type[models.Model], row: BatchRow) -> list[RowName]:
    """Return the rows to whose primary keys a write refers."""
    encoded = {column: value for (column, kind), value in row.changes.items() if kind == PUT}
    return [
        (field.remote_field.model._meta.label_lower, encoded[str(field.column)][1:].decode())
        for field in model._meta.local_concrete_fields
        if isinstance(field, models.ForeignKey)
        and field.target_field.primary_key
        and encoded.get(str(field.column), b"").startswith(b"=")
    ]


def find_cycles(references: Mapping[RowName, Sequence[RowName]]) -> list[list[RowName]]:
    """Return sets of rows that refer to each other, each with all rows that it needs.

    Args:
        references: The rows, each with the rows to which it refers; others than these are left out.
    """
    found: list[set[RowName]] = []
    for row in references:
        reached = _reached(row, references)
        if row in reached and reached not in found:
            found.append(reached)
    return [sorted(each) for each in found]


def _reached(row: RowName, references: Mapping[RowName, Sequence[RowName]]) -> set[RowName]:
    reached: set[RowName] = set()
    unvisited = [row]
    while unvisited:
        for other in references[unvisited.pop()]:
            if other in references and other not in reached:
                reached.add(other)
                unvisited.append(other)
    return reached
