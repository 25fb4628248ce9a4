"""The ring: which node owns a key.

``slots`` hashes a key, with a seed, to one of 65,536 slots. ``table`` computes the owner of each slot
once, when the ring is built; the result is immutable. The package imports nothing of this project. It
is pure arithmetic: it never connects, reads the time or changes state.
"""

from cachebackend.ring.ring import Ring
from cachebackend.ring.slots import SLOTS, seed_of, slot_of
from cachebackend.ring.table import build_table

__all__ = ["SLOTS", "Ring", "build_table", "seed_of", "slot_of"]
