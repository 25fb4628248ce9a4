"""The tests of another project, as its developers start them: pytest, pytest-xdist, ``manage.py test``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cachebackend.writebehind.queue import project_queue
from cacheproject.processes import MANAGE

pytestmark = pytest.mark.usefixtures("services")
ROOT = MANAGE.parent
PAGE = ROOT / "docs" / "testing.md"
PYTEST = ("pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--ds", "own_settings")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTINGS = """
from cacheproject.settings import *
DATABASES["default"]["TEST"] = {{"NAME": "test_{name}", "MIGRATE": False}}
"""
IMPORTS = "from django.db.models import F\nfrom cacheproject.demo.models import Article\n"
PLUGIN = 'pytest_plugins = ["cachebackend.testing.plugin"]\n'

#: Two processes that use the same keys and rows at the same time. Each waits for the other at two named
#: pipes: to open one end blocks until the other end is open.
TWO_PROCESSES = """
from django.core.cache import cache
from django.db.models import F
from django.test import TestCase

from cachebackend.testing import RingCacheTestMixin, drain_now
from cacheproject.demo.models import Article


def meet(role):
    for pipe, writer in (("there", "one"), ("back", "two")):
        open(pipe, "w" if role == writer else "r").close()


def check(role):
    Article.objects.create(pk=1, slug="x")
    meet(role)
    assert cache.get("k") is None
    meet(role)
    cache.set("k", role)
    for _ in range(5):
        Article.behind.update(1, views=F("views") + 1)
    meet(role)
    assert cache.get("k") == role
    assert Article.behind.get(1).views == 5
    drain_now()
    meet(role)
    assert Article.objects.get(pk=1).views == 5
    assert Article.behind.get(1).views == 5


class OneTests({mixin}TestCase):
    def test_one(self):
        check("one")


class TwoTests({mixin}TestCase):
    def test_two(self):
        check("two")
"""


def block(start: str) -> str:
    """Return the block of the page that begins with a text."""
    [found] = [text for text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")) if text.startswith(start)]
    return str(found)


def run(folder: Path, *command: str, **files: str) -> str:
    """Write the files of a project, and run a command of Python's in it; return its output if it succeeds."""
    settings = SETTINGS.format(name=uuid4().hex)
    for name, text in {"own_settings": settings, **files}.items():
        (folder / f"{name}.py").write_text(text)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=own | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_the_examples_of_the_page_on_testing_pass(tmp_path: Path) -> None:
    """With the plugin: a test of the cache, and a test case that queues and drains."""
    output = run(
        tmp_path,
        *PYTEST,
        conftest=block("# conftest.py\npytest_plugins"),
        test_cache=block("from django.core.cache import cache"),
        test_articles=IMPORTS + block("from django.test import TestCase"),
    )
    assert "3 passed" in output


def test_the_fixture_of_the_page_on_testing_works(tmp_path: Path) -> None:
    """Without the plugin, on the nodes of ``CACHES``."""
    files = {
        "conftest": block("# conftest.py\nimport pytest"),
        "test_cache": block("from django.core.cache import cache"),
    }
    assert "1 passed" in run(tmp_path, *PYTEST, **files)


@pytest.mark.parametrize("mixin", ["RingCacheTestMixin, ", ""], ids=["mixin", "plugin"])
def test_processes_of_pytest_xdist_do_not_share_keys_or_queues(tmp_path: Path, mixin: str) -> None:
    """With the mixin, and with nothing but the plugin: what one queues is drained to its own database."""
    os.mkfifo(tmp_path / "there")
    os.mkfifo(tmp_path / "back")
    text = TWO_PROCESSES.replace("{mixin}", mixin)
    assert "2 passed" in run(tmp_path, *PYTEST, "-n", "2", conftest=PLUGIN, test_both=text)


def test_processes_of_django_s_test_runner_do_not_share_keys_or_queues(tmp_path: Path) -> None:
    """``manage.py test --parallel 2`` gives each test case to a process with a copy of the test database."""
    os.mkfifo(tmp_path / "there")
    os.mkfifo(tmp_path / "back")
    text = TWO_PROCESSES.replace("{mixin}", "RingCacheTestMixin, ")
    command = ("django", "test", "--settings", "own_settings", "--parallel", "2", "test_both")
    assert "Ran 2 tests" in run(tmp_path, *command, test_both=text)


COUNTS_A_VIEW = """
from django.db.models import F
from django.test import TestCase

from cacheproject.demo.models import Article


class PlainTests(TestCase):
    def test_a_view_is_counted(self):
        Article.objects.create(pk=1, slug="x")
        Article.behind.update(1, views=F("views") + 1)
        self.assertEqual(Article.behind.get(1).views, 1)
"""


def test_what_a_plain_test_queues_reaches_no_other_database(tmp_path: Path, empty_nodes: None) -> None:
    """Without the mixin: the site's queue has nothing to drain, and the next run starts with an empty one."""
    command = ("django", "test", "--settings", "own_settings", "test_plain")
    for _ in range(2):
        assert "Ran 1 test" in run(tmp_path, *command, test_plain=COUNTS_A_VIEW)
    assert "Ran 1 test" in run(tmp_path, *command, "--keepdb", test_plain=COUNTS_A_VIEW)
    assert "Ran 1 test" in run(tmp_path, *command, "--keepdb", test_plain=COUNTS_A_VIEW)
    [node] = project_queue().nodes
    assert left_on(node) == []


EACH_TEST = """
import pytest
from django.db.models import F

from cachebackend.testing import drain_now
from cacheproject.demo.models import Article


def count_a_view():
    Article.objects.create(pk=1, slug="x")
    Article.behind.update(1, views=F("views") + 1)
    assert Article.behind.get(1).views == 1
    drain_now()
    assert Article.objects.get(pk=1).views == 1


@pytest.mark.django_db
@pytest.mark.parametrize("again", [1, 2])
def test_rolled_back(again):
    count_a_view()


@pytest.mark.django_db
@pytest.mark.parametrize("again", [1, 2])
def test_queued_only(again):
    Article.objects.create(pk=1, slug="x")
    Article.behind.update(1, views=F("views") + 1)
    assert Article.behind.get(1).views == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("again", [1, 2])
def test_committed(again):
    count_a_view()
"""


def test_the_plugin_gives_each_test_a_queue_of_its_own(tmp_path: Path, empty_nodes: None) -> None:
    """Without the fixture ``ring``, in tests that roll back and in tests that commit; nothing is left."""
    assert "6 passed" in run(tmp_path, *PYTEST, conftest=PLUGIN, test_each=EACH_TEST)
    [node] = project_queue().nodes
    assert left_on(node) == []


def left_on(node: Any) -> list[bytes]:
    """Return the keys of a node, without the reports of processes, which expire by themselves."""
    return [key for key in node.call((b"KEYS", b"*")) if not key.startswith(b"ringcache:{processes:")]
