"""The clients of this process, one for each different configuration.

Django keeps one cache object a thread or task; what is dear (ring, connections,
counters) is kept here and shared by all of them.
"""

from __future__ import annotations

import atexit
import threading
from typing import Any

from django.core.signals import setting_changed

from cachebackend.client import QueueClient, RingClient
from cachebackend.conf import write_behind_options
from cachebackend.errors import ConfigurationError
from cachebackend.options import RingOptions

__all__ = ["close_clients", "queue_client", "ring_client"]

_lock = threading.Lock()
_rings: dict[RingOptions, RingClient] = {}
_queues: list[QueueClient] = []  # none or one: the setting is project wide


def ring_client(options: RingOptions) -> RingClient:
    """Return the client of an alias' options."""
    client = _rings.get(options)
    if client is None:
        with _lock:
            client = _rings.get(options) or _rings.setdefault(options, RingClient(options))
    return client


def queue_client() -> QueueClient:
    """Return the client of the queue nodes that ``WRITE_BEHIND`` names.

    Raises:
        ConfigurationError: It names none.
    """
    if not _queues:
        with _lock:
            if not _queues:
                _queues.append(_new_queue_client())
    return _queues[0]


def _new_queue_client() -> QueueClient:
    options = write_behind_options()
    if not options.nodes:
        message = "WRITE_BEHIND['nodes']: names no node, so write-behind is off; give at least one URL"
        raise ConfigurationError([message])
    return QueueClient(options)


def close_clients() -> None:
    """Close every idle connection and forget the clients; new ones are made when asked for."""
    with _lock:
        clients = [*_rings.values(), *_queues]
        _rings.clear()
        _queues.clear()
    for client in clients:
        client.close()


def _follow_settings(*, setting: str, **_: Any) -> None:
    if setting in {"CACHES", "WRITE_BEHIND"}:
        close_clients()


setting_changed.connect(_follow_settings, dispatch_uid="cachebackend.registry")
atexit.register(close_clients)
