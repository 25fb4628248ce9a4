"""The slot of a key."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

__all__ = ["SLOTS", "SLOT_SHIFT", "slot_of"]

#: The number of slots. In a ring of 3 nodes a slot is 0.005 % of a node.
SLOTS = 65_536
#: A slot is the top 16 bits of a 64-bit hash.
SLOT_SHIFT = 48


def slot_of(key: bytes) -> int:
    """Return the slot of a key, 0 to 65,535."""
    slot: int = xxh3_64_intdigest(key) >> SLOT_SHIFT
    return slot
