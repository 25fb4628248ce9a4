"""The owner of every slot, by weighted consistent hashing with a cap.

Each node has 1000 points for each unit of its weight on a circle of 2^64. A slot belongs to the node
of the next point on the circle (Karger et al., STOC '97, section 4). With points alone, the busiest of
50 nodes would own 8 % more slots than the mean. So there is a cap: no node owns more than 1.03 times
its share. A slot above the cap goes to the next node on the circle that is below its own cap
(consistent hashing with bounded loads, Mirrokni et al., SODA '18, section 2).

Why a change of nodes moves few slots: the points of a node depend only on its own name and weight, so
a node that joins or leaves changes only the slots before its points. Beside these, only slots that
the cap moves can change their owner, well under 1 % of all. They are chosen in a fixed order, so
mostly the same slots are moved in the old ring and in the new ring. (With weights below 1 there are
fewer points, and the shares vary more: a ring of weights 0.5 moves up to 1.3 %.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain

from xxhash import xxh3_128_intdigest

from cachebackend.ring.slots import SLOT_SHIFT, SLOTS

__all__ = ["build_table"]

#: Points of a node for each unit of its weight.
POINTS = 1000
#: No node owns more slots than its share times this factor.
CAP = 1.03
#: The low byte of a point is the index of its owner; the other 56 bits are the position on the circle.
_OWNER_MASK = 0xFF
_LOW = (1 << 64) - 1
#: Odd, and near 65,536 divided by the golden ratio: its multiples visit every slot once, evenly spread.
_SHUFFLE = 40_503


def build_table(nodes: Sequence[tuple[str, float]]) -> bytes:
    """Return the index of each slot's owner, one byte for each slot.

    Args:
        nodes: Name and weight of each node, at most 255. An index is a position in this list. Which
            node owns a slot does not depend on the order.
    """
    points = _points(nodes)
    table = _next_owners(points)
    _apply_cap(table, points, nodes)
    return bytes(table)


def _points(nodes: Sequence[tuple[str, float]]) -> list[int]:
    """Return the points of all nodes in the order of the circle, the owner's index in the low byte."""
    points: list[int] = []
    for owner, (name, weight) in enumerate(nodes):
        for number in range(0, max(1, round(POINTS * weight)), 2):  # a 128-bit hash gives two points
            digest = xxh3_128_intdigest(f"{name}#{number}".encode())
            points += (digest >> 64) & ~_OWNER_MASK | owner, digest & _LOW & ~_OWNER_MASK | owner
    points.sort()
    return points


def _next_owners(points: Sequence[int]) -> bytearray:
    """Return, for each slot, the owner of the first point at or after the beginning of the slot."""
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


def _apply_cap(table: bytearray, points: Sequence[int], nodes: Sequence[tuple[str, float]]) -> None:
    """Move slots of nodes that are above their cap to the next node that is below its own."""
    total = sum(weight for _, weight in nodes)
    room = [int(CAP * SLOTS * weight / total) - table.count(owner) for owner, (_, weight) in enumerate(nodes)]
    excess = sum(-free for free in room if free < 0)
    for number in range(SLOTS):
        if not excess:
            return
        slot = number * _SHUFFLE % SLOTS
        owner = table[slot]
        if room[owner] < 0:
            new_owner = _next_with_room(room, points, slot)
            table[slot] = new_owner
            room[owner] += 1
            room[new_owner] -= 1
            excess -= 1


def _next_with_room(room: Sequence[int], points: Sequence[int], slot: int) -> int:
    """Return the owner of the first point after the slot whose node is below its cap."""
    start = bisect_left(points, slot << SLOT_SHIFT)
    indexes = chain(range(start, len(points)), range(start))
    return next(owner for index in indexes if room[owner := points[index] & _OWNER_MASK] > 0)
