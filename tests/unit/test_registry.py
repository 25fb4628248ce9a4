"""The clients of a process: one for each configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import setting_changed

from cachebackend.errors import ConfigurationError
from cachebackend.options import RingOptions, WriteBehindOptions
from cachebackend.registry import close_clients, has_used_queue, queue_client, ring_client

URL = "redis://unused-by-anybody-else?name=a"


@pytest.fixture(autouse=True)
def no_clients() -> Iterator[None]:
    """No client before the test, nor after it."""
    close_clients()
    yield
    close_clients()


def ring(**options: Any) -> RingOptions:
    return RingOptions.read(URL, options, "CACHES")


def test_equal_options_share_a_client() -> None:
    """Django has a cache object for each thread; connections and counters are the process'."""
    assert ring_client(ring()) is ring_client(ring())
    assert ring_client(ring(jitter=0.1)) is not ring_client(ring())
    queue = WriteBehindOptions.read({"nodes": [URL]})
    assert queue_client(queue) is queue_client(WriteBehindOptions.read({"nodes": [URL]}))


def test_a_ring_client_has_its_outbox_before_anybody_uses_it() -> None:
    """The app gives it one: what nodes miss outlives the process."""
    assert ring_client(ring()).outbox is not None


def test_write_behind_that_is_off_has_no_client() -> None:
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match=r"WRITE_BEHIND\['nodes'\]"):
        queue_client(WriteBehindOptions.read({}))


def test_clients_are_forgotten_when_their_setting_changes() -> None:
    """As in tests that override it; the clients of another setting are kept, with their connections."""
    queue = WriteBehindOptions.read({"nodes": [URL]})
    clients = {"CACHES": lambda: ring_client(ring()), "WRITE_BEHIND": lambda: queue_client(queue)}
    for changed in ("DEBUG", *clients):
        before = {setting: client() for setting, client in clients.items()}
        setting_changed.send(sender=None, setting=changed, value=None, enter=True)
        assert {each for each, client in clients.items() if client() is not before[each]} == {changed} - {
            "DEBUG"
        }


def test_a_queue_that_was_used_is_remembered() -> None:
    """By its prefix, also after its client is closed."""
    queue_client(WriteBehindOptions.read({"nodes": [URL], "prefix": "used"}))
    close_clients()
    assert has_used_queue("used")
    assert not has_used_queue("unused")


def test_values_are_signed_with_the_projects_secrets(settings: Any) -> None:
    """The present one signs; the fallbacks are accepted."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "old", []
    codec = ring_client(ring(codec="signed-pickle")).context.codec
    record = codec.encode({1: 2}, b"k")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", ["old"]
    assert codec.decode(record, b"k") == {1: 2}
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(Exception, match="signature"):
        codec.decode(record, b"k")
