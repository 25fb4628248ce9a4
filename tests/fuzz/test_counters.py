"""Hashes of counters with damaged or invented fields, as the page and the metrics read them."""

from __future__ import annotations

import random

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache
from cachebackend.telemetry.heartbeat import last_runs, record_run
from cachebackend.telemetry.periods import HOUR
from cachebackend.telemetry.publisher import counts_by_step, publish_counts, total_counts
from tests.fuzz.mutants import count, mutant

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: Names that are attributes or look like a bucket's, and counts that are too long or not numbers.
NAMES = [b"__class__", b"add", b"get_times.999999999", b"get_times.x", b"get_times", b"\xff", b"hits.", b""]
COUNTS = [b"abc", b"", b"9" * 5000, b"9" * 18, b"-1", b"nan", b"1_0", b"\xff"]


def damage(generator: random.Random, ring_cache: RingCache) -> str:
    """Change a field of a hash of counters, or add one; return a description of the change."""
    node = generator.choice(ring_cache.client.nodes)
    keys = [key for key in node.call((b"KEYS", b"ringcache:*")) if node.call((b"TYPE", key)) == b"hash"]
    key = generator.choice(keys or [b"ringcache:none"])
    names: list[bytes] = node.call((b"HKEYS", key)) or [b"hits"]
    name = generator.choice([*names, *NAMES]) if generator.random() < 0.7 else mutant(generator, names)
    value = generator.choice(COUNTS) if generator.random() < 0.7 else mutant(generator, [b"12", b"-7"])
    node.call((b"HSET", key, name, value))
    return f"{key!r} {name!r} {value[:40]!r}"


def test_no_damaged_counter_harms_its_reader(ring_cache: RingCache) -> None:
    """A value that is not a count is left out; page and metrics still work, and the process still counts."""
    client, url = Client(), reverse("admin:cachebackend_ring_changelist")
    client.force_login(User.objects.create_superuser("root"))
    generator, tried = random.Random(random.getrandbits(32)), count(60)
    for turn in tried:
        ring_cache.get("k")
        publish_counts("default")
        record_run("tick")
        done = damage(generator, ring_cache)
        try:
            counts_by_step("default", HOUR, 3)
            total_counts("default")
            last_runs()
            shown = client.get(url).status_code if turn % 15 == 0 else 200
        except Exception as error:
            raise AssertionError(f"{done}: {type(error).__name__}: {error}") from error
        assert shown == 200, done
    print(f"{len(tried)} damaged counts")
    for node in ring_cache.client.nodes:
        node.call((b"FLUSHALL",))
    ring_cache.get("k")
    publish_counts("default")
    assert total_counts("default").counts.misses
