"""Damaged bytes: valid bytes changed at random; and a pickle that records when it is loaded."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Sequence
from typing import Any

__all__ = ["LOADED", "Bomb", "count", "mutant"]

#: The factor by which each test makes more records; ``make soak`` sets it.
_TIMES = int(os.environ.get("FUZZ", "1"))
#: Unusual values of lengths and flags.
_ODD_NUMBERS = [0, 1, 300, 0x7FFF, 0xFFFF]

#: One item for each Bomb that was unpickled.
LOADED: list[str] = []


def _explode(where: str) -> str:
    LOADED.append(where)
    return where


class Bomb:
    """An object whose unpickling is recorded in LOADED."""

    def __reduce__(self) -> Any:
        return (_explode, ("unpickled",))


#: A pickled Bomb.
BOMB = pickle.dumps(Bomb(), 5)


def count(records: int) -> range:
    """Return a range over the records that a test makes: ``records``, or more in ``make soak``."""
    return range(records * _TIMES)


def mutant(generator: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds after random changes: bytes replaced, cut off, inserted, unusual numbers."""
    mutated = bytearray(generator.choice(seeds))
    for _ in range(generator.choice([0, 1, 1, 1, 2, 5])):
        index = generator.randrange(len(mutated) + 1)
        match generator.randrange(4):
            case 0 if mutated:
                mutated[index % len(mutated)] = generator.randrange(256)
            case 1:
                del mutated[index:]
            case 2:
                mutated[index:index] = generator.randbytes(generator.randrange(1, 9))
            case _:
                mutated[index : index + 1] = generator.choice(_ODD_NUMBERS).to_bytes(2, "big")
    return bytes(mutated)
