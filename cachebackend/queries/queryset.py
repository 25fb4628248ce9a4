"""``CachedQuerySet``: a queryset that is evaluated through the ring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast

from django.db import models, router
from django.db.models.query import ModelIterable
from django.db.models.sql.constants import MULTI

from cachebackend import protocol
from cachebackend.backend import find_ring_cache
from cachebackend.backend.open_transactions import has_changes
from cachebackend.queries.binding import is_in_unbound
from cachebackend.queries.construction import Remembered, recall, remember, surroundings
from cachebackend.queries.counting import count_hit
from cachebackend.queries.evaluation import (
    UNCACHED,
    Evaluation,
    evaluated,
    install,
    not_evaluated,
    refuse_in_event_loop,
)
from cachebackend.queries.forms import form_of
from cachebackend.queries.options import QueryOptions
from cachebackend.queries.plans import Plan
from cachebackend.queries.relations import hides_rows, relations_of
from cachebackend.queries.steps import COPIED, UnbuiltQuerySet
from cachebackend.queries.tables import has_cacheable_rows
from cachebackend.queries.whole_rows import CONTRADICTED, WholeRows

__all__ = ["CachedQuerySet", "cached_queryset"]

M = TypeVar("M", bound=models.Model)
#: How Django 6.1 reads a deferred field or a related row, if the queryset names no other way.
_FETCH_MODE = getattr(models.QuerySet(), "_fetch_mode", None)


class CachedQuerySet(UnbuiltQuerySet[M]):
    """A queryset whose results are cached, and never older than what was committed before they are read.

    It has every method of Django's querysets. What cannot be kept right is read from the database:
    ``explain_cache`` says why. ``uncached`` returns a plain queryset.
    """

    def cached(self, **options: Any) -> Self:
        """Return a queryset with other options.

        Args:
            options: ``timeout``: seconds until a result expires. ``stale_for``: seconds after that in which
                an old result may be served while one caller loads it again. ``depends_on``: the models
                that parts of the query read which are not known, such as ``RawSQL``.
        """
        if "depends_on" in options:
            options["depends_on"] = tuple(model._meta.label for model in options["depends_on"])
        queryset: Self = self._follow("_with_options", (), options)
        return queryset

    def uncached(self) -> models.QuerySet[M]:
        """Return a plain queryset with the same query."""
        plain: models.QuerySet[M] = models.QuerySet(self.model)
        _copy(self, plain)
        setattr(plain.query, UNCACHED, True)  # Django copies it to each query that is made of this one
        return plain

    def explain_cache(self) -> str:
        """Return whether and how the result of the query is cached, as text to be read.

        For each result: its key, and for each table the rows and columns whose changes invalidate it. For a
        query whose result is not cached: the reason. The query is run, or read from the cache.
        """
        with self._evaluated() as evaluation:
            list(cast("Any", self)._chain())
        lines = [f"not cached: {reason}" for reason in evaluation.reasons]
        for plan in evaluation.plans:
            lines.append(f"cached as {plan.key.decode()}")
            lines += [f"  {dependency}" for dependency in plan.dependencies]
        if evaluation.whole is not None:
            lines.append(str(evaluation.whole))
        return "\n".join(lines) or "nothing is read: the query has no rows"

    # Reading

    @property
    def db(self) -> str:
        """The alias of the database: that to which the model is written, unless ``using`` names another."""
        own: Any = self
        return str(own._db or router.db_for_write(self.model, **own._hints))

    def count(self) -> int:
        """Return the number of rows."""
        if self._result_cache is None and not self._is_built:
            return int(self._recalled_or("count", models.QuerySet.count))
        with self._evaluated():
            return super().count()

    def exists(self) -> bool:
        """Return whether there is a row."""
        if self._result_cache is None and not self._is_built:
            return bool(self._recalled_or("exists", models.QuerySet.exists))
        with self._evaluated():
            return super().exists()

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return aggregates of the rows, by name."""
        with self._evaluated():
            return super().aggregate(*args, **kwargs)

    def _fetch_all(self) -> None:
        if not self._is_built:  # nothing is left to do but to read the rows: a construction has no prefetches
            if self._result_cache is None:
                self._result_cache = self._recalled_or("all", lambda built: built._all())
            return
        with self._evaluated() as evaluation:
            if self._result_cache is None and (whole := self._whole_rows()) is not None:
                self._result_cache = self._rows_by_key(whole, evaluation)
            super()._fetch_all()

    def _all(self) -> list[Any]:
        self._fetch_all()
        return cast("list[Any]", self._result_cache)

    def _recalled_or(self, kind: str, evaluate: Callable[[Any], Any]) -> Any:
        """Return a result as an earlier read of this construction did; else evaluate a queryset."""
        around = surroundings(self.db)
        known = None if has_changes(self.db) else recall(self._construction or 0, kind, around)
        if known is not None and (found := self._recalled(known)) is not protocol.MISSING:
            return found
        built = self._replayed()
        with evaluated(self.cache_options) as evaluation:
            result = evaluate(built)
        if (form := form_of(kind, result, evaluation, built)) is not None and self._construction is not None:
            read = Remembered(evaluation.plans[-1], form, evaluation.whole)
            remember(self._construction, kind, around, read)
        return result

    def _recalled(self, known: Remembered) -> Any:
        """Return the result of a plan, or MISSING."""
        cache = find_ring_cache(self.cache_options.alias)
        if cache is None:
            return protocol.MISSING
        refuse_in_event_loop()
        plan = known.plan
        names = protocol.FillOptions(None, tags=plan.tags, shapes=plan.shapes)
        wanted = (cache.client.context, plan.key, names, protocol.MISSING)
        if known.whole is not None:
            read = known.whole.read_beside(wanted, known.before, plan) if known.whole.is_of(self.db) else None
            if read is None:
                return protocol.MISSING
            count_hit(cache, plan.counted_as)
            instances, known.before = read
            return protocol.MISSING if instances is None else instances
        rows = cache.client.run(protocol.get_result(*wanted))
        if rows is protocol.MISSING:
            return rows
        count_hit(cache, plan.counted_as)
        return known.form(rows)

    def _prefetch_related_objects(self) -> None:
        """Read related rows as Django does; ``depends_on`` is about this query alone."""
        with evaluated(self.cache_options._replace(depends_on=())):
            super()._prefetch_related_objects()  # type: ignore[misc]

    def _whole_rows(self) -> WholeRows | None:
        """Return what reads whole rows from their own entries; None: the result holds the rows."""
        query, options = self.query, self.cache_options
        is_whole = (
            self._iterable_class is ModelIterable
            and getattr(self, "_fetch_mode", None) is _FETCH_MODE
            and query.default_cols
            and query.deferred_loading == (frozenset(), True)
            and query.group_by is None
            and len(self.model._meta.pk_fields) == 1
            and not (
                query.combinator
                or query.distinct
                or query.annotations
                or query.extra
                or query.select_for_update
                or query.is_empty()
                or is_in_unbound(query.where, self.db)
            )
        )
        if (
            not is_whole
            or not options.rows
            or options.is_strict
            or self.db != router.db_for_write(self.model)
        ):
            return None
        manager: Any = getattr(self.model, options.rows, None)
        if not manager.has_keys or (manager.base_manager is None and hides_rows(self.model)):
            return None
        relations = relations_of(self.model, query.select_related, options.alias, self.db)
        if relations is None:
            return None
        whole = WholeRows(manager, relations)
        # A query for primary keys does not read these tables, and so does not find that one is not cached
        return whole if all(has_cacheable_rows(each, self.db) for each in whole.models) else None

    def _rows_by_key(self, whole: WholeRows, evaluation: Evaluation) -> list[M] | None:
        """Return the instances whose primary keys are the result; None: the result is not cached."""
        queryset: Any = self

        def result() -> tuple[list[Any], Plan] | None:
            compiler = queryset._values("pk").query.get_compiler(self.db)
            found = evaluation.read(compiler, MULTI, compiler.execute_sql)
            if found is None:
                return None
            return [key for [key] in compiler.results_iter([found])], evaluation.plans[-1]

        with not_evaluated():
            instances = whole.read(result, evaluation.drop)
            if instances is CONTRADICTED:
                return list(ModelIterable(self))
        if instances is None:
            return None
        evaluation.whole = whole
        return [self._with_known(row) for row in instances]

    def _with_known(self, row: M) -> M:
        """Return a row with the related objects that the queryset knows, as Django sets them."""
        known: dict[Any, dict[Any, Any]] = cast("Any", self)._known_related_objects
        for field, objects in known.items():
            if field.is_cached(row):
                continue
            values = tuple(getattr(row, each.attname) for each, _ in field.related_fields)
            related = objects.get(values[0] if len(values) == 1 else values)
            if related is not None:
                setattr(row, field.name, related)
        return row

    @contextmanager
    def _evaluated(self) -> Iterator[Evaluation]:
        with evaluated(self.cache_options) as evaluation:
            yield evaluation

    # Writing

    def get_or_create(self, defaults: Any = None, **kwargs: Any) -> tuple[M, bool]:
        """Return a row as it is in the database, or create it, and whether it was created.

        The database may refuse to create a row because of one whose writer has not invalidated its absence
        yet: Django then reads again, and must find it.
        """
        return self.uncached().get_or_create(defaults, **kwargs)

    get_or_create.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the rows, as they are in the database."""
        deleted = self.uncached().delete()
        self._result_cache = None  # as Django does: the queryset may be read again
        return deleted

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]


def cached_queryset(queryset: models.QuerySet[M], options: QueryOptions) -> CachedQuerySet[M]:
    """Return a queryset with the query of another one that is evaluated through the ring."""
    cached: CachedQuerySet[M] = CachedQuerySet(queryset.model)
    _copy(queryset, cached)
    cached.query.__dict__.pop(UNCACHED, None)
    cached.cache_options = options
    return cached


def _copy(source: Any, target: Any) -> None:
    """Give a queryset the query of another one, as Django copies it to a clone."""
    target.query, target._db, target._hints = source.query.chain(), source._db, source._hints
    for name in COPIED:
        setattr(target, name, getattr(source, name))


install()
