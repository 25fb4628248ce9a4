"""Queued values as the texts of Postgres' arrays, one array for each column of a statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import models

from cachebackend.writebehind.encoding import NULL, encoding_of
from cachebackend.writebehind.expressions import DELTA, PUT

if TYPE_CHECKING:
    from psycopg.abc import Transformer

__all__ = ["array_text", "converter"]


def array_text(values: Sequence[Any], transformer: Transformer) -> str:
    """Return values of one Python type as the text of an array. psycopg's lists take several times longer."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, int) and not isinstance(first, bool):
        texts = ["NULL" if value is None else str(value) for value in values]
    elif first is None:
        texts = ["NULL"] * len(values)
    else:
        from psycopg.adapt import PyFormat

        dump = transformer.get_dumper(first, PyFormat.TEXT).dump
        texts = ["NULL" if value is None else _quoted(bytes(dump(value) or b"")) for value in values]
    return "{" + ",".join(texts) + "}"


def _quoted(element: bytes) -> str:
    """Return the text of an element of an array in quotes."""
    return '"' + element.decode().replace("\\", "\\\\").replace('"', '\\"') + '"'


def converter(field: models.Field[Any, Any], kind: bytes) -> Callable[[bytes], Any]:
    """Return the function that converts the encoded values of a kind of change for psycopg."""
    encoding = encoding_of(field)
    if kind == DELTA and encoding.code == "ts":
        # Elapsed time: psycopg would write 24 hours as a day, which has 23 hours if the clocks change
        return lambda encoded: f"{int(encoded)} microseconds"
    if kind == PUT:
        adapt = encoding.adapt or encoding.decode
        return lambda encoded: None if encoded == NULL else adapt(_without_prefix(encoded))
    if kind == DELTA and encoding.decode_delta is not int:
        return lambda encoded: encoding.decode_delta(int(encoded))  # type: ignore[misc]  # only such fields are given deltas
    return encoding.decode


def _without_prefix(encoded: bytes) -> bytes:
    if not encoded.startswith(b"="):
        message = f"{encoded[:40]!r} is not an encoded value"
        raise ValueError(message)
    return encoded[1:]
