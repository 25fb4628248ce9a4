"""Clients: what the threads and tasks of a process share of an alias, or of the queue."""

from cachebackend.client.queue import QueueClient
from cachebackend.client.ring import RingClient

__all__ = ["QueueClient", "RingClient"]
