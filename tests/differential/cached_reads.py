"""The same query through the ring and in plain Django, and how often the ring has answered it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connections
from django.db.models.manager import BaseManager

from cachebackend.queries.options import QueryOptions
from cachebackend.queries.queryset import CachedQuerySet, cached_queryset
from tests.differential.query_forms import Call, result_of
from tests.differential.query_kinds import KINDS, Constants, Query

__all__ = ["Asked", "Findings", "Statements", "cached_managers"]

#: The share of reads that are async: each starts an event loop.
_ASYNC_SHARE = 0.1
#: The share of reads that evaluate a queryset again.
_KEPT_SHARE = 0.3


@contextmanager
def cached_managers(alias: str) -> Iterator[None]:
    """Let all managers return querysets that are evaluated through the ring, for a block that makes queries.

    Args:
        alias: The cache alias. For "default" they are the querysets of the models' ``CachedManager``.
    """
    method: Callable[..., Any] = BaseManager.get_queryset

    def get_queryset(manager: Any) -> Any:
        plain = method(manager)
        if plain.model._meta.app_label != "zoo":
            return plain
        if alias != "default" or not hasattr(plain.model, "cached"):
            return cached_queryset(plain, QueryOptions(alias))
        cached = plain.model.cached.get_queryset()
        cached._db, cached._hints = plain._db, plain._hints
        return cached

    BaseManager.get_queryset = get_queryset  # type: ignore[method-assign]
    try:
        yield
    finally:
        BaseManager.get_queryset = method  # type: ignore[method-assign]


class Statements:
    """Counts the statements that the database gets from this thread, without those of savepoints."""

    def __init__(self, using: str) -> None:
        self._connection = connections[using]
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count those of a block."""
        with self._connection.execute_wrapper(self._count):
            yield

    def _count(self, execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        self.count += not sql.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK"))
        return execute(sql, *rest)


@dataclass
class Findings:
    """What a run has found.

    Attributes:
        writes: The writes.
        reads: The reads that were compared.
        hits: Those for which the database was not asked.
        changed: The reads outside of a transaction whose result was another one than that of the read before.
        same: The reads outside of a transaction whose result was the same as that of the read before.
        same_hits: Those of them for which the database was not asked.
        wrong: A line for each result that was another one than that of plain Django.
    """

    writes: int = 0
    reads: int = 0
    hits: int = 0
    changed: int = 0
    same: int = 0
    same_hits: int = 0
    wrong: list[str] = field(default_factory=list)
    loads: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.writes} writes, {self.reads} reads, {self.hits} hits; {self.changed} results were "
            f"another one than before; of {self.same} results that were "
            f"the same as before, {self.same_hits} were hits"
        )


@dataclass
class Asked:
    """A query in one form, with constants that do not change.

    Args:
        kind: Its name in ``KINDS``.
        form: Its name in ``FORMS``.
        constants: The seed of its constants.
        alias: The cache alias.
    """

    kind: str
    form: str
    constants: str
    alias: str = "default"
    _before: Any = None
    #: A queryset that is kept over writes, and evaluated again after each.
    _kept: Any = None

    def __str__(self) -> str:
        return f"{self.kind}, {self.form} ({self.alias}, constants {self.constants})"

    def _query(self) -> Query:
        return KINDS[self.kind](Constants(random.Random(self.constants)))

    def cached(self, *, is_async: bool = False, is_kept: bool = False) -> Any:
        """Return the result through the ring.

        Args:
            is_async: Whether it is read in an async way.
            is_kept: Whether a queryset is evaluated again that an earlier read has made.
        """
        query = self.kept() if is_kept else self._cached_query()
        return result_of(query, self.form, Call(is_async=is_async))

    def kept(self) -> Any:
        """Return a new clone of the queryset that is kept."""
        if self._kept is None:
            self._kept = self._cached_query()
        return self._kept.all()

    def _cached_query(self) -> Query:
        with cached_managers(self.alias):
            query = self._query()
        assert isinstance(query, CachedQuerySet)
        return query

    def plain(self) -> Any:
        """Return the result in plain Django."""
        return result_of(self._query(), self.form, Call(is_async=False))

    def compare(self, found: Findings, using: str, source: random.Random, *, is_committed: bool) -> str:
        """Read the query in both ways; return what differs.

        Args:
            found: What the run has found so far.
            using: The alias of the database.
            source: Says whether it is read in an async way.
            is_committed: Whether what is read is committed, so that it may be kept.
        """
        plain, statements = self.plain(), Statements(using)
        with statements.counted():
            cached = self.cached(
                is_async=source.random() < _ASYNC_SHARE, is_kept=source.random() < _KEPT_SHARE
            )
        is_hit = statements.count == 0
        found.reads += 1
        found.hits += is_hit
        if is_committed:
            is_same = self._before == plain
            found.changed += self._before is not None and not is_same
            found.same += is_same
            found.same_hits += is_same and is_hit
            if is_same and not is_hit:
                found.loads[f"{self.kind}, {self.form}"] += 1
            self._before = plain
        if cached == plain:
            return ""
        return f"{self}{' hit' * is_hit}:\n  the ring says {cached!r},\n  the database  {plain!r}"
