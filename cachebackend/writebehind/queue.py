"""The project's queue, as the settings name it."""

from __future__ import annotations

from cachebackend.client import QueueClient
from cachebackend.conf import write_behind_options
from cachebackend.registry import queue_client

__all__ = ["project_queue"]


def project_queue() -> QueueClient:
    """Return the client of the queue nodes that ``WRITE_BEHIND`` names.

    Raises:
        ConfigurationError: The setting has faults, or names none.
    """
    return queue_client(write_behind_options())
