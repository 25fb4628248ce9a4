"""The clients of this process, one for each different configuration.

Django keeps one cache object a thread or task; what is dear (ring, connections,
counters) is kept here and shared by all of them.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from cachebackend.client import QueueClient, RingClient
from cachebackend.errors import ConfigurationError
from cachebackend.options import RingOptions, WriteBehindOptions

__all__ = ["close_clients", "prepare_ring_clients", "queue_client", "ring_client"]

_lock = threading.Lock()
_rings: dict[RingOptions, RingClient] = {}
_preparing: list[Callable[[RingClient], None]] = []
_queues: dict[WriteBehindOptions, QueueClient] = {}


def ring_client(options: RingOptions) -> RingClient:
    """Return the client of an alias' options."""
    client = _rings.get(options)
    if client is None:
        with _lock:
            client = _rings.get(options)
            if client is None:
                client = RingClient(options, secrets=_secrets)
                for prepare in _preparing:
                    prepare(client)
                _rings[options] = client
    return client


def _secrets() -> list[bytes]:
    """Return the project's secrets, the present one first."""
    return [secret.encode() for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


def prepare_ring_clients(prepare: Callable[[RingClient], None]) -> None:
    """Have every ring client that is made from now on prepared by a function."""
    _preparing.append(prepare)


def queue_client(options: WriteBehindOptions) -> QueueClient:
    """Return the client of the queue nodes.

    Raises:
        ConfigurationError: The options name none.
    """
    client = _queues.get(options)
    if client is None:
        if not options.nodes:
            message = "WRITE_BEHIND['nodes']: names no node, so write-behind is off; give at least one URL"
            raise ConfigurationError([message])
        with _lock:
            client = _queues.get(options) or _queues.setdefault(options, QueueClient(options))
    return client


def close_clients() -> None:
    """Close every idle connection and forget the clients; new ones are made when asked for."""
    with _lock:
        clients = [*_rings.values(), *_queues.values()]
        _rings.clear()
        _queues.clear()
    for client in clients:
        client.close()


def _follow_settings(*, setting: str, **_: Any) -> None:
    if setting in {"CACHES", "WRITE_BEHIND"}:
        close_clients()


setting_changed.connect(_follow_settings, dispatch_uid="cachebackend.registry")
atexit.register(close_clients)


def _new_lock() -> None:
    global _lock  # noqa: PLW0603  # in a forked child, where another thread may have held the old one
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)
