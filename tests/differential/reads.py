"""What can be read through the ring, and what the database says about the same.

``differences`` reads each row, lookup, absence, ``in_bulk`` and tagged value of a family of models
once through the ring. A read that misses fills, so the next pass reads what this pass filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import cache
from django.core.exceptions import ObjectDoesNotExist
from django.db import models, router

from cachebackend import cached
from cachebackend.backend.canonical import is_comparable
from tests.differential.off import is_off
from tests.differential.values import candidates, key_arguments, primary_keys, spellings

__all__ = ["cache_aside", "differences", "forget_cache_aside", "is_cached", "slow_reads"]

#: The columns of a row, by attribute name; None: there is no such row.
Columns = dict[str, Any] | None


#: One read in eight is async, where async reads are tried: each starts an event loop.
_ASYNC_EVERY = 8


class Call:
    """Calls methods, or now and then their async twins.

    Args:
        is_async: Whether async twins are called at all.
    """

    def __init__(self, *, is_async: bool) -> None:
        self._is_async = is_async
        self._calls = 0

    def __call__(self, target: Any, method: str, /, *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        if self._is_async and self._calls % _ASYNC_EVERY == 0:
            return async_to_sync(getattr(target, f"a{method}"))(*args, **kwargs)
        return getattr(target, method)(*args, **kwargs)

    def get_or_set(self, key: str, load: Callable[[], Any], tag: Any) -> Any:
        """Read a value through the ring; load it in a thread if the read is async."""
        self._calls += 1
        if self._is_async and self._calls % _ASYNC_EVERY == 0:
            return async_to_sync(cache.aget_or_set)(key, sync_to_async(load), tags=[tag])
        return cache.get_or_set(key, load, tags=[tag])


def is_cached(model: type[models.Model]) -> bool:
    """Return whether a model has a ``CachedManager`` of its own."""
    return "cached" in vars(model) and not is_off(model.__name__)


def differences(family: Iterable[type[models.Model]], *, is_async: bool = False) -> list[str]:
    """Read everything through the ring; return a line for each answer that differs from the database's."""
    call = Call(is_async=is_async)
    return [
        line
        for model in family
        if is_cached(model)
        for name, read in _READS.items()
        if not is_off(name)
        for line in read(model, call)
    ]


def _stored(model: type[models.Model]) -> dict[Any, dict[str, Any]]:
    """Return what plain Django reads on this connection: the columns of each row, by primary key."""
    names = [field.attname for field in model._meta.concrete_fields]
    rows = model._base_manager.using(router.db_for_write(model)).values("pk", *names)
    return {row["pk"]: {name: row[name] for name in names} for row in rows}


def _columns(instance: models.Model | None) -> Columns:
    if instance is None:
        return None
    return {field.attname: instance.__dict__[field.attname] for field in instance._meta.concrete_fields}


def _rows(model: type[models.Model], call: Call) -> Iterator[str]:
    """Compare rows, and absent rows, by primary key."""
    stored = _stored(model)
    for pk in dict.fromkeys((*primary_keys(model), *stored)):
        for asked in spellings(model._meta.pk, pk):
            found = _get(model.cached, call, pk=asked)  # type: ignore[attr-defined]
            yield from _compare(f"{model.__name__}.cached.get(pk={asked!r})", found, stored.get(pk))


def _in_bulk(model: type[models.Model], call: Call) -> Iterator[str]:
    """Compare rows that one call reads."""
    stored = _stored(model)
    pks = list(dict.fromkeys((*primary_keys(model), *stored)))
    asked = [spelling for pk in pks for spelling in reversed(spellings(model._meta.pk, pk))]
    found = {pk: _columns(row) for pk, row in call(model.cached, "in_bulk", asked).items()}  # type: ignore[attr-defined]
    yield from _compare(f"{model.__name__}.cached.in_bulk({asked!r})", found, stored)


def _lookups(model: type[models.Model], call: Call) -> Iterator[str]:
    """Compare rows, and absent rows, by each lookup: values that rows have, and that they may get."""
    stored, manager = _stored(model), model.cached  # type: ignore[attr-defined]
    for fields in _lookup_fields(model):
        names = [field.name for field in fields]
        by_value = {tuple(row[field.attname] for field in fields): row for row in stored.values()}
        for value in dict.fromkeys((*_values(fields), *(each for each in by_value if None not in each))):
            for spelling in _spellings(fields, value):
                lookup = dict(zip(names, spelling, strict=True))
                found = _get(manager, call, **lookup)
                yield from _compare(f"{model.__name__}.cached.get(**{lookup!r})", found, by_value.get(value))
        if len(fields) == 1:
            yield from _in_bulk_by(fields[0], model, call, {value: row for (value,), row in by_value.items()})


def _in_bulk_by(
    field: models.Field[Any, Any], model: type[models.Model], call: Call, stored: dict[Any, Any]
) -> Iterator[str]:
    """Compare rows that one call reads by a lookup."""
    asked = [spelling for (value,) in _values([field]) for spelling in reversed(spellings(field, value))]
    rows = call(model.cached, "in_bulk", asked, field_name=field.name)  # type: ignore[attr-defined]
    found = {value: _columns(row) for value, row in rows.items()}
    wanted = {value for (value,) in _values([field])}
    expected = {value: row for value, row in stored.items() if value in wanted}
    yield from _compare(f"{model.__name__}.cached.in_bulk({asked!r}, {field.name!r})", found, expected)


def _lookup_fields(model: type[models.Model]) -> list[list[models.Field[Any, Any]]]:
    """Return the fields of each lookup of a model's manager."""
    lookups = model.cached.lookups  # type: ignore[attr-defined]
    groups = [(names,) if isinstance(names, str) else names for names in lookups]
    return [[model._meta.get_field(name) for name in names] for names in groups]


def _values(fields: Sequence[models.Field[Any, Any]]) -> list[tuple[Any, ...]]:
    """Return values that rows may get in the fields of a lookup: a few of each, if there are several."""
    few = None if len(fields) == 1 else 3
    return list(
        product(*([value for value in candidates(field) if value is not None][:few] for field in fields))
    )


def _spellings(fields: Sequence[models.Field[Any, Any]], value: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return several forms in which a caller may ask for a value of a lookup."""
    forms = [spellings(field, part) for field, part in zip(fields, value, strict=True)]
    return [
        tuple(each[min(number, len(each) - 1)] for each in forms) for number in range(max(map(len, forms)))
    ]


def _get(manager: Any, call: Call, /, **lookup: Any) -> Columns:
    try:
        return _columns(call(manager, "get", **lookup))
    except ObjectDoesNotExist:
        return None


def _tagged(model: type[models.Model], call: Call) -> Iterator[str]:
    """Compare values under the tag of a model: of plain queries, and of rows that are cached themselves."""
    stored, label = _stored(model), model.__name__

    for kind in _PAGES:
        yield from _compare(f"get_or_set({kind!r}, tags=[{label}])", _page(model, kind, call), stored)
    for pk in primary_keys(model) if is_comparable(model._meta.pk) else ():
        found = page_of_row(router.db_for_write(model), model(**key_arguments(model, pk)))
        yield from _compare(f"@cached(tags=[{label}({pk!r})])", found, stored.get(pk))


def _page(model: type[models.Model], kind: str, call: Call) -> Any:
    key = f"{kind}:{model.__name__}:{router.db_for_write(model)}"
    return call.get_or_set(key, partial(_PAGES[kind], model), model)


def _page_of_cached_rows(model: type[models.Model]) -> Any:
    rows = model.cached.in_bulk(list(_stored(model)))  # type: ignore[attr-defined]
    return {pk: _columns(row) for pk, row in rows.items()}


#: What a value under the tag of a model is made of.
_PAGES: dict[str, Callable[[type[models.Model]], Any]] = {
    "rows": _stored,
    "page": _page_of_cached_rows,
}


@cached(tags=lambda using, row: [row])
def page_of_row(using: str, row: models.Model) -> Columns:
    """Return what a page shows of a row."""
    try:
        return _columns(type(row).cached.get(pk=row.pk))  # type: ignore[attr-defined]
    except ObjectDoesNotExist:
        return None


def _relations(model: type[models.Model], call: Call) -> Iterator[str]:
    """Compare values under the tags of rows: the rows at the other end of many-to-many relations."""
    for field in model._meta.get_fields():
        if not field.many_to_many or isinstance(model._meta.pk, models.CompositePrimaryKey):
            continue
        name = field.name if isinstance(field, models.ManyToManyField) else field.get_accessor_name()
        for pk in primary_keys(model):
            row = model(**key_arguments(model, pk))
            others = partial(_others, getattr(row, str(name)))
            found = call.get_or_set(f"{model.__name__}:{pk}:{name}", others, row)
            yield from _compare(f"get_or_set({name!r}, tags=[{model.__name__}({pk!r})])", found, others())


def _others(manager: Any) -> list[Any]:
    """Return the primary keys at the other end of a many-to-many relation of a row.

    A join with the rows at the other end would make the value depend on their columns, too.
    """
    links = manager.through._base_manager.using(router.db_for_write(manager.through))
    of_row = links.filter(**{f"{manager.source_field_name}_id": manager.instance.pk})
    return sorted(of_row.values_list(f"{manager.target_field_name}_id", flat=True))


def _compare(read: str, found: Any, expected: Any) -> Iterator[str]:
    if found != expected:
        yield f"{read}: the ring says {found!r}, the database {expected!r}"


#: What is read of each model, by the name that leaves it out.
_READS: dict[str, Callable[[type[models.Model], Call], Iterator[str]]] = {
    "rows": _rows,
    "in_bulk": _in_bulk,
    "lookups": _lookups,
    "tags": _tagged,
    "relations": _relations,
}


def slow_reads(model: type[models.Model]) -> list[Callable[[], Any]]:
    """Return reads through the ring of which the first query is the loader's."""
    call, manager = Call(is_async=False), model.cached  # type: ignore[attr-defined]
    pks = primary_keys(model)
    reads: list[Callable[[], Any]] = [partial(_get, manager, call, pk=pk) for pk in pks]
    for fields in _lookup_fields(model):
        names = [field.name for field in fields]
        lookups = [dict(zip(names, value, strict=True)) for value in _values(fields)]
        reads += [partial(_get, manager, call, **lookup) for lookup in lookups]
    if is_off("tags") or not is_comparable(model._meta.pk):
        return [*reads, partial(manager.in_bulk, pks), partial(cache_aside, [model])]
    reads += [partial(_page, model, kind, call) for kind in _PAGES]
    reads += [partial(page_of_row, router.db_for_write(model), model(**key_arguments(model, pks[0])))]
    return [*reads, partial(manager.in_bulk, pks), partial(cache_aside, [model])]


# Cache-aside code, which knows no leases


def cache_aside(family: Iterable[type[models.Model]]) -> list[str]:
    """Read as code without leases does: get, load, set. Return a line for each answer that is wrong."""
    lines: list[str] = []
    for model in [] if is_off("cache-aside") else filter(is_cached, family):
        key = _aside(model)
        found = cache.get(key)
        if found is None:
            found = _stored(model)
            cache.set(key, found)
        lines += _compare(f"cache.get({key!r})", found, _stored(model))
    return lines


def forget_cache_aside(family: Iterable[type[models.Model]]) -> None:
    """Delete the values, as such code does after it has written."""
    cache.delete_many([_aside(model) for model in family if is_cached(model)])


def _aside(model: type[models.Model]) -> str:
    return f"aside:{model.__name__}:{router.db_for_write(model)}"
