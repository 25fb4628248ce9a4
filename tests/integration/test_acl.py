"""ACL users whose rights end at the prefixes of their keys, as docs/security.md gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.core.cache import caches
from django.db.models import F
from django.test import override_settings

from cachebackend import RingCache, invalidation, writebehind
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.monitoring import alias_figures
from cachebackend.monitoring.setup import ring_faults
from cachebackend.telemetry.heartbeat import last_runs, record_run
from cachebackend.telemetry.publisher import publish_all, publish_counts
from cacheproject.services import Services
from tests.shop.models import Author, Meter

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.postgres,
]
SECURITY = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def documented_rights(user: str, **prefixes: str) -> list[str]:
    """Return the words of the page's ``ACL SETUSER`` for a user, with the prefixes of these tests."""
    found = re.search(rf"^ACL SETUSER {user} (.*)$", SECURITY.read_text(), re.MULTILINE)
    assert found is not None
    words = found[1]
    for old, new in prefixes.items():
        words = words.replace(f"~{old}:", f"~{new}:")
    return words.split()


def ring_cache() -> RingCache:
    cache = caches["default"]
    assert isinstance(cache, RingCache)
    return cache


def as_user(url: str) -> str:
    return f"{url.partition('//')[0]}//limited:password@{url.rpartition('@')[2]}"


@pytest.fixture
def refused(services: Services) -> Iterator[Callable[[], list[str]]]:
    """Let the settings name users with the documented rights; a function returns what they were refused."""
    site = documented_rights("site", shop=caches["default"].key_prefix)
    nodes = [(url, site) for url in services.ring_servers]
    nodes += [(url, documented_rights("queue")) for url in services.queue_urls]
    ring = settings.CACHES["default"] | {"LOCATION": list(map(as_user, services.ring_urls))}
    behind = {"nodes": list(map(as_user, services.queue_urls)), "partitions": 1, "durability": "fsync"}
    with ExitStack() as stack:
        admins = []
        for url, rights in nodes:
            admin = stack.enter_context(redis.Redis.from_url(url.partition("?")[0]))
            admin.execute_command("ACL", "SETUSER", "limited", "reset", *rights)
            admin.execute_command("ACL", "LOG", "RESET")
            stack.callback(admin.execute_command, "ACL", "DELUSER", "limited")
            admins.append(admin)
        caches_ = {"default": ring | {"OPTIONS": {"near": {}}}}
        stack.enter_context(override_settings(CACHES=caches_, WRITE_BEHIND=behind))
        yield lambda: [str(entry["object"]) for admin in admins for entry in admin.acl_log()]


def use_the_cache(cache: RingCache) -> None:
    """Call each kind of operation: values, leases, tags, patterns, locks, figures and ``clear``."""
    cache.set("a", 1, 60)
    assert cache.get_many(["a", "b"]) == {"a": 1}
    assert cache.incr("a") == 2
    assert cache.get_or_set("c", lambda: 3, 60, tags=["t"], stale_for=5) == 3
    cache.invalidate_tags("t")
    assert cache.get("c") is None
    cache.touch("a", 50)
    cache.persist("a")
    assert list(cache.keys("*")) == ["a"]
    with cache.lock("work", timeout=5):
        pass
    cache.delete_many(["a", "c"])
    author = Author.objects.create(name="Sappho")
    assert Author.cached.get(pk=author.pk).name == "Sappho"
    Author.objects.filter(pk=author.pk).update(name="Psappho")
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    invalidation.relay()
    record_run("tick")
    assert last_runs()
    publish_counts("default")
    publish_all()
    alias_figures("default")
    assert ring_faults("default", cache.client) == []
    cache.delete_pattern("x*")
    cache.clear()


def test_the_documented_rights_are_enough(refused: Callable[[], list[str]]) -> None:
    """For the cache, its figures and its locks, and for the queue: the nodes refuse nothing."""
    use_the_cache(ring_cache())
    meter = Meter.objects.create()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    assert Meter.behind.get(meter.pk).count == 1
    for partition in writebehind.request_drains(writebehind.seal_dirty()):
        writebehind.begin_drain(partition)
        writebehind.drain(partition)
    publish_all()
    assert list(writebehind.node_faults()) == []
    assert Meter.objects.get(pk=meter.pk).count == 1
    assert refused() == []


def test_other_keys_are_refused(refused: Callable[[], list[str]]) -> None:
    """A user reads and writes the keys of its own site only."""
    cache = ring_cache()
    node = cache.client.nodes[0]
    replies = [node.call((b"GET", key)) for key in (b"other:1:k", b"wb:dirty")]
    assert all(isinstance(reply, NodeReplyError) and reply.code == "NOPERM" for reply in replies)
    assert sorted(refused()) == ["other:1:k", "wb:dirty"]


def test_a_user_with_a_prefix_that_may_not_run_scripts_is_refused(
    services: Services, refused: Callable[[], list[str]]
) -> None:
    """It may write no key but its own, so a node that refuses another key does not show what it may write."""
    for url in services.ring_servers:
        with redis.Redis.from_url(url.partition("?")[0]) as admin:
            rights = ["reset", "on", ">password", "~site:*", "+@all", "-@scripting"]
            admin.execute_command("ACL", "SETUSER", "limited", *rights)
    with override_settings(CACHES={"default": settings.CACHES["default"] | {"KEY_PREFIX": "site"}}):
        reply = ring_cache().client.nodes[0].call((b"SET", b"site:1:k", b"1"))
    assert isinstance(reply, NodeUnavailableError)
    assert "lets its user write but not run scripts" in str(reply)
