"""What the processes of the live checker do; each is spawned, and sets Django up first."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from django.db import connection, transaction

from cachebackend import invalidation
from cachebackend.errors import RingCacheError
from cacheproject.demo.models import Article

__all__ = ["read", "relay", "write"]

Versions = "SynchronizedArray[int]"
Count = "Synchronized[int]"


def write(keys: list[int], acknowledged: Any, writes: Any, strict: bool) -> None:
    """Raise the version of rows that no other process writes, until killed."""
    Article.cached.is_strict = strict
    chance = random.Random(os.getpid())
    while True:
        at = chance.randrange(len(keys))
        number, pk = divmod(keys[at], 1_000_000)
        version = Article.objects.values_list("views", flat=True).get(pk=pk) + 1
        try:
            match chance.randrange(3):
                case 0:
                    Article.objects.filter(pk=pk).update(views=version)
                case 1:
                    Article(pk=pk, views=version).save(update_fields=["views"])
                case _:
                    with transaction.atomic():
                        Article(pk=pk, views=version).save(update_fields=["views"])
        except RingCacheError:
            continue  # a strict write whose node was away: refused, not acknowledged
        acknowledged[number] = version
        with writes.get_lock():
            writes.value += 1


def read(keys: list[int], acknowledged: Any, reads: Any, stale: Any, strict: bool) -> None:
    """Read rows; each must be at least as new as what was acknowledged before the read began."""
    Article.cached.is_strict = strict
    chance = random.Random(os.getpid())
    while True:
        number, pk = divmod(chance.choice(keys), 1_000_000)
        known = acknowledged[number]
        seen = Article.cached.get(pk=pk).views
        with reads.get_lock():
            reads.value += 1
        if seen < known:
            with stale.get_lock():
                stale.value += 1


def relay(interval: float, lag: Any) -> None:
    """Run the relay every so often; note the worst lag that it found."""
    while True:
        lag.value = max(lag.value, invalidation.relay().lag)
        connection.ensure_connection()
        time.sleep(interval)
