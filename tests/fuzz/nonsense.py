"""Replies that a node may send to a command: valid ones, other valid RESP, and damaged bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.fuzz.mutants import mutant
from tests.integration.fake_node import NIL, bulk

__all__ = ["any_reply", "nonsense"]

# fmt: off
_TEXTS = [
    b"", b"0", b"-1", b"5", b"ok", b"OK", b"invalidate", b"1e999", b"nan", b"9" * 30, b"\xff\xfe",
    b"shop.meter:0", b"a" * 16, b"x" * 5000, b"redis_version:x\r\nnot", b"Vm\0\x01", b"L" + bytes(16),
    b"Q" + bytes(16), b"T" + bytes(16), b"Vm\x02\0\x15\0\x03abc" + bytes(16) + b"\x01",
    b"Vm\x01" + b"\x7f" * 40 + b"\x01",
]
_ERRORS = [
    b"ERR syntax error", b"WRONGTYPE x", b"NOSCRIPT x", b"OOM x", b"READONLY x", b"LOADING x", b"BUSY x",
    b"NOPERM x", b"NOAUTH x", b"MOVED 1 1.2.3.4:1", b"PARTITIONS", b"PARTITIONS x", b"PARTITIONS 4", b"",
    b"ERR value is not an integer", b"ERR increment would overflow", b"\xff",
]
# fmt: on
_NUMBERS = [0, 1, -1, -2, -3, 5, 2**31, 2**63 - 1, -(2**63), 2**63, 10**30]
_LENGTHS = [b"-2", b"1000000", b"9223372036854775807", b"x", b"", b"-0", b"1000000000000"]


def _leaf(generator: random.Random) -> bytes:
    match generator.randrange(12):
        case 0 | 1 | 2 | 3:
            return bulk(generator.choice(_TEXTS))
        case 4 | 5:
            return b":%d\r\n" % generator.choice(_NUMBERS)
        case 6:
            return NIL
        case 7:
            return b"+%b\r\n" % generator.choice([b"OK", b"PONG", b"QUEUED", b""])
        case 8:
            return b"-%b\r\n" % generator.choice(_ERRORS)
        case 9:
            return b"%b%b\r\n" % (
                generator.choice([b"$", b"*", b"%", b"~", b">", b"="]),
                generator.choice(_LENGTHS),
            )
        case _:
            return generator.choice(
                [b"#t\r\n", b"#f\r\n", b"_\r\n", b",inf\r\n", b"(99\r\n", b"*0\r\n", b"*-1\r\n"]
            )


def any_reply(generator: random.Random, depth: int = 3) -> bytes:
    """Return one reply in RESP, of any form; lengths in it may be wrong."""
    if not depth or generator.random() < 0.5:
        return _leaf(generator)
    kind, size = generator.choice([b"*", b"*", b"*", b"~", b">", b"%"]), generator.choice([0, 1, 2, 2, 3, 6])
    items = [any_reply(generator, depth - 1) for _ in range(2 * size if kind == b"%" else size)]
    return b"%b%d\r\n%b" % (kind, size, b"".join(items))


def _list(*items: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def _texts(generator: random.Random, count: int) -> bytes:
    return _list(*(bulk(generator.choice(_TEXTS)) for _ in range(count)))


def _number(generator: random.Random) -> bytes:
    return b":%d\r\n" % generator.choice(_NUMBERS[:9])


#: For each command a reply of the right form, whose contents may make no sense.
_FITTING: dict[bytes, Callable[[random.Random, list[bytes]], bytes]] = {
    b"GET": lambda g, _: bulk(g.choice(_TEXTS)),
    b"SET": lambda g, _: g.choice([NIL, b"+OK\r\n", bulk(g.choice(_TEXTS))]),
    b"MGET": lambda g, command: _texts(g, len(command) - 1),
    b"HGETALL": lambda g, _: _texts(g, 2 * g.randrange(4)),
    b"SCAN": lambda g, _: _list(bulk(b"0"), _texts(g, g.randrange(4))),
    b"HSCAN": lambda g, _: _list(bulk(b"0"), _texts(g, 2 * g.randrange(4))),
    b"ZRANGE": lambda g, _: _list(bulk(g.choice(_TEXTS)), bulk(b"%d" % g.choice(_NUMBERS))),
    b"WAITAOF": lambda g, _: _list(_number(g), _number(g)),
    b"INFO": lambda g, _: bulk(g.choice(_TEXTS)),
    b"GETRANGE": lambda g, _: bulk(g.choice(_TEXTS)),
}


def nonsense(generator: random.Random, command: list[bytes]) -> bytes | None:
    """Return what a node sends for a command; None: it closes the connection."""
    fitting = _FITTING.get(command[0], lambda g, _: g.choice([_number(g), bulk(g.choice(_TEXTS))]))(
        generator, command
    )
    match generator.randrange(10):
        case 0 | 1 | 2 | 3:
            return fitting
        case 4 | 5 | 6:
            return any_reply(generator)
        case 7:
            return mutant(generator, [fitting, any_reply(generator)])
        case 8:
            return fitting + any_reply(generator)
        case _:
            return generator.choice(
                [
                    None,
                    b"HTTP/1.1 400 Bad Request\r\n\r\n",
                    generator.randbytes(20),
                ]
            )
