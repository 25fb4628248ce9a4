"""Runs Django's own cache tests, unmodified, on a ring of three real nodes, or on a cluster.

``make conformance``, or ``RING=cluster make conformance``: fetches the source distribution of the
installed Django with pip, takes ``BaseCacheTests`` from its ``tests/cache/tests.py`` and runs it against
RingCache. The two tests of culling are left out, as Django leaves them out for its Redis backend:
how much a node keeps is the node's own affair.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import unittest
from pathlib import Path

import django
from django.conf import settings

from cacheproject.services import Services
from tests.fix_services import ring_of_tests

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "django"


def django_tests() -> Path:
    """Return the folder of the installed Django's own tests, fetched if need be."""
    version = django.get_version()
    source = CACHE / f"django-{version}"
    if not source.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"Fetching the source of Django {version}", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "django"]
        wanted = ["--disable-pip-version-check", "--dest", str(CACHE), f"django=={version}"]
        subprocess.run([*pip, *wanted], check=True, stderr=subprocess.DEVNULL)
        with tarfile.open(next(CACHE.glob(f"[dD]jango-{version}.tar.gz"))) as archive:
            archive.extractall(CACHE, filter="data")
    return source / "tests"


def suite() -> unittest.TestSuite:
    """Return Django's tests, with our backend in their settings."""
    from cache import tests as theirs  # type: ignore[import-not-found]  # Django's own, on sys.path
    from django.test import TestCase, override_settings

    caches = theirs.caches_setting_for_tests(
        BACKEND="cachebackend.RingCache",
        LOCATION=os.environ["RING_NODES"],
        exclude={"cull", "zero_cull"},
    )

    @override_settings(CACHES=caches)
    class RingCacheTests(theirs.BaseCacheTests, TestCase):  # type: ignore[misc]  # untyped
        """What Django asks of every cache backend."""

        factory = theirs.RequestFactory()

        def tearDown(self) -> None:
            theirs.cache.clear()

    return unittest.defaultTestLoader.loadTestsFromTestCase(RingCacheTests)


def main() -> None:
    """Run them and exit with 0 if all pass."""
    sys.path.insert(0, str(django_tests()))
    with Services(ring=ring_of_tests(), queue=0, postgres=False) as services:
        os.environ.update(services.env())
        settings.configure(
            SECRET_KEY="conformance",
            USE_TZ=True,
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            INSTALLED_APPS=["cachebackend", "cache"],
            DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        )
        django.setup()
        from django.test.runner import DiscoverRunner

        runner = DiscoverRunner(verbosity=1)
        runner.setup_test_environment()
        databases = runner.setup_databases()
        outcome = unittest.TextTestRunner(verbosity=1).run(suite())
        runner.teardown_databases(databases)
    for test, reason in outcome.skipped:
        print(f"left out: {test.id().rpartition('.')[2]}: {reason}")
    failed, left_out = len(outcome.failures) + len(outcome.errors), len(outcome.skipped)
    passed = outcome.testsRun - failed - left_out
    print(f"Django {django.get_version()}: {passed} passed, {failed} failed, {left_out} left out")
    sys.exit(not outcome.wasSuccessful())


if __name__ == "__main__":
    main()
