"""Hashes of counts with fields that are mutated or made up, before the page and the metrics."""

from __future__ import annotations

import random

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache
from cachebackend.telemetry.heartbeat import last_runs, record_run
from cachebackend.telemetry.publisher import counts_by_minute, counts_in_all, publish_counts
from tests.fuzz.mutants import count, mutant

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: Names that are attributes or look like a bucket's, and counts that are no numbers or too long.
NAMES = [b"__class__", b"add", b"get_times.999999999", b"get_times.x", b"get_times", b"\xff", b"hits.", b""]
COUNTS = [b"abc", b"", b"9" * 5000, b"9" * 18, b"-1", b"nan", b"1_0", b"\xff"]


def damage(chance: random.Random, ring_cache: RingCache) -> str:
    """Change a field of a hash of counts, or add one; return what was done."""
    node = chance.choice(ring_cache.client.nodes)
    keys: list[bytes] = node.call((b"KEYS", b"ringcache:*"))
    key = chance.choice(keys or [b"ringcache:none"])
    names: list[bytes] = node.call((b"HKEYS", key)) or [b"hits"]
    name = chance.choice([*names, *NAMES]) if chance.random() < 0.7 else mutant(chance, names)
    value = chance.choice(COUNTS) if chance.random() < 0.7 else mutant(chance, [b"12", b"-7"])
    node.call((b"HSET", key, name, value))
    return f"{key!r} {name!r} {value[:40]!r}"


def test_no_count_harms_its_reader(ring_cache: RingCache) -> None:
    """What is no count is left out; the page and the figures stand, and this process still counts."""
    client, url = Client(), reverse("admin:cachebackend_ring_changelist")
    client.force_login(User.objects.create_superuser("root"))
    chance, tried = random.Random(random.getrandbits(32)), count(60)
    for turn in tried:
        ring_cache.get("k")
        publish_counts("default")
        record_run("tick")
        done = damage(chance, ring_cache)
        try:
            counts_by_minute("default", 3)
            counts_in_all("default")
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
    assert counts_in_all("default").misses
