"""The start of a process: importing the cache beside Django alone, and the first get."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from benchmarks.goals import Goal, Measured
from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

ROUNDS, QUICK_ROUNDS = 15, 5
IMPORT, FIRST_GET, UNIT = "importing the backend", "the first get", "a millisecond of CPU"
_MODULES = (
    "It is spent in 130 modules. Those of clusters, which take 5 % of it, are imported though a plain ring "
    "does not use them."
)
GOALS = (Goal(IMPORT, UNIT, 80, "at_most", _MODULES), Goal(FIRST_GET, UNIT, 60, "at_most"))
#: Prints milliseconds of CPU. What every Django process has imported before is not counted. Nor is the
#: collection of all of its garbage, which takes 20 ms: it is due during some import, by chance.
_PROGRAM = """
import gc, os, time
from django.conf import settings
settings.configure(CACHES={"default": {
    "BACKEND": "cachebackend.RingCache", "LOCATION": os.environ["RING_NODES"],
}})
import django, django.core.wsgi, django.core.asgi, django.core.cache.backends.locmem, django.db.models
django.setup()
django.core.wsgi.get_wsgi_application()
gc.collect()
begun = time.process_time()
import cachebackend.backend.cache
imported = time.process_time()
from django.core.cache import cache
cache.get("absent")
print(1000 * (imported - begun), 1000 * (time.process_time() - imported))
"""


def measure(*, quick: bool) -> Measured:
    """Measure new processes, one after the other: how much CPU the import and the first get take."""
    with one_core(), Services(ring=3, queue=0, postgres=False) as services:
        set_up(services)
        with tempfile.TemporaryDirectory() as bytecode:
            env = os.environ | {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
            _run(env)  # compiles
            taken = [_run(env) for _ in range(QUICK_ROUNDS if quick else ROUNDS)]
    imports, gets = (list(each) for each in zip(*taken, strict=True))
    return Measured({(IMPORT, UNIT): imports, (FIRST_GET, UNIT): gets})


def _run(env: Mapping[str, str]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return [float(text) for text in done.stdout.split()]
