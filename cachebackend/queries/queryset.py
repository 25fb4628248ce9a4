"""``CachedQuerySet``: a queryset that is evaluated through the ring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast

from django.db import models, router
from django.db.models.query import ModelIterable
from django.db.models.sql.constants import MULTI

from cachebackend.backend.canonical import canonical_text
from cachebackend.queries.evaluation import Evaluation, evaluated, install, not_evaluated
from cachebackend.queries.options import QueryOptions

__all__ = ["CachedQuerySet", "cached_queryset"]

M = TypeVar("M", bound=models.Model)
#: What Django copies from a queryset to its clone, beside the query, the database and the hints.
_COPIED = (
    "_fields",
    "_for_write",
    "_iterable_class",
    "_known_related_objects",
    "_prefetch_related_lookups",
    "_sticky_filter",
)
#: How often a result is read whose rows do not fit it, before the query is run.
ATTEMPTS = 2
#: Returns the rows with some primary keys, by primary key.
RowReader = Callable[[Sequence[Any]], "dict[Any, Any]"]


class CachedQuerySet(models.QuerySet[M]):
    """A queryset whose results are cached, and never older than what was committed before they are read.

    It has every method of Django's querysets. What cannot be kept right is read from the database:
    ``explain_cache`` says why. ``uncached`` returns a plain queryset.
    """

    cache_options = QueryOptions()

    def cached(self, **options: Any) -> Self:
        """Return a queryset with other options: ``timeout``, ``stale_for`` or ``depends_on``."""
        clone: Any = cast("Any", self)._chain()
        depends_on = options.pop("depends_on", None)
        if depends_on is not None:
            options["depends_on"] = tuple(model._meta.label for model in depends_on)
        clone.cache_options = self.cache_options._replace(**options)
        queryset: Self = clone
        return queryset

    def uncached(self) -> models.QuerySet[M]:
        """Return a plain queryset with the same query."""
        plain: models.QuerySet[M] = models.QuerySet(self.model)
        _copy(self, plain)
        return plain

    def explain_cache(self) -> str:
        """Return whether and how the result of the query is cached, as text to be read."""
        with self._evaluated() as evaluation:
            list(cast("Any", self)._chain())
        lines = [f"not cached: {reason}" for reason in evaluation.reasons]
        for plan in evaluation.plans:
            lines.append(f"cached as {plan.key.decode()}")
            lines += [f"  {each.table}: {each.shape!r}" for each in plan.dependencies]
        return "\n".join(lines) or "nothing is read: the query has no rows"

    # Reading

    @property
    def db(self) -> str:
        """The alias of the database: that to which the model is written, unless ``using`` names another."""
        own: Any = self
        return str(own._db or router.db_for_write(self.model, **own._hints))

    def count(self) -> int:
        """Return the number of rows."""
        with self._evaluated():
            return super().count()

    def exists(self) -> bool:
        """Return whether there is a row."""
        with self._evaluated():
            return super().exists()

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return aggregates of the rows, by name."""
        with self._evaluated():
            return super().aggregate(*args, **kwargs)

    def _fetch_all(self) -> None:
        with self._evaluated() as evaluation:
            if self._result_cache is None and (read_rows := self._row_reader()) is not None:
                self._result_cache = self._rows_by_key(read_rows, evaluation)
            super()._fetch_all()

    def _row_reader(self) -> RowReader | None:
        """Return what reads whole rows from their own entries; None: the result holds the rows."""
        query = self.query
        is_whole = (
            self._iterable_class is ModelIterable
            and query.default_cols
            and query.deferred_loading == (frozenset(), True)
            and query.group_by is None
            and len(self.model._meta.pk_fields) == 1
            and not (
                query.combinator
                or query.distinct
                or query.annotations
                or query.select_related
                or query.extra
                or query.select_for_update
                or query.is_empty()
            )
        )
        options = self.cache_options
        if (
            not is_whole
            or not options.rows
            or options.is_strict
            or self.db != router.db_for_write(self.model)
        ):
            return None
        manager: Any = getattr(self.model, self.cache_options.rows, None)
        return manager.in_bulk if manager.has_keys else None

    def _rows_by_key(self, read_rows: RowReader, evaluation: Evaluation) -> list[M] | None:
        """Return the instances whose primary keys are the result; None: the result is not cached.

        A row may have been changed after the result was read, and then it may not be one of the result
        any more. Then the result is loaded again, once.
        """
        queryset: Any = self
        with not_evaluated():
            for _ in range(ATTEMPTS):
                compiler = queryset._values("pk").query.get_compiler(self.db)
                found = evaluation.read(compiler, MULTI, compiler.execute_sql)
                if found is None:
                    return None
                keys = [key for [key] in compiler.results_iter([found])]
                rows = read_rows(keys)
                instances = [rows.get(key) for key in keys]
                if all(self._fits(row, evaluation) for row in instances):
                    return [self._with_known(row) for row in instances if row is not None]
                evaluation.drop(evaluation.plans[-1])
            return list(ModelIterable(self))

    def _fits(self, row: M | None, evaluation: Evaluation) -> bool:
        """Return whether a row exists and does not contradict an equality of the query."""
        if row is None:
            return False
        for field, texts in evaluation.plans[-1].equalities.items():
            value = getattr(row, field.attname)
            if (None if value is None else canonical_text(field, value)) not in texts:
                return False
        return True

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

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the rows, as they are in the database."""
        return self.uncached().delete()

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    # Copies

    def _clone(self) -> Self:
        clone: Self = super()._clone()  # type: ignore[misc]
        clone.cache_options = self.cache_options
        return clone


def cached_queryset(queryset: models.QuerySet[M], options: QueryOptions) -> CachedQuerySet[M]:
    """Return a queryset with the query of another one that is evaluated through the ring."""
    cached: CachedQuerySet[M] = CachedQuerySet(queryset.model)
    _copy(queryset, cached)
    cached.cache_options = options
    return cached


def _copy(source: Any, target: Any) -> None:
    """Give a queryset the query of another one, as Django copies it to a clone."""
    target.query, target._db, target._hints = source.query.chain(), source._db, source._hints
    for name in _COPIED:
        setattr(target, name, getattr(source, name))


install()
