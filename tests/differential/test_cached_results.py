"""After random writes, each query has the same result through the ring as in plain Django.

Rows are written in every way that Django has (``tests.differential.writes``), in transactions and
savepoints, of which some are rolled back, and by raw SQL. Queries are read after each write, also in the
open transaction, by another thread, by two threads that share a queryset, and by querysets that are kept.
``FUZZ_SEED=7 FUZZ_ONLY=3`` runs one round of a seed again; ``FUZZ_SECONDS=3600`` runs new ones for an hour.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.test import override_settings

import tests.differential.writes  # noqa: F401  # it registers all kinds of writes
from cachebackend.invalidation import old_rows, watched, writes
from cachebackend.invalidation.compilers import watch_queries
from cachebackend.invalidation.tables import forget_tables
from cachebackend.testing import empty_ring
from cacheproject.services import Services
from tests.differential.cached_reads import Asked, Findings, Statements
from tests.differential.machine import Thread
from tests.differential.query_kinds import KINDS, UNCACHED
from tests.differential.rounds import SECOND_ALIAS, WRITTEN, Round
from tests.differential.row_changes import MODELS
from tests.differential.rows import start_again
from tests.fix_services import flush
from tests.zoo.models import FAMILIES

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.filterwarnings("ignore::django.core.paginator.UnorderedObjectListWarning"),
]
#: For how long rounds are run, if that is longer than a few take; ``make soak`` sets it.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or (random.SystemRandom().getrandbits(32) if SECONDS else 1)
#: The one round that is run.
ONLY = os.environ.get("FUZZ_ONLY", "")
#: In ``make test``: rounds, each with new rows and other queries; and those on databases that return less.
ROUNDS, ROUNDS_WITHOUT_RETURNING = 4, 2
#: This kind joins the table of content types, which nothing watches.
UNWATCHED = "generic target"


class Router:
    """Sends all models to one database."""

    current = "default"

    def db_for_read(self, *_: Any, **__: Any) -> str:
        return Router.current

    db_for_write = db_for_read


@pytest.fixture
def observer() -> Iterator[Thread]:
    """A thread with its own connections."""
    thread = Thread("observer")
    yield thread
    thread.close()


@pytest.fixture
def ring(services: Services) -> Iterator[None]:
    """Two cache aliases, in which results of queries over all models are kept."""
    second = settings.CACHES["default"] | {"KEY_PREFIX": "second"}
    router = f"{__name__}.Router"
    before = {model: set(aliases) for model, aliases in watched._queried.items()}
    with (
        override_settings(CACHES={**settings.CACHES, SECOND_ALIAS: second}, DATABASE_ROUTERS=[router]),
        empty_ring(),
    ):
        for model in MODELS:
            watch_queries(model, SECOND_ALIAS)
        yield
    watched._queried.clear()
    watched._queried.update(before)
    forget_tables()


def run_rounds(using: str, services: Services, observer: Thread, fewest: int) -> Findings:
    """Run the rounds on a database; fail at the first wrong result."""
    found, end = Findings(), time.monotonic() + SECONDS
    Router.current = using
    try:
        for number in [int(ONLY)] if ONLY else itertools.count():
            if not ONLY and number >= fewest and time.monotonic() >= end:
                break
            for url in services.ring_urls:
                flush(url)
            Round(f"{SEED}-{number}", using, found, observer).run()
            if found.wrong:
                line = f"FUZZ_SEED={SEED} FUZZ_ONLY={number}, {using}\n{found.wrong[0]}"
                print(f"\n{line}")
                pytest.fail(line, pytrace=False)
    finally:
        Router.current = "default"
    print(f"\nFUZZ_SEED={SEED}, {using}: {found}")
    return found


@pytest.mark.postgres
@pytest.mark.parametrize("way", ["as it is", "before 18", "no RETURNING"])
def test_a_result_is_that_of_plain_django(
    way: str, ring: None, services: Services, observer: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However rows are written; most results that a write does not change are kept."""
    if way != "as it is":
        monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)
    if way == "no RETURNING":
        monkeypatch.setattr(writes.Write, "_can_return", False)
    fewest = ROUNDS if way == "as it is" else ROUNDS_WITHOUT_RETURNING
    found = run_rounds("default", services, observer, fewest)
    assert ONLY or found.same_hits > 0.6 * found.same, (found, found.loads.most_common(30))


def test_a_result_is_that_of_plain_django_on_sqlite(ring: None, services: Services, observer: Thread) -> None:
    """There rows are read before they are written."""
    found = run_rounds("lite", services, observer, ROUNDS_WITHOUT_RETURNING)
    assert ONLY or found.same_hits > 0.6 * found.same, (found, found.loads.most_common(30))


@pytest.mark.postgres
def test_most_kinds_are_kept(ring: None) -> None:
    """The database is asked once for at least 85 of 100 kinds; the others are named here."""
    start_again([model for family in WRITTEN for model in FAMILIES[family]], "default")
    asked = set()
    for kind in sorted(KINDS):
        each = Asked(kind, "rows", "1")
        statements = Statements("default")
        with transaction.atomic():
            each.cached()
            with statements.counted():
                each.cached()
        if statements.count:
            asked.add(kind)
    print(f"\n{len(KINDS) - len(asked)} of {len(KINDS)} kinds are kept; not: {', '.join(sorted(asked))}")
    assert asked == set(UNCACHED) | {UNWATCHED}
    assert len(asked) <= 0.15 * len(KINDS)
