"""A client that records the operations of deletes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation import deletes, pending_deletes


class Client:
    """A client that records the operations of all aliases; ``refused`` keys are not confirmed."""

    context = None
    counters = SimpleNamespace(cell=SimpleNamespace(invalidations=0))

    def __init__(self) -> None:
        self.ran: list[tuple[str, set[bytes]]] = []
        self.refused: set[bytes] = set()

    def probe_ejected(self) -> bool:
        return False

    def run(self, operation: tuple[str, list[bytes]]) -> list[bytes]:
        name, keys = operation
        self.ran.append((name, set(keys)))
        missed = [key for key in keys if key in self.refused]
        if name == "quarantine" and missed:
            raise NodeUnavailableError
        return missed


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """The client of every alias."""
    client = Client()
    for name in ("delete_many", "quarantine", "unquarantine"):
        monkeypatch.setattr(
            deletes.protocol, name, lambda _, keys, *_token, name=name, in_outbox=True: (name, keys)
        )
    for module in (deletes, pending_deletes):
        monkeypatch.setattr(module, "ring_cache_of", lambda _: SimpleNamespace(client=client))
    return client
