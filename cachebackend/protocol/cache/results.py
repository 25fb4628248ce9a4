"""The read of a query's result whose tags and shapes are known: a hit is one scatter, also with its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cachebackend.effects import Operation, Reply, Send, resumed
from cachebackend.protocol.cache.fill import FillOptions
from cachebackend.protocol.cache.freshness import NOT_PLAIN, fresh_value, read_record
from cachebackend.protocol.cache.get import begin_get
from cachebackend.protocol.cache.tags import TokenRead
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context

__all__ = ["get_result", "get_result_and_rows"]

T = TypeVar("T")


class _ResultRead:
    """The read of a result with the tokens of its tags and shapes, in one scatter.

    Attributes:
        requests: What is sent.
    """

    __slots__ = ("_begun", "_context", "_key", "_read", "_tokens", "requests")

    def __init__(self, context: Context, key: bytes, fill_options: FillOptions) -> None:
        self._context, self._key = context, key
        self._tokens = Tokens(fill_options.token_names)
        self._read = TokenRead(context, fill_options.tags, fill_options.shapes)
        self._begun = context.counters.begin_get()
        self.requests = [begin_get(context, key), *self._read.requests]

    def settle(self, replies: Sequence[Reply], missing: Any) -> Any:
        """Return the result in the replies, or ``missing``."""
        reply, context = replies[0], self._context
        if self._begun is not None:
            context.end_get(self._begun, self._key, reply)
        if reply.__class__ is not bytes:
            return missing
        self._read.settle(self._tokens, replies[1:])
        value = fresh_value(context, reply, self._tokens)
        if value is not NOT_PLAIN:
            return value
        cached = read_record(context, self._key, reply, self._tokens, allow_stale=False)
        if cached is None or cached.due:
            return missing
        context.counters.cell.hits += 1
        return cached.value


def get_result(context: Context, key: bytes, fill_options: FillOptions, missing: Any) -> Operation[Any]:
    """Return a result that needs no load, or ``missing``; the load that follows counts the miss.

    Args:
        context: The alias.
        key: The key of the result.
        fill_options: Its tags and shapes.
        missing: Returned if there is no result, if a change made it wrong, or if it is due for a refresh.
    """
    read = _ResultRead(context, key, fill_options)
    return read.settle((yield Send(read.requests)), missing)


def get_result_and_rows(
    context: Context,
    key: bytes,
    fill_options: FillOptions,
    missing: Any,
    *,
    rows: Operation[T],
    are_of: Callable[[Any], bool],
) -> Operation[tuple[Any, T | None]]:
    """Return a result as ``get_result``, and the rows that it consists of, which are read beside it.

    A reader mostly gets the result that it got before, so it knows which rows to read. If the result has
    others now, what was read of the rows is thrown away.

    Args:
        context: The alias.
        key: The key of the result.
        fill_options: Its tags and shapes.
        missing: Returned instead of the result.
        rows: Reads the rows that the result had before. What it sends first only reads.
        are_of: Whether a result has these rows.

    Returns:
        The result or ``missing``; and the rows, or None if they must be read.
    """
    read = _ResultRead(context, key, fill_options)
    try:
        first = next(rows)
    except StopIteration as end:  # all of them are copies in this process
        value = read.settle((yield Send(read.requests)), missing)
        return value, end.value if value is not missing and are_of(value) else None
    sends = first.requests if isinstance(first, Send) else ()
    replies = yield Send([*read.requests, *sends])
    count = len(read.requests)
    value = read.settle(replies[:count], missing)
    if value is missing or not isinstance(first, Send) or not are_of(value):
        rows.close()
        return value, None
    return value, (yield from resumed(rows, replies[count:]))
