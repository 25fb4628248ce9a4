"""Which node owns a key: slots, and an immutable table of their owners.

``slots`` hashes a key to one of 65,536 slots; ``table`` decides once, when the ring
is built, which node owns each. Pure arithmetic: no connection, no state, no time.
"""

from cachebackend.ring.ring import Ring
from cachebackend.ring.slots import SLOTS, slot_of
from cachebackend.ring.table import build_table

__all__ = ["SLOTS", "Ring", "build_table", "slot_of"]
