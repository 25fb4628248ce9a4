"""Which keys are read at some nodes: as they see it, for a while."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Sequence

import redis.exceptions

from cachebackend.node.node import Node

__all__ = ["read_keys"]

#: Commands that read, each with what of its words are keys.
_READS = {"GET": slice(1, 2), "MGET": slice(1, None)}


def read_keys(nodes: Sequence[Node], pattern: bytes, seconds: float) -> list[str]:
    """Return the keys that match a Redis pattern and were read, in the order that the nodes saw.

    They are asked to MONITOR, which costs them: each command is told to us as well.

    Raises:
        redis.RedisError: A node cannot be reached, or refuses.
    """
    clients = [node.redis() for node in nodes]
    heard: list[tuple[float, str]] = []
    failures: list[redis.exceptions.RedisError] = []
    glob, end = pattern.decode().replace("\\", ""), time.monotonic() + seconds

    def listen(client: redis.Redis) -> None:
        try:
            with client, client.monitor() as monitor:  # type: ignore[no-untyped-call]
                while time.monotonic() < end:
                    if not monitor.connection.can_read(timeout=0.1):
                        continue
                    told = monitor.next_command()
                    words = told["command"].split(" ")
                    keys = words[_READS.get(words[0].upper(), slice(0))]
                    heard.extend((told["time"], key) for key in keys if fnmatch.fnmatchcase(key, glob))
        except redis.exceptions.RedisError as error:
            failures.append(error)

    threads = [threading.Thread(target=listen, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [key for _, key in sorted(heard)]
