"""The clients of this process: one for each configuration.

Django creates one cache object for each thread or task. They share a client, which has what is
expensive: the ring, the connections and the counters.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.signals import setting_changed

from cachebackend.client import RingClient
from cachebackend.errors import ConfigurationError
from cachebackend.imports import import_at_first_use
from cachebackend.options import RingOptions, WriteBehindOptions

if TYPE_CHECKING:
    from cachebackend.client.queue import QueueClient

__all__ = ["close_clients", "has_used_queue", "prepare_ring_clients", "queue_client", "ring_client"]

_lock = threading.Lock()
_rings: dict[RingOptions, RingClient] = {}
_prepare_functions: list[Callable[[RingClient], None]] = []
_queues: dict[WriteBehindOptions, QueueClient] = {}
#: The prefixes of all queue clients that this process has created.
_queue_prefixes: set[str] = set()


def ring_client(options: RingOptions) -> RingClient:
    """Return the client for an alias' options; create it on the first call."""
    client = _rings.get(options)
    if client is None:
        with _lock:
            client = _rings.get(options)
            if client is None:
                client = RingClient(options, secrets=_secrets)
                for prepare in _prepare_functions:
                    prepare(client)
                _rings[options] = client
    return client


def _secrets() -> list[bytes]:
    """Return the project's secret keys, the current one first."""
    return [secret.encode() for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


def prepare_ring_clients(prepare: Callable[[RingClient], None]) -> None:
    """Register a function that is called with each ring client when it is created."""
    _prepare_functions.append(prepare)


def queue_client(options: WriteBehindOptions) -> QueueClient:
    """Return the client of the queue nodes; create it on the first call.

    Raises:
        ConfigurationError: The options name no node.
    """
    client = _queues.get(options)
    if client is None:
        if not options.is_on:
            message = "WRITE_BEHIND['nodes']: names no node, so write-behind is off; give at least one URL"
            raise ConfigurationError([message])
        queue = import_at_first_use("cachebackend.client.queue")  # most sites have no queue
        with _lock:
            _queue_prefixes.add(options.prefix)
            client = _queues.get(options) or _queues.setdefault(options, queue.QueueClient(options))
    return client


def has_used_queue(prefix: str) -> bool:
    """Return whether this process may have used the queue whose keys begin with a prefix."""
    return prefix in _queue_prefixes


def close_clients() -> None:
    """Close every idle connection and discard the clients; the next call for one creates it again."""
    _close(_rings, _queues)


def _close(*registries: dict[Any, Any]) -> None:
    with _lock:
        clients = [client for registry in registries for client in registry.values()]
        for registry in registries:
            registry.clear()
    for client in clients:
        client.close()


def _follow_settings(*, setting: str, **_: Any) -> None:
    if setting == "CACHES":
        _close(_rings)
    elif setting == "WRITE_BEHIND":
        _close(_queues)


setting_changed.connect(_follow_settings, dispatch_uid="cachebackend.registry")
atexit.register(close_clients)


def _new_lock() -> None:
    global _lock  # noqa: PLW0603  # another thread of the parent may have held the lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)
