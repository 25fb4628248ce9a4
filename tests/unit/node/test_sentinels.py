"""Finding the primary by asking its sentinels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import redis.exceptions
import redis.sentinel

from cachebackend.node.sentinels import Sentinels
from cachebackend.node.translate import MalformedReplyError
from cachebackend.options import sentinel_address

URL = "redis+sentinel://a,b:9,c/shop?sentinel_username=u&sentinel_password=hunter2"


class Asked:
    """redis-py's sentinels, of which the last one answers; nothing connects."""

    hosts: ClassVar[list[list[str]]] = []
    given: ClassVar[dict[str, Any]] = {}
    answers = True
    error: Exception | None = None

    def __init__(self, hosts: Any, sentinel_kwargs: Any) -> None:
        Asked.hosts.append([host for host, _ in hosts])
        Asked.given = sentinel_kwargs
        self.sentinels = [
            SimpleNamespace(
                connection_pool=SimpleNamespace(connection_kwargs={"host": host, "port": port}),
                close=lambda: None,
            )
            for host, port in hosts
        ]

    def discover_master(self, service: str) -> tuple[str, int]:
        if self.error is not None:
            raise self.error
        if not self.answers:
            raise redis.sentinel.MasterNotFoundError
        self.sentinels.insert(0, self.sentinels.pop())  # redis-py puts the one that answered first
        return service, 6380


@pytest.fixture
def sentinels(monkeypatch: pytest.MonkeyPatch) -> Sentinels:
    monkeypatch.setattr(redis.sentinel, "Sentinel", Asked)
    monkeypatch.setattr(Asked, "hosts", [])
    return Sentinels(sentinel_address(URL), 0.1, 0.2)


def test_the_sentinel_that_answered_is_asked_first_from_then_on(sentinels: Sentinels) -> None:
    """The others keep their order; the login is the sentinels' own."""
    assert [sentinels.primary() for _ in range(2)] == [("shop", 6380)] * 2
    assert Asked.hosts == [["a", "b", "c"], ["c", "a", "b"]]
    assert Asked.given["credential_provider"].get_credentials() == ("u", "hunter2")


def test_a_service_that_no_sentinel_knows_is_named(
    sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the sentinels that were asked, and without their password."""
    monkeypatch.setattr(Asked, "answers", False)
    with pytest.raises(ConnectionError, match="a:26379, b:9, c:26379 .*'shop'") as raised:
        sentinels.primary()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("error", [KeyError("flags"), TypeError(), ValueError(), AttributeError()])
def test_after_nonsense_another_sentinel_is_asked_first(
    sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One sentinel that is not one must not hide the others; the error is that of a connection."""
    monkeypatch.setattr(Asked, "error", error)
    for _ in range(2):
        with pytest.raises(MalformedReplyError):
            sentinels.primary()
    assert Asked.hosts == [["a", "b", "c"], ["b", "c", "a"]]


def test_another_error_of_redis_py_is_a_failed_connection(
    sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No caller needs to know the errors of redis-py."""
    monkeypatch.setattr(Asked, "error", redis.exceptions.ResponseError("ERR unknown command"))
    with pytest.raises(ConnectionError, match="unknown command"):
        sentinels.primary()
