"""Sessions that hold rows which queued writes need."""

from __future__ import annotations

from django.db import connections

from cachebackend.writebehind.row_locks import row_locks


def test_a_database_other_than_postgres_is_not_asked() -> None:
    """It has other tables for its locks."""
    other = next((using for using in connections if connections[using].vendor != "postgresql"), None)
    assert other is None or row_locks(other) == []
