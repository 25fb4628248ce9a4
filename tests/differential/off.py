"""What the scripts leave out: kinds of steps, blocks and reads, and models, each with the reason."""

from __future__ import annotations

import os

__all__ = ["OFF", "is_off"]

#: By name. ``FUZZ_OFF=tags,Stock`` leaves out more, to look behind a defect that is known.
OFF: dict[str, str] = {
    "async reads": "inside a transaction they look the connection up in another thread",
    "cache-aside in a transaction": "a value that is not committed is stored for everybody",
    "own reads after SQL": "a transaction does not know which rows its SQL has changed",
    "Price": "decimals that are equal, such as 1.5 and 1.50, have different keys",
    "Stock": "in_bulk of rows with a composite primary key raises",
}
OFF |= dict.fromkeys(filter(None, os.environ.get("FUZZ_OFF", "").split(",")), "by FUZZ_OFF")
for _name in os.environ.get("FUZZ_ON", "").split(","):
    OFF.pop(_name, None)


def is_off(name: str) -> bool:
    """Return whether a kind of step, block or read, or a model, is left out."""
    return name in OFF
