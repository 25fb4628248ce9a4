"""The clients of a process: one for each configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import setting_changed

from cachebackend.errors import ConfigurationError
from cachebackend.options import RingOptions, WriteBehindOptions
from cachebackend.registry import close_clients, queue_client, ring_client

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


@pytest.mark.parametrize("setting", ["CACHES", "WRITE_BEHIND"])
def test_clients_are_forgotten_when_their_settings_change(setting: str) -> None:
    """As in tests that override them; another setting changes nothing."""
    client = ring_client(ring())
    setting_changed.send(sender=None, setting="DEBUG", value=None, enter=True)
    assert ring_client(ring()) is client
    setting_changed.send(sender=None, setting=setting, value=None, enter=True)
    assert ring_client(ring()) is not client


def test_values_are_signed_with_the_projects_secrets(settings: Any) -> None:
    """The present one signs; the fallbacks are accepted."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "old", []
    codec = ring_client(ring(codec="signed-pickle")).context.codec
    record = codec.encode({1: 2})
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", ["old"]
    assert codec.decode(record) == {1: 2}
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(Exception, match="signature"):
        codec.decode(record)
