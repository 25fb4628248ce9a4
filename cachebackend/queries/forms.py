"""Forms: how the rows of a statement become the result of a queryset, where that needs no query.

Django makes results of rows by the compiler of the query. For the most frequent results the same is a
simple function of the rows, if no column needs a conversion: the number of rows, whether there are any,
tuples, dicts, single values, or the primary keys of instances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db.models.query import FlatValuesListIterable, ValuesIterable, ValuesListIterable

from cachebackend.queries.evaluation import Evaluation

__all__ = ["ROWS", "form_of"]

Rows = Sequence[Sequence[Any]]


def ROWS(rows: Rows) -> list[Any]:  # noqa: N802  # a form, and a mark
    """Return the primary keys: the rows of the model are read by these from their own entries."""
    return [key for [key] in rows]


def _number(rows: Rows) -> int:
    return int(rows[0][0])


def _tuples(rows: Rows) -> list[Any]:
    return [tuple(row) for row in rows]


def _flat(rows: Rows) -> list[Any]:
    return [row[0] for row in rows]


def form_of(kind: str, result: Any, evaluation: Evaluation, queryset: Any) -> Callable[[Rows], Any] | None:
    """Return the form of a result that was just read; None: only Django can make it.

    Args:
        kind: What was asked for: ``"count"``, ``"exists"`` or ``"all"``.
        result: The result.
        evaluation: The evaluation that read it.
        queryset: The queryset, which Django has built.
    """
    if len(evaluation.reads) != 1 or evaluation.reasons:
        return None
    compiler, rows = evaluation.reads[0]
    if kind == "exists":
        return bool
    if kind == "count":  # Django converts it to an integer, which it is
        return _number if rows and type(rows[0][0]) is int and result == rows[0][0] else None
    if compiler.get_converters([column for column, *_ in compiler.select[: compiler.col_count]]):
        return None
    if evaluation.whole is not None:
        return ROWS
    form = _form_of_values(queryset, result) if rows else None  # no rows show nothing of their form
    is_whole = form is not None and form(rows) == result
    return form if is_whole and _is_one_value_each(result[0], rows[0]) else None


def _is_one_value_each(first: Any, row: Sequence[Any]) -> bool:
    """Return whether a result has each column of a row once; a dict has one value for each name."""
    return not isinstance(first, dict) or len(first) == len(row)


def _form_of_values(queryset: Any, result: list[Any]) -> Callable[[Rows], Any] | None:
    iterable = queryset._iterable_class
    if iterable is FlatValuesListIterable:
        return _flat
    if iterable is ValuesListIterable:
        return _tuples
    if iterable is ValuesIterable:
        names = tuple(result[0])  # Django has put the columns into the dict in their order
        return lambda rows: [dict(zip(names, row, strict=False)) for row in rows]
    return None
