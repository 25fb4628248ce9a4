"""The relay's work on outbox rows, made steppable, and the caches by alias whose keys it deletes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from sys import modules
from typing import Any

from cachebackend.effects import Operation
from cachebackend.invalidation.outbox import new_row
from cachebackend.invalidation.watched import KeysByAlias
from tests.interleavings import direct

__all__ = ["caches", "delete_rows", "relay_module"]

#: The package ``invalidation`` has a function of the module's name.
relay_module: Any = modules["cachebackend.invalidation.relay"]
#: The cache objects by alias; here each process has an alias of its own name.
caches: dict[str, Any] = {}


def delete_rows(rows: Mapping[int, KeysByAlias], early_tags: set[int]) -> Operation[list[int]]:
    """Return the relay's work on a page of outbox rows as an operation.

    Args:
        rows: The keys of each row, by its primary key.
        early_tags: The rows whose tags were confirmed before their values.

    Returns:
        The primary keys of the confirmed rows.
    """

    def run() -> list[int]:
        page = []
        for pk, keys in rows.items():
            row: Any = new_row(keys)
            row.pk, row.age = pk, timedelta(seconds=5)
            row.fault, row.size, row.packed_keys = "", len(row.keys), row.keys  # as ``stored_rows`` does
            page.append(row)
        return [row.pk for row in relay_module._Page(page, early_tags).confirmed_rows()]

    return direct.as_operation(run)
