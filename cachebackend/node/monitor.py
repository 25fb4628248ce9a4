"""The keys that clients read, recorded by ``MONITOR`` on the nodes for some seconds."""

from __future__ import annotations

import fnmatch
import re
import threading
import time
from collections.abc import Iterator, Sequence

import redis.exceptions

from cachebackend.errors import NodeReplyError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.clients import with_own_errors
from cachebackend.node.node import Node
from cachebackend.node.translate import CONNECTION_ERRORS, readable, unavailable

__all__ = ["read_keys", "read_keys_of"]

#: Commands that read, and which of their words are keys.
_READS = {b"GET": slice(1, 2), b"MGET": slice(1, None)}
#: A line of MONITOR: the time, the database, the client, and the words of the command in quotes.
_LINE = re.compile(rb'([\d.]+) \[\d+ (.*?)\] (".*)', re.DOTALL)
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
#: Seconds without a command after which a listener checks the time.
_POLL_SECONDS = 0.1


def read_keys(nodes: Sequence[Node], pattern: bytes, seconds: float) -> list[bytes]:
    """Record the keys that clients read, in the order of the nodes' clocks.

    MONITOR slows a node down: it sends every command to us as well.

    Args:
        nodes: The nodes to record.
        pattern: A glob pattern of Redis; other keys are left out.
        seconds: How long to record.

    Raises:
        NodeUnavailableError: A node cannot be reached.
        NodeReplyError: A node refuses MONITOR.
    """
    reads: list[tuple[float, bytes]] = []
    failures: list[RingCacheError] = []
    glob, end = _ESCAPED.sub(rb"[\1]", pattern), time.monotonic() + seconds

    def listen(node: Node) -> None:
        try:
            with with_own_errors(), node.redis() as client, client.monitor() as monitor:
                while time.monotonic() < end:
                    if monitor.connection.can_read(timeout=_POLL_SECONDS):
                        with readable():
                            moment, keys = read_keys_of(monitor.connection.read_response())
                        reads.extend((moment, key) for key in keys if fnmatch.fnmatchcase(key, glob))
        except redis.exceptions.ResponseError as error:
            raise_interrupt(error)
            failures.append(NodeReplyError(f"node {node.name!r} refuses MONITOR: {error}"))
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            failures.append(unavailable(node.name, error, seconds))

    threads = [threading.Thread(target=listen, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [key for _, key in sorted(reads)]


def read_keys_of(line: bytes) -> tuple[float, list[bytes]]:
    """Return the time of a command in a line of MONITOR, and the keys that the command reads.

    A read by a script has no keys, because no client receives its value.
    """
    match = _LINE.fullmatch(line)
    if match is None or match[2] == b"lua":
        return 0.0, []
    words = list(_words(match[3]))
    return float(match[1]), words[_READS.get(words[0].upper(), slice(0))]


def _words(text: bytes) -> Iterator[bytes]:
    """Yield the words of a command; they may contain blanks, quotes and any bytes."""
    for word in _WORD.findall(text):
        yield _ESCAPED.sub(lambda match: _unescaped(match[1]), word)


def _unescaped(code: bytes) -> bytes:
    return bytes.fromhex(code[1:].decode()) if len(code) > 1 else _CONTROLS.get(code, code)
