"""What the scripts leave out: kinds of steps, blocks and reads, and models, each with the reason."""

from __future__ import annotations

import os

__all__ = ["OFF", "is_off"]

#: By name. A defect that is known is entered here until it is repaired; ``FUZZ_OFF=tags,Stock`` leaves out
#: more, to look behind one.
OFF: dict[str, str] = {}
OFF |= dict.fromkeys(filter(None, os.environ.get("FUZZ_OFF", "").split(",")), "by FUZZ_OFF")


def is_off(name: str) -> bool:
    """Return whether a kind of step, block or read, or a model, is left out."""
    return name in OFF
