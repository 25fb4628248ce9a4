"""Parameters of a statement as a part of the key of its result: by type and value, and never shortened."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from cachebackend.queries.not_cached import NotCached

__all__ = ["text_of_moment", "text_of_params"]

#: The types whose ``repr`` says their type and all of their value.
_PLAIN = frozenset({bool, bytes, date, Decimal, float, int, str, timedelta, type(None), UUID})
#: What psycopg wraps JSON in, by name: psycopg is not a dependency.
_JSON = frozenset({"psycopg.types.json.Json", "psycopg.types.json.Jsonb"})


def text_of_params(params: Iterable[Any]) -> str:
    """Return a text that two lists of parameters share only if the statement is the same with both.

    Raises:
        NotCached: A parameter has a type of which that is not known.
    """
    return ",".join(map(_text, params))


def text_of_moment(moment: datetime | time) -> str:
    """Return a text that says the type and the value of a moment, with its offset from UTC.

    The ``repr`` of a time zone of another package need not say the offset.
    """
    return f"{moment.replace(tzinfo=None)!r}{moment.utcoffset()!r}"


def _text(param: Any) -> str:
    kind = type(param)
    if kind in {datetime, time}:
        return text_of_moment(param)
    if kind in _PLAIN:
        return repr(param)
    if kind in {list, tuple}:
        return f"{kind.__name__}({text_of_params(param)})"
    if kind is dict:
        return f"dict({text_of_params([each for pair in param.items() for each in pair])})"
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(param, str):
        text = repr(str.__str__(param))
        return f"{name}({text})" if isinstance(param, Enum) else text  # a driver may know the class
    if name in _JSON:
        return f"{name}({_text(param.obj)})"
    if kind.__module__ == "psycopg.types.numeric":
        return f"{name}({(float if isinstance(param, float) else int).__repr__(param)})"
    if name == "psycopg.types.range.Range":
        return f"{name}({text_of_params([param.lower, param.upper, param._bounds])})"
    message = f"a parameter is a {name}, of which two values cannot be compared by their text"
    raise NotCached(message)
