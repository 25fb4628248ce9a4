"""The slot of a key, and the seed of the hash that gives it."""

from __future__ import annotations

from hashlib import blake2b

from xxhash import xxh3_64_intdigest

__all__ = ["SLOTS", "SLOT_SHIFT", "seed_of", "slot_of"]

#: The number of slots. In a ring of 3 nodes a slot is 0.005 % of a node.
SLOTS = 65_536
#: A slot is the top 16 bits of a 64-bit hash.
SLOT_SHIFT = 48


def slot_of(key: bytes, seed: int = 0) -> int:
    """Return the slot of a key, 0 to 65,535.

    Args:
        key: The key as the nodes store it.
        seed: The 64-bit seed of the hash; 0: without a seed.
    """
    slot: int = xxh3_64_intdigest(key, seed) >> SLOT_SHIFT
    return slot


def seed_of(secret: str | int | None) -> int:
    """Return the 64-bit seed that a secret gives; a number gives the seed of its digits. None: 0."""
    if secret is None:
        return 0
    digest = blake2b(str(secret).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
