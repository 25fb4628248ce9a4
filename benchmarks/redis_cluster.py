"""A thin Django cache over redis-py's ``RedisCluster``, as a project writes one without a library."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from redis.cluster import RedisCluster

__all__ = ["RedisClusterCache"]


class RedisClusterCache(BaseCache):
    """Pickles values; the rest is Django's base class and redis-py.

    Args:
        server: The URL of one server of the cluster.
        params: The settings of the alias.
    """

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._client = RedisCluster.from_url(server)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return a value."""
        stored = self._client.get(self.make_and_validate_key(key, version=version))
        return default if stored is None else pickle.loads(stored)  # noqa: S301  # as most caches do

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value."""
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        self._client.set(
            self.make_and_validate_key(key, version=version),
            pickle.dumps(value, pickle.HIGHEST_PROTOCOL),
            ex=seconds,
        )

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value if the key is absent."""
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        stored = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        return bool(
            self._client.set(self.make_and_validate_key(key, version=version), stored, ex=seconds, nx=True)
        )

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """Return values of many keys: one MGET for each slot, in a pipeline for each server."""
        names = {self.make_and_validate_key(key, version=version): key for key in keys}
        found = zip(names.values(), self._client.mget_nonatomic(list(names)), strict=True)
        return {
            key: pickle.loads(stored)  # noqa: S301  # as most caches do
            for key, stored in found
            if stored is not None
        }
