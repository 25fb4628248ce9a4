"""Cached results of queries, of which a test asks which ones a write has made wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext

from cachebackend.queries.queryset import CachedQuerySet

__all__ = ["Pages"]

logger = logging.getLogger(__name__)


class Pages:
    """Some cached queries.

    Args:
        queries: Makes a queryset, by its name.
    """

    def __init__(self, queries: Mapping[str, Callable[[], CachedQuerySet[Any]]]) -> None:
        self._queries = queries

    def read(self) -> None:
        """Read all results, so that they are cached."""
        for query in self._queries.values():
            list(query())

    def loaded(self) -> set[str]:
        """Read all results; return the names of those that are loaded from the database.

        Each result equals that of plain Django.
        """
        loaded = set()
        for name, query in self._queries.items():
            with CaptureQueriesContext(connection) as captured:
                found = list(query())
            if len(captured):
                loaded.add(name)
                statements = "\n".join(each["sql"] for each in captured)
                logger.warning("%s: %s\n%s", name, statements, query().explain_cache())  # for tests that fail
            assert found == list(query().uncached()), name
        return loaded
