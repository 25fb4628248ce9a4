"""Django's admin pages: the ring page, and the list of parked writes.

``page`` answers requests, ``tiles`` and ``charts`` draw the figures of ``cachebackend.monitoring``,
``actions`` deletes keys after a confirmation, ``parked`` retries and discards parked writes. May
import ``monitoring`` and everything below it. Computes no figure itself, and never unpickles a value.
"""

from cachebackend.admin.page import RingAdmin
from cachebackend.admin.parked import ParkedWriteAdmin

__all__ = ["ParkedWriteAdmin", "RingAdmin"]
