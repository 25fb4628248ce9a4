"""After every step of a random script, everything read through the ring equals the database.

``FUZZ_SEED=7 FUZZ_ONLY=many-3 pytest tests/differential`` runs one script of a seed again.
``FUZZ_SECONDS=3600`` (``make soak SECONDS=3600``) runs scripts of each family for an hour.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import models, router

from cachebackend.invalidation import old_rows, watch, watched, writes
from cachebackend.invalidation.tags import ModelTags
from cachebackend.testing import empty_ring
from cacheproject.services import Services
from tests.differential.machine import Machine, Script, Threads, threads
from tests.differential.off import is_off
from tests.differential.rows import start_again
from tests.differential.scripts import random_script, shrink, steps_of
from tests.fix_services import flush
from tests.zoo.models import FAMILIES

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning"),
]
#: For how long scripts of each family are run, if that is longer than a few take; ``make soak`` sets it.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
#: In ``make test`` always the same, so that no commit fails by chance; in ``make soak`` a new one each time.
SEED = int(os.environ.get("FUZZ_SEED", "0")) or (random.SystemRandom().getrandbits(32) if SECONDS else 1)
#: The one script that is run.
ONLY = os.environ.get("FUZZ_ONLY", "")
#: Scripts of each family in ``make test``; and those on databases that return less.
SCRIPTS, SCRIPTS_WITHOUT_RETURNING = 2, 1
#: Scripts that fail before a family is given up.
MOST_FINDINGS = 5
#: Wrong answers that a failure prints.
SHOWN = 4

Runner = Callable[[Script, bool], list[str]]


@pytest.fixture(scope="module")
def all_threads() -> Iterator[Threads]:
    with threads() as found:
        yield found


@pytest.fixture
def run(
    family: str, all_threads: Threads, services: Services, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runner]:
    """Return a function that runs a script on new rows and empty nodes, and returns what was wrong."""

    def run_script(script: Script, is_async: bool) -> list[str]:
        start_again(FAMILIES[family], router.db_for_write(FAMILIES[family][0]))
        for url in services.ring_urls:
            flush(url)
        return Machine(family, all_threads, is_async=is_async).run(script)

    dependents = {model: [*found] for model, found in watched._dependents.items()}
    monkeypatch.setattr(watched, "_dependents", dependents)
    for model in FAMILIES[family]:
        _make_tag(model)
    with empty_ring(lease_on_get=True):
        yield run_script


def _make_tag(model: type[models.Model]) -> None:
    """Make a model a tag that has no ``InvalidatingManager``."""
    if not any(isinstance(dependent, ModelTags) for dependent in watched._dependents.get(model, ())):
        watch(model, ModelTags(model, "default"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ring_says_what_the_database_says(family: str, run: Runner) -> None:
    """However rows are written, committed or rolled back, and by which thread they are read."""
    run_scripts(family, run)


@pytest.mark.parametrize("way", ["before Postgres 18", "no RETURNING"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_so_on_databases_that_return_less(
    family: str, way: str, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There rows are locked and read before they are written."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)
    if way == "no RETURNING":
        monkeypatch.setattr(writes.Write, "_can_return", False)
    run_scripts(family, run, SCRIPTS_WITHOUT_RETURNING)


def run_scripts(family: str, run: Runner, fewest: int = SCRIPTS) -> None:
    """Run the random scripts of a family; fail with the shortest script that shows what is wrong."""
    counted, findings = 0, []
    for number in numbers(family, fewest):
        script = random_script(family, random.Random(f"{SEED}-{family}-{number}"))
        counted += steps_of(script)
        is_async = number % 2 == 1 and not is_off("async reads")
        if run(script, is_async):
            shortest = shrink(script, lambda smaller, reads=is_async: run(smaller, reads))
            findings.append(report(f"{family}-{number}", shortest, run(shortest, is_async)))
            print(f"\n{findings[-1]}")
            if len(findings) == MOST_FINDINGS:
                break
    print(f"{family}: FUZZ_SEED={SEED}, {counted} steps, {len(findings)} findings")
    if findings:
        pytest.fail("\n\n".join(findings), pytrace=False)


def numbers(family: str, fewest: int) -> Iterator[int]:
    """Yield the numbers of a family's scripts that are run, at least some."""
    if ONLY:
        name, _, number = ONLY.rpartition("-")
        yield from [int(number)] if name == family else []
        return
    end = time.monotonic() + SECONDS
    for number in itertools.count():
        if number >= fewest and time.monotonic() >= end:
            return
        yield number


def report(name: str, script: Script, found: list[str]) -> str:
    """Return the text of a failure: how to run the script again, its steps, and what differs."""
    steps = [f"    {item}," for item in script]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n".join([f"FUZZ_SEED={SEED} FUZZ_ONLY={name}", "script:", *steps, *found[:SHOWN], *more])
