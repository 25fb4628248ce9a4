"""The connection of each event loop to a node whose address changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachebackend.node import loops
from cachebackend.node.loops import LoopConnections


class Connection:
    """Stands for a connection; ``address`` is that of the node when it was opened."""

    def __init__(self, address: str) -> None:
        self.address, self.is_usable, self.is_closed = address, True, False

    def retire(self) -> None:
        self.is_usable = False

    def close(self) -> None:
        self.is_closed = True


def test_a_connection_that_is_opened_while_the_address_changes_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is to the old primary, which redirects every command to the new one."""
    used = LoopConnections(None, 1.0)  # type: ignore[arg-type]  # no connection is made
    address = "old"

    class Opening:
        @staticmethod
        async def open(*_: Any) -> Connection:
            nonlocal address
            opened, address = Connection(address), "new"
            if opened.address == "old":
                used.retire()
            return opened

    monkeypatch.setattr(loops, "MultiplexedConnection", Opening)

    async def opened() -> list[Any]:
        first, second = await used.open(), await used.open()
        return [first, second, used.current()]

    first, second, current = asyncio.run(opened())
    assert [first.address, second.address] == ["old", "new"]
    assert (current is second, first.is_usable, second.is_usable) == (True, False, True)
