"""Random mixtures of tasks, threads and event loops: no wait without end, no old read, nothing left.

``FUZZ_SEED=7 FUZZ_ONLY=3`` runs one mixture of a seed again, in another order perhaps. ``FUZZ_SECONDS=3600``
(``make soak SECONDS=3600``) runs new ones for an hour.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from asgiref.sync import SyncToAsync
from django.db import connections

from cachebackend.codec import RELEASED
from cachebackend.testing import empty_ring
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.differential.mixtures import LEASE_TIMEOUT, Mixture
from tests.waits import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: For how long mixtures are run, if that is longer than a few take; ``make soak`` sets it.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or (random.SystemRandom().getrandbits(32) if SECONDS else 1)
#: The one mixture that is run.
ONLY = os.environ.get("FUZZ_ONLY", "")
#: Mixtures in ``make test``.
MIXTURES = 6


def numbers() -> Iterator[int]:
    """Yield the numbers of the mixtures that are run, at least some."""
    if ONLY:
        yield int(ONLY)
        return
    end = time.monotonic() + SECONDS
    for number in itertools.count():
        if number >= MIXTURES and time.monotonic() >= end:
            return
        yield number


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    """Close the connections of the thread that does the blocking work of all loops."""
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


def leases(services: Services) -> list[bytes]:
    """Return the keys for which a node holds a lease."""
    found: list[bytes] = []
    for url in services.ring_servers:
        with redis.Redis.from_url(url.partition("?")[0]) as node:
            for key in node.scan_iter(_type="string"):
                record = node.get(key) or b""
                found += [key] if record[:1] == b"L" and record != RELEASED else []
    return found


def test_random_mixtures(services: Services) -> None:
    """Every second one with ``lease_on_get``."""
    done: Counter[str] = Counter()
    for number in numbers():
        keeps_leases = bool(number % 2)
        Article.objects.all().delete()
        with empty_ring(lease_on_get=keeps_leases, lease_timeout=LEASE_TIMEOUT) as ring:
            mixture = Mixture(f"{SEED}-{number}", keeps_leases=keeps_leases)
            found = mixture.run()
            with suppress(AssertionError):  # a lease that a cancelled task asked for is released soon
                wait_until(lambda: not leases(services))
            found += [f"a lease is left: {key!r}" for key in leases(services)]
            done += mixture.done
            counts = ring.client.counters.total()
            done += Counter(lease_waits=counts.lease_waits, loads=counts.loads)
        if found:
            pytest.fail("\n".join([f"FUZZ_SEED={SEED} FUZZ_ONLY={number}", *found[:4]]), pytrace=False)
    print(dict(done))
