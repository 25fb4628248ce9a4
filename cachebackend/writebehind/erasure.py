"""Deletes the keys of a whole queue: for tests, whose queues nobody drains afterwards."""

from __future__ import annotations

from contextlib import suppress

from cachebackend.client.queue import QueueClient
from cachebackend.errors import ConfigurationError, RingCacheError
from cachebackend.protocol.rounds import Cursor
from cachebackend.writebehind.queue import project_queue

__all__ = ["delete_keys", "erase_queue"]

#: Keys that a node returns and deletes in one step.
_KEYS_A_STEP = b"1000"


def erase_queue() -> None:
    """Delete the queue of this process, if the settings have one and its nodes answer."""
    with suppress(
        ConfigurationError
    ):  # write-behind is off; or the first call for the queue reports the fault
        delete_keys(project_queue())


def delete_keys(client: QueueClient) -> list[str]:
    """Delete the keys with the client's prefix, and return the incarnations of its queues.

    A node that does not answer keeps its keys.
    """
    pattern = f"{client.options.prefix}:*".encode()
    incarnations: list[str] = []
    for index, *_ in client.servers().values():
        node = client.nodes[index]
        cursor, is_unfinished = Cursor(), True
        while is_unfinished:
            reply = node.call((b"SCAN", cursor.text, b"MATCH", pattern, b"COUNT", _KEYS_A_STEP))
            if isinstance(reply, RingCacheError):
                break
            text, keys = reply
            born = [node.call((b"HGET", key, b"born")) for key in keys if key.endswith(b":meta")]
            incarnations += [each.decode() for each in born if isinstance(each, bytes)]
            if keys:
                node.call((b"DEL", *keys))
            is_unfinished = cursor.move(text, client.fail_node, index)
    return incarnations
