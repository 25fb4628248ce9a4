"""Hostile bytes: what is right, changed by chance; and a pickle that tells when it is loaded."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Sequence
from typing import Any

__all__ = ["LOADED", "Bomb", "count", "mutant"]

#: How many times as many records each test makes; ``make soak`` asks for more.
_TIMES = int(os.environ.get("FUZZ", "1"))
#: Numbers that lengths and flags are not made for.
_ODD_NUMBERS = [0, 1, 300, 0x7FFF, 0xFFFF]

#: A line for each Bomb that was unpickled.
LOADED: list[str] = []


def _explode(where: str) -> str:
    LOADED.append(where)
    return where


class Bomb:
    """What notes in LOADED that it was unpickled."""

    def __reduce__(self) -> Any:
        return (_explode, ("unpickled",))


#: The pickle of one.
BOMB = pickle.dumps(Bomb(), 5)


def count(records: int) -> range:
    """Return a range of as many records as a test is to make that makes so many in a hurry."""
    return range(records * _TIMES)


def mutant(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds after some changes: bytes replaced, cut off, put in, numbers that are odd."""
    made = bytearray(chance.choice(seeds))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 5])):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0 if made:
                made[at % len(made)] = chance.randrange(256)
            case 1:
                del made[at:]
            case 2:
                made[at:at] = chance.randbytes(chance.randrange(1, 9))
            case _:
                made[at : at + 1] = chance.choice(_ODD_NUMBERS).to_bytes(2, "big")
    return bytes(made)
