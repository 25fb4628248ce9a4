"""Actors that get, load and set by themselves, under the leases of ``lease_on_get``."""

from __future__ import annotations

from typing import Any

from cachebackend import protocol
from cachebackend.backend.keys import Timeout
from cachebackend.backend.request_leases import LeasingCache
from cachebackend.effects import Load, Operation
from cachebackend.protocol import MISSING
from tests.interleavings.readers import Reader
from tests.interleavings.world import KEY

__all__ = ["AsideReader", "AsideReaderThatGetsAgain", "AsideReaderThatSetsTwice"]


class _Client:
    """What a cache object uses of its client."""

    def __init__(self, context: protocol.Context) -> None:
        self.context = context


class _Cache(LeasingCache):
    """The cache object of one request, whose operations an actor performs."""

    def __init__(self, context: protocol.Context) -> None:
        super().__init__("", {})
        self.__dict__["client"] = _Client(context)

    def ttl_ms(self, timeout: Timeout = 60) -> int | None:
        return 60_000

    def get_(self) -> Operation[Any]:
        return self._get_and_lease(KEY, MISSING, near=True)

    def set_(self, value: Any) -> Operation[Any]:
        if KEY in self._leases:
            return self._set_with_lease(KEY, value, 60)
        return protocol.set_(self.client.context, KEY, value, 60_000)


class AsideReader(Reader):
    """Gets the key, and sets what it loads."""

    def start(self) -> Operation[Any]:
        return self.read(_Cache(self.context()))

    def read(self, cache: _Cache) -> Operation[Any]:
        value = yield from cache.get_()
        if value is MISSING:
            value = yield Load(lambda: None)
            yield from self.store(cache, value)
        return value

    def store(self, cache: _Cache, value: Any) -> Operation[Any]:
        return cache.set_(value)


class AsideReaderThatGetsAgain(AsideReader):
    """Another part of its code reads the key between the load and the set."""

    def store(self, cache: _Cache, value: Any) -> Operation[Any]:
        yield from cache.get_()
        yield from cache.set_(value)


class AsideReaderThatSetsTwice(AsideReader):
    """It sets the value again after the set that may have been refused."""

    def store(self, cache: _Cache, value: Any) -> Operation[Any]:
        if not (yield from cache.set_(value)):
            yield from cache.set_(value)
