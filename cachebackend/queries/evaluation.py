"""Evaluation: in a block, the queries that Django runs are answered by the ring.

Django runs each SELECT by ``SQLCompiler.execute_sql``, whichever method of a queryset needs it:
iteration, ``count``, ``aggregate``, ``exists``, the queries of ``prefetch_related``. ``install`` wraps that
method. In a block of ``evaluated``, a statement whose result can be kept right is read through the
ring; Django makes instances, tuples or numbers of its rows as usual. Any other statement runs as it is.
"""

from __future__ import annotations

import functools
import logging
from asyncio import _get_running_loop  # returns None where get_running_loop raises, which is slow
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import router
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.constants import MULTI, SINGLE
from django.utils.asyncio import async_unsafe

from cachebackend import protocol
from cachebackend.backend import RingCache, find_ring_cache
from cachebackend.backend.guarded_loads import get_or_load
from cachebackend.backend.open_transactions import any_changed, has_own_settings
from cachebackend.errors import CodecError
from cachebackend.invalidation.transactions import has_changed_tables
from cachebackend.queries.counting import CountedRead, count_not_cached
from cachebackend.queries.not_cached import NotCached
from cachebackend.queries.options import QueryOptions
from cachebackend.queries.plans import Plan, plan_of, refuse

__all__ = ["UNCACHED", "Evaluation", "evaluated", "install", "not_evaluated", "refuse_in_event_loop"]

logger = logging.getLogger("cachebackend")
_current: ContextVar[Evaluation | None] = ContextVar("ringcache_evaluation", default=None)
#: The attribute of a query that is read from the database, also where it is prefetched.
UNCACHED = "_ringcache_uncached"
#: The attribute that marks a wrapped method.
_MARK = "_ringcache_reads"
Run = Callable[..., Any]


class Evaluation:
    """What one block of ``evaluated`` does.

    Args:
        options: How results are cached.
        around: The block around this one, which sees the same statements; None: there is none.

    Attributes:
        options: How results are cached.
        plans: The plan of each statement that was read through the ring.
        reads: The compiler and the rows of each of these statements.
        reasons: Why statements were run as they are.
        whole: What has read the rows from their own entries, if the result holds their primary keys.
    """

    def __init__(self, options: QueryOptions, around: Evaluation | None = None) -> None:
        self.options = options
        self.plans: list[Plan] = [] if around is None else around.plans
        self.reads: list[tuple[Any, Sequence[Any]]] = [] if around is None else around.reads
        self.reasons: list[str] = [] if around is None else around.reasons
        self.whole: Any = None

    def execute(self, compiler: Any, result_type: str, run: Run) -> Any:
        """Return what ``execute_sql`` returns, from the ring if the result can be kept right."""
        rows = self.read(compiler, result_type, run)
        # What follows are prefetches, and the code of models whose instances are made
        self.options = self.options._replace(depends_on=())
        if result_type == SINGLE:
            return run() if rows is None else tuple(rows[0]) if rows else None
        return [_for_instances(chain.from_iterable(run()) if rows is None else rows)]

    def read(self, compiler: Any, result_type: str, run: Run) -> Sequence[Any] | None:
        """Return the rows of a statement; None: its result is not cached, or known to be empty.

        Args:
            compiler: Django's compiler of the statement.
            result_type: Which rows ``execute_sql`` shall return.
            run: Runs the statement.
        """
        cache = find_ring_cache(self.options.alias)
        if cache is None:
            return None
        try:
            plan = self._plan(compiler, result_type, cache)
            rows = None if plan is None else self._read(plan, compiler, result_type, run, cache)
        except NotCached as not_cached:
            self.reasons.append(not_cached.reason)
            count_not_cached(cache, compiler.query, not_cached.reason)
            return None
        return rows

    def _read(self, plan: Plan, compiler: Any, result_type: str, run: Run, cache: RingCache) -> Sequence[Any]:
        refuse_in_event_loop()
        fill_options = cache.fill_options(self.options.seconds, self.options.stale_for)
        fill_options = fill_options._replace(tags=plan.tags, shapes=plan.shapes)
        try:
            with CountedRead(cache, plan.counted_as) as counted:
                loader = counted.timed(lambda: _rows(run(), result_type))
                rows: Sequence[Any] = get_or_load(cache.client, plan.key, loader, fill_options)
        except CodecError as error:  # a function may return another type than the columns have
            refuse(plan, str(error))
            raise NotCached(str(error)) from error
        self.plans.append(plan)
        self.reads.append((compiler, rows))
        return rows

    def drop(self, plan: Plan) -> None:
        """Delete a result, so that it is loaded again."""
        cache = find_ring_cache(self.options.alias)
        if cache is not None:
            cache.client.run(protocol.delete(cache.client.context, plan.key))

    def _plan(self, compiler: Any, result_type: str, cache: RingCache) -> Plan | None:
        if getattr(compiler.query, UNCACHED, False):
            raise NotCached("uncached() reads from the database")
        if self.options.is_strict:
            raise NotCached("rows of a strict manager are read in the order of commits, and queries are not")
        model = compiler.query.model
        if model is not None and compiler.using != router.db_for_write(model):
            raise NotCached(f"{compiler.using!r} is not the database that {model.__name__} is written to")
        if has_own_settings(compiler.connection):  # plans are remembered
            raise NotCached("the open transaction has set its time zone, or another setting of results")
        try:
            plan = plan_of(compiler, result_type, self.options, cache)
        except EmptyResultSet:
            return None
        if plan is not None and any_changed() and has_changed_tables(compiler.connection, plan.tables):
            raise NotCached("the open transaction has changed a table that the query reads")
        return plan


def refuse_in_event_loop() -> None:
    """Raise as a query would, whether its result is cached or not.

    Raises:
        SynchronousOnlyOperation: An event loop runs in this thread.
    """
    if _get_running_loop() is not None:
        _refuse()


@async_unsafe("Use the async methods of querysets: you cannot call this from an async context.")
def _refuse() -> None:
    """Raise, unless the project allows queries in event loops."""


def _for_instances(rows: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield rows. Queries of the code that makes instances of them meanwhile are run as they are.

    If that code raises, the block ends, too.
    """
    evaluation = _current.get()
    _current.set(None)
    yield from map(tuple, rows)
    _current.set(evaluation)


def _rows(result: Any, result_type: str) -> list[list[Any]]:
    """Return the rows in what ``execute_sql`` has returned, as lists: every codec holds these."""
    if result_type == SINGLE:
        return [] if result is None else [list(result)]
    return [list(row) for chunk in result for row in chunk]


@contextmanager
def evaluated(options: QueryOptions) -> Iterator[Evaluation]:
    """Let the ring answer the queries of this thread or task in the block; one inside has its own options."""
    around = _current.get()
    evaluation = around if around is not None and around.options == options else Evaluation(options, around)
    token = _current.set(evaluation)
    try:
        yield evaluation
    finally:
        _current.reset(token)


@contextmanager
def not_evaluated() -> Iterator[None]:
    """Run the queries in the block as they are."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def install() -> None:
    """Wrap the method of Django's compilers that executes a SELECT; a second call does nothing."""
    compiler_class: Any = SQLCompiler
    method = compiler_class.execute_sql
    if hasattr(method, _MARK):
        return

    @functools.wraps(method)
    def execute(self: Any, result_type: str = MULTI, *args: Any, **kwargs: Any) -> Any:
        evaluation = _current.get()
        if evaluation is None or args or kwargs.get("chunked_fetch") or result_type not in {MULTI, SINGLE}:
            return method(self, result_type, *args, **kwargs)
        with not_evaluated():  # what is read meanwhile, to compile the query or by its own code, is not of it
            return evaluation.execute(self, result_type, lambda: method(self, result_type, **kwargs))

    setattr(execute, _MARK, method)
    compiler_class.execute_sql = execute
