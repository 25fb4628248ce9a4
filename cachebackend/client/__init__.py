"""Clients: what the threads and tasks of a process share of an alias, or of the queue (``client.queue``)."""

from cachebackend.client.ring import RingClient

__all__ = ["RingClient"]
