"""The shapes of replies: what a node may answer to each command.

A node answers with a reply of another shape if it is not a Redis or Valkey server, if its replies and our
commands have got out of step, or on purpose. ``node`` checks each reply where it is read: such a node
has failed like one that does not answer. So no operation ever gets a reply of another shape.

A shape is a function of a reply and its command. An error reply has no shape, and always fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt

__all__ = [
    "TEXT_COMMANDS",
    "Reply",
    "Shape",
    "either",
    "fits",
    "integer",
    "items",
    "list_of",
    "one_for_each_key",
    "optional_text",
    "pairs",
    "row",
    "scored",
    "text",
]

#: A node's reply to one command: None, an integer, bytes, or a list of these. If the command failed,
#: the RingCacheError is the reply; it is not raised.
Reply: TypeAlias = Any
#: Returns whether a reply may be the reply to a command.
Shape: TypeAlias = Callable[[Reply, Sequence[Any]], bool]

_TEXT_CLASS = frozenset({bytes})
_TEXT_CLASSES = _TEXT_CLASS | {type(None)}


def fits(command: Sequence[Any], reply: Reply) -> bool:
    """Return whether a reply may be the reply to a command; the reply to an unknown command always may."""
    if reply.__class__ is bytes and command[0] in TEXT_COMMANDS:  # most replies
        return True
    shape = _SHAPES.get(command[0])
    return shape is None or shape(reply, command) or isinstance(reply, RingCacheError)


def integer(reply: Reply, _: Sequence[Any]) -> bool:
    """Match an integer."""
    return reply.__class__ is int


def text(reply: Reply, _: Sequence[Any]) -> bool:
    """Match bytes."""
    return reply.__class__ is bytes


def optional_text(reply: Reply, _: Sequence[Any]) -> bool:
    """Match bytes, or None."""
    return reply.__class__ is bytes or reply is None


def either(first: Shape, second: Shape) -> Shape:
    """Return a shape that matches what one of two shapes matches."""
    return lambda reply, command: first(reply, command) or second(reply, command)


def list_of(shape: Shape) -> Shape:
    """Return a shape that matches a list of any length."""
    return lambda reply, command: reply.__class__ is list and all(shape(each, command) for each in reply)


def row(*shapes: Shape) -> Shape:
    """Return a shape that matches a list with one item for each of the shapes."""
    return lambda reply, command: (
        reply.__class__ is list
        and len(reply) == len(shapes)
        and all(shape(each, command) for shape, each in zip(shapes, reply, strict=True))
    )


def items(first: Shape, others: Shape) -> Shape:
    """Return a shape that matches a list of one item, and then any number of items of another shape."""
    return lambda reply, command: (
        reply.__class__ is list
        and bool(reply)
        and first(reply[0], command)
        and all(others(each, command) for each in reply[1:])
    )


def pairs(reply: Reply, _: Sequence[Any]) -> bool:
    """Match a flat list of names and values, all bytes."""
    return reply.__class__ is list and not len(reply) % 2 and _TEXT_CLASS.issuperset(map(type, reply))


def scored(reply: Reply, command: Sequence[Any]) -> bool:
    """Match a flat list of members of a sorted set and their scores."""
    return pairs(reply, command) and all(map(_is_number, reply[1::2]))


def one_for_each_key(reply: Reply, command: Sequence[Any]) -> bool:
    """Match a list with bytes or None for each argument of the command."""
    return (
        reply.__class__ is list
        and len(reply) == len(command) - 1
        and _TEXT_CLASSES.issuperset(map(type, reply))
    )


def _is_number(score: bytes) -> bool:
    try:
        return math.isfinite(float(score))
    except ValueError as error:
        raise_interrupt(error)
        return False


def _script_reply(reply: Reply, command: Any) -> bool:
    """Match what the called script returns."""
    fits_script: bool = command.script.reply(reply, command)
    return fits_script


def _config_reply(reply: Reply, command: Sequence[Any]) -> bool:
    return pairs(reply, command) if command[1] == b"GET" else text(reply, command)


def _cluster_reply(reply: Reply, command: Sequence[Any]) -> bool:
    """Match the state of a cluster as text, its table of slots, or its shards."""
    if command[1] == b"SHARDS":
        return list_of(_is_shard)(reply, command)
    return text(reply, command) if command[1] == b"INFO" else list_of(_is_slot_range)(reply, command)


def _is_shard(reply: Reply, command: Sequence[Any]) -> bool:
    """Match a flat list of names and values; those of the slots and servers are lists."""
    if reply.__class__ is not list or len(reply) % 2 or not all(text(name, command) for name in reply[::2]):
        return False
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    servers = fields.get(b"nodes")
    return fields.get(b"slots").__class__ is list and list_of(_is_server)(servers, command)


def _is_server(reply: Reply, command: Sequence[Any]) -> bool:
    """Match a flat list of names and values: texts, numbers, and a host that may be unknown."""
    if reply.__class__ is not list or len(reply) % 2 or not all(text(name, command) for name in reply[::2]):
        return False
    return all(integer(value, command) or optional_text(value, command) for value in reply[1::2])


def _is_slot_range(reply: Reply, command: Sequence[Any]) -> bool:
    """Match first and last slot, and then servers: host, port, ID, and any number of other items."""
    return (
        reply.__class__ is list
        and len(reply) >= 3
        and integer(reply[0], command)
        and integer(reply[1], command)
        and 0 <= reply[0] <= reply[1] < 16_384
        and all(
            server.__class__ is list
            and len(server) >= 3
            and optional_text(server[0], command)
            and integer(server[1], command)
            and text(server[2], command)
            for server in reply[2:]
        )
    )


_page = row(text, list_of(text))
_SHAPES: Mapping[bytes, Shape] = {
    b"ASKING": text,
    b"CLUSTER": _cluster_reply,
    b"CONFIG": _config_reply,
    b"DEL": integer,
    b"EVAL": _script_reply,
    b"EVALSHA": _script_reply,
    b"EXISTS": integer,
    b"EXPIRE": integer,
    b"FLUSHDB": text,
    b"GET": optional_text,
    b"GETRANGE": text,
    b"HGET": optional_text,
    b"HDEL": integer,
    b"HGETALL": pairs,
    b"HKEYS": list_of(text),
    b"HLEN": integer,
    b"HSCAN": row(text, pairs),
    b"HSET": integer,
    b"INFO": text,
    b"MEMORY": either(integer, optional_text),
    b"MGET": one_for_each_key,
    b"PING": text,
    b"PTTL": integer,
    b"RANDOMKEY": optional_text,
    b"SCAN": _page,
    b"SET": optional_text,
    b"TIME": row(text, text),
    b"WAIT": integer,
    b"WAITAOF": row(integer, integer),
    b"ZCARD": integer,
    b"ZRANGE": scored,
    b"ZREM": integer,
}
#: The commands that are answered with bytes, and may be with any.
TEXT_COMMANDS = frozenset(name for name, shape in _SHAPES.items() if shape in {text, optional_text})
