"""Writes that are taken in the queue's memory and land in Postgres, each exactly once.

``wire`` says how values travel, ``expressions`` what may be written, ``manager`` queues
it; ``drains`` lands a partition's batches and ``apply`` is the SQL of one. Celery tasks
over these are in ``workers``.
"""

from cachebackend.writebehind.drains import Drained, dirty_partitions, drain
from cachebackend.writebehind.manager import WriteBehindManager

__all__ = ["Drained", "WriteBehindManager", "dirty_partitions", "drain"]
