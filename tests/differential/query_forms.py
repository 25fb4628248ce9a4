"""What a page does with a queryset, as values that can be compared: ``FORMS`` has each form by name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeAlias

from asgiref.sync import async_to_sync
from django.core.paginator import Paginator
from django.db import connections, models, transaction
from django.db.models import Avg, Count, F, Max, Min, Prefetch, Q

from cachebackend.queries.queryset import CachedQuerySet

__all__ = ["FORMS", "Call", "Form", "result_of"]

Query: TypeAlias = "models.QuerySet[Any, Any]"
#: How deep related rows are compared.
_DEEPEST = 3


class Call:
    """Calls a method of a queryset, or its async twin.

    Args:
        is_async: Whether the async twin is called.
    """

    def __init__(self, *, is_async: bool) -> None:
        self.is_async = is_async

    def __call__(self, queryset: Query, method: str, /, *args: Any, **kwargs: Any) -> Any:
        if self.is_async:
            return async_to_sync(getattr(queryset, f"a{method}"))(*args, **kwargs)
        return getattr(queryset, method)(*args, **kwargs)

    def rows(self, queryset: Query) -> list[Any]:
        """Return all rows, in their order if the query has one."""
        rows = async_to_sync(_rows)(queryset) if self.is_async else list(queryset)
        return rows if _is_ordered(queryset) else sorted(rows, key=lambda row: repr(shown(row)))


async def _rows(queryset: Query) -> list[Any]:
    return [row async for row in queryset]


#: Does something with a queryset, and returns what can be compared.
Form: TypeAlias = Callable[[Query, Call], Any]


def result_of(queryset: Query, form: str, call: Call) -> Any:
    """Return what a form of a queryset returns, or the name of the error that it raises."""
    connection = connections[queryset.db]
    try:
        if connection.in_atomic_block:  # so that an error of the database does not end the transaction
            with transaction.atomic(queryset.db):
                return shown(FORMS[form](queryset, call))
        return shown(FORMS[form](queryset, call))
    except Exception as error:  # noqa: BLE001  # each error is compared with that of plain Django
        return type(error).__name__, str(error).replace("CachedQuerySet", "QuerySet")[:80]


def shown(value: Any, depth: int = 0) -> Any:
    """Return a value as one that can be compared: rows by all columns, and the rows that came with them."""
    if isinstance(value, models.Model):
        columns = {name: each for name, each in value.__dict__.items() if not name.startswith("_")}
        more = value._state.fields_cache | getattr(value, "_prefetched_objects_cache", {})
        related = {name: shown(each, depth + 1) for name, each in more.items() if depth < _DEEPEST}
        return type(value).__name__, shown(columns, depth), sorted(related.items())
    if isinstance(value, models.QuerySet):
        return sorted((shown(each, depth) for each in value), key=repr)
    if isinstance(value, dict):
        return [(key, shown(each, depth)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [shown(each, depth) for each in value]
    return value if isinstance(value, int | str | None) else (type(value).__name__, repr(value))


def _is_ordered(queryset: Query) -> bool:
    return bool(queryset.ordered or (queryset.query.combinator and queryset.query.order_by))


def _all(queryset: Query) -> Query:
    """Return a queryset of the same kind with all rows of the model."""
    model: Any = queryset.model
    if isinstance(queryset, CachedQuerySet) and queryset.cache_options.rows:
        return model.cached.all()  # type: ignore[no-any-return]
    return model._base_manager.using(queryset.db).all()  # type: ignore[no-any-return]


def _ordered(queryset: Query) -> Query:
    """Return a queryset whose rows have an order, to be sliced."""
    return queryset if _is_ordered(queryset) else queryset.order_by("pk")


def _number(queryset: Query) -> str:
    """Return the name of a column of numbers."""
    names = [field.name for field in queryset.model._meta.concrete_fields]
    return "rank" if "rank" in names else "pk"


def _related(queryset: Query, *kinds: str) -> list[str]:
    """Return the names of relations of some kinds."""
    return [
        field.name if field.concrete or not hasattr(field, "get_accessor_name") else field.get_accessor_name()
        for field in queryset.model._meta.get_fields()
        if field.is_relation and field.related_model and any(getattr(field, kind) for kind in kinds)
    ]


def _prefetched(queryset: Query, *lookups: Any) -> Query:
    return queryset.prefetch_related(*lookups)


def _with_some(queryset: Query) -> Query:
    """Return a queryset that prefetches a few of the rows of each relation, into attributes."""
    lookups = []
    for number, name in enumerate(_related(queryset, "one_to_many", "many_to_many")):
        model = queryset.model._meta.get_field(name.removesuffix("_set")).related_model
        wanted = model._base_manager.filter(Q(pk__gt=1) | Q(pk=None)).order_by("pk")
        lookups.append(Prefetch(name, wanted, to_attr=f"some{number}"))
    return queryset.prefetch_related(*lookups)


def _pages(queryset: Query, _: Call) -> Any:
    paginator = Paginator(_ordered(queryset), 2)
    return [list(page) for page in paginator], paginator.count


def _pickled(queryset: Query, call: Call) -> Any:
    again = queryset.all()
    again.query = pickle.loads(pickle.dumps(queryset.query))
    return call.rows(again), len(pickle.loads(pickle.dumps(queryset)))


FORMS: dict[str, Form] = {
    "rows": lambda q, call: call.rows(q),
    "rows again": lambda q, call: [call.rows(q), call.rows(q.all())],
    "count": lambda q, call: call(q, "count"),
    "exists": lambda q, call: call(q, "exists"),
    "bool": lambda q, _: (bool(q), len(q)),
    "first": lambda q, call: call(q, "first"),
    "last": lambda q, call: call(q, "last"),
    "earliest": lambda q, call: call(q, "earliest", "pk"),
    "latest": lambda q, call: call(q, "latest", _number(q), "pk"),
    "get": lambda q, call: call(q, "get"),
    "get by key": lambda q, call: call(q, "get", pk=2),
    "contains": lambda q, call: call(q, "contains", q.model(pk=1)),
    "in_bulk": lambda q, call: sorted(call(q, "in_bulk").items(), key=repr),
    "in_bulk of some": lambda q, call: sorted(call(q, "in_bulk", [1, 2, 3]).items(), key=repr),
    "aggregate": lambda q, call: call(
        q, "aggregate", n=Count("pk"), least=Min(_number(q)), most=Max(_number(q)), mean=Avg(_number(q))
    ),
    "aggregate with filter": lambda q, call: call(
        q, "aggregate", n=Count("pk", filter=Q(**{f"{_number(q)}__gt": 1}))
    ),
    "item": lambda q, _: _ordered(q)[1],
    "slice": lambda q, call: call.rows(_ordered(q)[1:3]),
    "steps": lambda q, _: _ordered(q)[:4:2],
    "count of a slice": lambda q, call: call(_ordered(q)[:2], "count"),
    "pages": _pages,
    "iterator": lambda q, _: sorted((shown(row) for row in q.iterator()), key=repr),
    "values": lambda q, call: call.rows(q.values()),
    "values of keys": lambda q, call: call.rows(q.values_list("pk", flat=True)),
    "named": lambda q, call: call.rows(q.values_list("pk", _number(q), named=True)),
    "distinct": lambda q, call: call.rows(q.order_by().values(_number(q)).distinct()),
    "dates": lambda q, call: call.rows(q.dates("day", "month")),
    "datetimes": lambda q, call: call.rows(q.datetimes("since", "month")),
    "only": lambda q, call: call.rows(q.only(_number(q))),
    "defer": lambda q, call: call.rows(q.defer(_number(q))),
    "filter": lambda q, call: call.rows(q.filter(**{f"{_number(q)}__gte": 1})),
    "filter of one": lambda q, call: call.rows(q.filter(**{_number(q): 1})),
    "exclude": lambda q, call: call.rows(q.exclude(**{_number(q): 1})),
    "reverse": lambda q, call: call.rows(_ordered(q).reverse()),
    "annotate": lambda q, call: call.rows(q.annotate(sum=F(_number(q)) + 1)),
    "group": lambda q, call: call.rows(q.order_by().values(_number(q)).annotate(n=Count("pk"))),
    "count of groups": lambda q, call: call(
        q.order_by().values(_number(q)).annotate(n=Count("pk")).filter(n=1), "count"
    ),
    "union": lambda q, call: call.rows(q.order_by().union(_all(q).filter(pk=1))),
    "both": lambda q, call: call.rows(q & _all(q).filter(pk__gt=1)),
    "either": lambda q, call: call.rows(q | _all(q).filter(pk=1)),
    "subquery": lambda q, call: call.rows(_all(q).filter(pk__in=q.values("pk"))),
    "none": lambda q, call: call.rows(q.none()),
    "select_related": lambda q, call: call.rows(
        q.select_related(*_related(q, "many_to_one", "one_to_one") or [None])
    ),
    "prefetch_related": lambda q, call: call.rows(
        _prefetched(q, *_related(q, "one_to_many", "many_to_many"))
    ),
    "prefetch of keys": lambda q, call: call.rows(_prefetched(q, *_related(q, "many_to_one"))),
    "Prefetch": lambda q, call: call.rows(_with_some(q)),
    "pickled": _pickled,
}
