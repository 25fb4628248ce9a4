"""Which keys are read at some nodes: as they see it, for a while."""

from __future__ import annotations

import fnmatch
import re
import threading
import time
from collections.abc import Iterator, Sequence

import redis.exceptions

from cachebackend.errors import NodeReplyError, RingCacheError
from cachebackend.node.node import Node
from cachebackend.node.translate import CONNECTION_ERRORS, unavailable

__all__ = ["read_keys", "read_keys_of"]

#: Commands that read, each with what of its words are keys.
_READS = {b"GET": slice(1, 2), b"MGET": slice(1, None)}
#: When, the database, who asked, and the command, each of its words in quotes.
_LINE = re.compile(rb'([\d.]+) \[\d+ (.*?)\] (".*)', re.DOTALL)
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
#: Seconds without a command after which a listener looks at the time.
_PAUSE_SECONDS = 0.1


def read_keys(nodes: Sequence[Node], pattern: bytes, seconds: float) -> list[bytes]:
    """Return the keys that match a Redis pattern and were read, in the order that the nodes saw.

    They are asked to MONITOR, which costs them: each command is told to us as well.

    Raises:
        NodeUnavailableError: A node cannot be reached.
        NodeReplyError: A node refuses.
    """
    heard: list[tuple[float, bytes]] = []
    failures: list[RingCacheError] = []
    glob, end = _ESCAPED.sub(rb"[\1]", pattern), time.monotonic() + seconds

    def listen(node: Node) -> None:
        try:
            with node.redis() as client, client.monitor() as monitor:
                while time.monotonic() < end:
                    if monitor.connection.can_read(timeout=_PAUSE_SECONDS):
                        moment, keys = read_keys_of(monitor.connection.read_response())
                        heard.extend((moment, key) for key in keys if fnmatch.fnmatchcase(key, glob))
        except redis.exceptions.ResponseError as error:
            failures.append(NodeReplyError(f"node {node.name!r} does not let itself be listened to: {error}"))
        except CONNECTION_ERRORS as error:
            failures.append(unavailable(node.name, error, seconds))

    threads = [threading.Thread(target=listen, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [key for _, key in sorted(heard)]


def read_keys_of(line: bytes) -> tuple[float, list[bytes]]:
    """Return when a command came that MONITOR tells of, and which keys it reads.

    What a script asks is part of the script's own work, and reads nothing for anybody.
    """
    told = _LINE.fullmatch(line)
    if told is None or told[2] == b"lua":
        return 0.0, []
    words = list(_words(told[3]))
    return float(told[1]), words[_READS.get(words[0].upper(), slice(0))]


def _words(text: bytes) -> Iterator[bytes]:
    """Yield the words of a command, which may hold blanks, quotes and any bytes."""
    for word in _WORD.findall(text):
        yield _ESCAPED.sub(lambda found: _unescaped(found[1]), word)


def _unescaped(mark: bytes) -> bytes:
    return bytes.fromhex(mark[1:].decode()) if len(mark) > 1 else _CONTROLS.get(mark, mark)
