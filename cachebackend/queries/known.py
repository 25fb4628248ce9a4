"""The expressions whose results depend only on the columns in them.

Django's own expressions do, except those of time and chance. What another class writes into the SQL is
not known: a function may read a table that the query does not name. So the modules whose classes are
known are listed here, and a class that a later version of Django adds elsewhere is not known.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from types import NoneType
from typing import Any
from uuid import UUID

from django.core.exceptions import FieldError
from django.db.models import Aggregate, DateField, Func, Lookup, TimeField
from django.db.models.expressions import CombinedExpression, DatabaseDefault, RawSQL, Value
from django.db.models.functions import Cast, Now, Random
from django.db.models.sql import AggregateQuery, Query
from django.db.models.sql.where import ExtraWhere

from cachebackend.queries.not_cached import NotCached

__all__ = ["KNOWN_MODULES", "VOLATILE", "check_known", "check_query", "check_stable"]

#: The modules whose classes are known, if they are not listed below.
KNOWN_MODULES = frozenset(
    f"django.{name}"
    for name in (
        "contrib.postgres.aggregates.general",
        "contrib.postgres.aggregates.statistics",
        "contrib.postgres.expressions",
        "contrib.postgres.fields.array",
        "contrib.postgres.fields.hstore",
        "contrib.postgres.fields.ranges",
        "contrib.postgres.lookups",
        "contrib.postgres.search",
        "db.models.aggregates",
        "db.models.expressions",
        "db.models.fields.json",
        "db.models.fields.related_lookups",
        "db.models.fields.tuple_lookups",
        "db.models.functions.comparison",
        "db.models.functions.datetime",
        "db.models.functions.json",
        "db.models.functions.math",
        "db.models.functions.text",
        "db.models.functions.window",
        "db.models.lookups",
        "db.models.query_utils",
        "db.models.sql.compiler",
        "db.models.sql.datastructures",
        "db.models.sql.query",
        "db.models.sql.where",
    )
)
#: Another value each time that the query runs.
VOLATILE: frozenset[type[Any]] = frozenset({Now, Random})
#: The words that stand for the present time in texts which the database takes for dates and times: Postgres
#: ignores most signs around a word, as in ``now()`` and in a range, and SQLite has the last two.
_PRESENT = re.compile(
    r"(?<![a-z])(?:now|today|tomorrow|yesterday|subsec|subsecond)(?![a-z])", re.IGNORECASE | re.ASCII
)
#: The types of most values that are not texts, and hold none.
_WITHOUT_TEXT = frozenset({bool, date, datetime, Decimal, float, int, NoneType, UUID})
#: The caller writes the SQL, or the name of the function.
_WRITTEN_BY_CALLER: frozenset[type[Any]] = frozenset({Aggregate, DatabaseDefault, ExtraWhere, Func, RawSQL})
#: Arguments of functions with which a caller writes SQL.
_SQL_ARGUMENTS = frozenset({"arg_joiner", "function", "template"})
#: Those of the ``Func`` by which Django makes an array of the list that a column is compared with.
_ARRAY = {"function": "ARRAY", "template": "%(function)s[%(expressions)s]"}


def check_query(query: Any, compiler_class: type[Any] | None = None) -> None:
    """Raise NotCached if a query compiles itself in a way of its own, or does more than read."""
    if type(query) not in {Query, AggregateQuery}:
        raise NotCached(f"{type(query).__module__}.{type(query).__qualname__} is a query that is not known")
    if compiler_class is not None and not compiler_class.__module__.startswith("django.db."):
        raise NotCached(f"the database backend compiles queries by {compiler_class.__module__}")
    if query.select_for_update:
        raise NotCached("select_for_update() locks rows")
    if query.explain_info:
        raise NotCached("explain() does not return rows")


def check_stable(node: Any) -> None:
    """Raise NotCached if a node has another value each time that the query runs."""
    if type(node) in VOLATILE:
        raise NotCached(f"{type(node).__name__}() has another value each time that the query runs")
    if isinstance(node, Cast) and _is_of_time(node):
        [source] = node.get_source_expressions()
        if type(source) is not Value and not _is_of_time(source):
            raise NotCached("a text that is cast to a date or time may stand for the present time")
    given = node.value if type(node) is Value else _compared_with_time(node)
    if type(given) not in _WITHOUT_TEXT and _PRESENT.search(text := str(given)):
        raise NotCached(f"the database may take the text {text[:40]!r} for the present time")


def _compared_with_time(node: Any) -> Any:
    """Return what a lookup compares times with: Django sends the text of a range or array as it is."""
    is_constant = isinstance(node, Lookup) and not hasattr(node.rhs, "resolve_expression")
    return node.rhs if is_constant and _is_of_time(node.lhs) else None


def _is_of_time(expression: Any) -> bool:
    """Return whether an expression is a date or time, or an array or range of them."""
    try:
        field = getattr(expression, "output_field", None)
    except FieldError:  # Django does not know it either
        return False
    while (inner := getattr(field, "base_field", None)) is not None:
        field = inner
    return isinstance(field, DateField | TimeField)


def check_known(node: Any) -> None:
    """Raise NotCached if it is not known what a node of the query reads."""
    kind = type(node)
    if kind.__module__ not in KNOWN_MODULES:
        raise NotCached(f"{kind.__module__}.{kind.__qualname__} is not known, so it may read any table")
    if kind is Func and node.extra == _ARRAY:
        return
    has_own_arguments = not _SQL_ARGUMENTS.isdisjoint(getattr(node, "extra", ()))
    # Between the parts of Django's own expressions is an operator, not a word
    has_own_connector = isinstance(node, CombinedExpression) and any(map(str.isalnum, node.connector))
    if kind in _WRITTEN_BY_CALLER or has_own_arguments or has_own_connector:
        raise NotCached(f"{kind.__name__} has SQL of the caller, which may read any table")
