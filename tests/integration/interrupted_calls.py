"""A process whose calls are interrupted by a signal handler that raises: what ``test_signals`` starts.

Prints, as JSON, how many calls were interrupted, which interruptions did not reach the caller, and
which replies were wrong.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from traceback import walk_stack
from types import FrameType
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.core.cache import cache  # noqa: E402  # Django must be set up before
from django.db.models import F  # noqa: E402  # as above

from cachebackend.errors import InterruptLostError  # noqa: E402  # as above
from tests.shop.models import Meter  # noqa: E402  # as above

KEYS = [f"key-{number}" for number in range(30)]
#: Values that MessagePack holds as it is, and values that need the codec's extensions.
VALUES: dict[str, Any] = {key: f"value of {key}" for key in KEYS} | {
    "row": {"price": Decimal("1.5"), "at": datetime(2026, 1, 1, tzinfo=UTC), "sizes": (1, 2)}
}
#: The most seconds until the signal; a call takes a few tenths of a millisecond.
LATEST = 0.0006


class SoftLimit(Exception):  # noqa: N818  # named as Celery's SoftTimeLimitExceeded, and as that an Exception
    """What the signal handler raises."""


def expect(returned: Any, expected: Any) -> None:
    """Record a reply that is not the one of this call."""
    if returned != expected:
        wrong.append(f"{returned!r} instead of {expected!r}")


def calls() -> dict[str, Callable[[], None]]:
    """Return each kind of call, by name; each checks what it returns."""
    pk, many = uuid.uuid4(), KEYS[:20]
    return {
        "get": lambda: expect(cache.get(KEYS[0]), VALUES[KEYS[0]]),
        "get of a row": lambda: expect(cache.get("row"), VALUES["row"]),
        "get_many": lambda: expect(cache.get_many(many), {key: VALUES[key] for key in many}),
        "set": lambda: cache.set("written", 1, 60),
        "set of a row": lambda: cache.set("row", VALUES["row"], 600),
        "set_many": lambda: expect(cache.set_many({key: VALUES[key] for key in many}, 600), []),
        "add": lambda: expect(cache.add(KEYS[1], "another", 60), False),
        "touch": lambda: expect(cache.touch(KEYS[2], 600), True),
        "incr": lambda: expect(cache.incr("number", 0), 7),
        "ttl": lambda: expect(cache.ttl(KEYS[3]) in range(601), True),
        "delete": lambda: expect(cache.delete("absent"), False),
        "delete_many": lambda: cache.delete_many(["absent", "also-absent"]),
        "get_or_set": lambda: expect(cache.get_or_set(KEYS[4], dict, 60), VALUES[KEYS[4]]),
        "get_or_set of a miss": lambda: expect(
            cache.get_or_set(f"new-{random.random()}", lambda: "loaded", 60), "loaded"
        ),
        "keys": lambda: expect(len(list(cache.keys("key-*"))), len(KEYS)),
        "update behind": lambda: Meter.behind.update(pk, count=F("count") + 1),
    }


def main(rounds: int) -> None:
    """Interrupt every kind of call ``rounds`` times."""
    logging.disable(logging.CRITICAL)
    cache.set_many(VALUES, 600)
    cache.set("number", 7, 600)
    interrupted, swallowed = 0, []
    chance = random.Random(1)
    for _ in range(rounds):
        for name, call in calls().items():
            raised.clear()
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + chance.random() * LATEST)
                call()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except (SoftLimit, InterruptLostError):
                interrupted += 1
            else:
                swallowed += [f"{name}: {where}" for where in raised]
            signal.setitimer(signal.ITIMER_REAL, 0)
    ejected = [node.name for node in cache.client.nodes if node.is_ejected]
    report = {"interrupted": interrupted, "swallowed": swallowed, "wrong": wrong, "ejected": ejected}
    print(json.dumps(report))  # noqa: T201  # the test reads it


def _raise(_: int, frame: FrameType | None) -> None:
    assert frame is not None
    if any(each.f_code.co_name == "__del__" for each, _ in walk_stack(frame)):
        return  # Python ignores what is raised in a finalizer; redis-py has some
    raised.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
    raise SoftLimit


wrong: list[str] = []
raised: list[str] = []


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _raise)
    main(int(sys.argv[1]))
