"""The owner of every slot, by weighted consistent hashing with a cap.

Each node throws 1000 points a unit of weight on a circle of 2^64; a slot belongs to
the node whose point comes next (Karger et al., STOC '97, section 4). The throw leaves
the busiest of 50 nodes 8 % above the mean, so no node may own more than its share and
3 %: what is above goes on to the next node with room (consistent hashing with bounded
loads, Mirrokni et al., SODA '18, section 2).

Why a change of nodes moves so little: a node's points depend on its own name and
weight alone, so a node that joins or leaves touches only the slots before its points.
Only the slots that the cap sends on, well under 1 %, can move besides; they are chosen
in an order that is always the same, so the same ones go on in the old ring and the new.
(Weights below 1 throw fewer points and vary more: a ring of halves moves up to 1.3 %.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain

from xxhash import xxh3_128_intdigest

from cachebackend.ring.slots import SLOT_SHIFT, SLOTS

__all__ = ["build_table"]

#: Points a node throws for each unit of its weight.
POINTS = 1000
#: No node owns more slots than its share times this.
CAP = 1.03
#: The owner's number stands in the low byte of its points; 56 bits are left for the circle.
_OWNER_MASK = 0xFF
_LOW = (1 << 64) - 1
#: Odd, near 65,536 over the golden ratio: multiples of it visit every slot once, well spread.
_SHUFFLE = 40_503


def build_table(nodes: Sequence[tuple[str, float]]) -> bytes:
    """Return the number of each slot's owner, one byte a slot.

    Args:
        nodes: Name and weight of each node, at most 255. The table names a node by its
            index here; who owns a slot does not depend on the order.
    """
    points = _points(nodes)
    table = _throw(points)
    _bound(table, points, nodes)
    return bytes(table)


def _points(nodes: Sequence[tuple[str, float]]) -> list[int]:
    """Return every node's points in the circle's order, the owner's number in the low byte."""
    points: list[int] = []
    for owner, (name, weight) in enumerate(nodes):
        for number in range(0, max(1, round(POINTS * weight)), 2):  # a 128-bit hash is two points
            both = xxh3_128_intdigest(f"{name}#{number}".encode())
            points += (both >> 64) & ~_OWNER_MASK | owner, both & _LOW & ~_OWNER_MASK | owner
    points.sort()
    return points


def _throw(points: Sequence[int]) -> bytearray:
    """Give each slot to the first point at or after its beginning, around the circle."""
    table = bytearray([points[0] & _OWNER_MASK]) * SLOTS
    begin = 0
    for point in points:
        end = (point >> SLOT_SHIFT) + 1
        if end == begin + 1:
            table[begin] = point & _OWNER_MASK
        elif end > begin:
            table[begin:end] = bytes((point & _OWNER_MASK,)) * (end - begin)
        else:
            continue
        begin = end
    return table


def _bound(table: bytearray, points: Sequence[int], nodes: Sequence[tuple[str, float]]) -> None:
    """Send what a node owns above its cap on to the next node with room."""
    total = sum(weight for _, weight in nodes)
    room = [int(CAP * SLOTS * weight / total) - table.count(owner) for owner, (_, weight) in enumerate(nodes)]
    excess = sum(-free for free in room if free < 0)
    for number in range(SLOTS):
        if not excess:
            return
        slot = number * _SHUFFLE % SLOTS
        owner = table[slot]
        if room[owner] < 0:
            heir = _next_with_room(room, points, slot)
            table[slot] = heir
            room[owner] += 1
            room[heir] -= 1
            excess -= 1


def _next_with_room(room: Sequence[int], points: Sequence[int], slot: int) -> int:
    """Return the owner of the first point after the slot whose node is below its cap."""
    start = bisect_left(points, slot << SLOT_SHIFT)
    around = chain(range(start, len(points)), range(start))
    return next(owner for at in around if room[owner := points[at] & _OWNER_MASK] > 0)
