"""Django's admin of the ring: its page, and the writes that need a person.

``figures`` collects what the page shows, ``drawing`` draws it, ``page`` answers requests,
``actions`` deletes what it is asked to;
``parked`` is the list of parked writes. Decides nothing, and never loads a value.
"""

from cachebackend.admin.page import RingAdmin
from cachebackend.admin.parked import ParkedWriteAdmin

__all__ = ["ParkedWriteAdmin", "RingAdmin"]
