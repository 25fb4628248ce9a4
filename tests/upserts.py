"""Upserts that run on every database."""

from __future__ import annotations

from django.db import connection

__all__ = ["unique_fields"]


def unique_fields(*names: str) -> list[str] | None:
    """Return ``unique_fields`` of an upsert; None on MySQL and MariaDB, where each unique index counts."""
    return list(names) if connection.features.supports_update_conflicts_with_target else None
