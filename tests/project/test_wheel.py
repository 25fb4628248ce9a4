"""The wheel, installed with nothing but its requirements in a project that knows nothing of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from django.template.backends.django import DjangoTemplates

from cacheproject.processes import MANAGE
from cacheproject.services import Services

pytestmark = pytest.mark.usefixtures("empty_nodes")
SETTINGS = """
INSTALLED_APPS += ["cachebackend", "shop"]
CACHES = {"default": {"BACKEND": "cachebackend.RingCache", "LOCATION": RING}}
WRITE_BEHIND = {"nodes": QUEUE}
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "wheel", "USER": "postgres",
                         "PASSWORD": PASSWORD, "HOST": "127.0.0.1", "PORT": PORT}}
ALLOWED_HOSTS = ["testserver"]
SILENCED_SYSTEM_CHECKS = ["ringcache.W007", "ringcache.W008"]  # no worker runs in this test
"""
MODELS = """
from django.db import models

from cachebackend import CachedManager, InvalidatingManager, WriteBehindManager


class Product(models.Model):
    name = models.CharField(max_length=50)
    sold = models.IntegerField(default=0)

    objects = InvalidatingManager()
    cached = CachedManager()
    behind = WriteBehindManager(fields=["sold"])
"""
URLS = """
from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.cache import cache_page

calls = []


@cache_page(60)
def page(request):
    calls.append(1)
    return HttpResponse("page")


urlpatterns = [path("admin/", admin.site.urls), path("page/", page)]
"""
USE = """
from django.contrib.auth import get_user_model
from django.db import connection
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext

from cachebackend import writebehind
from shop.models import Product
from site_.urls import calls

assert [Client().get("/page/").content for _ in range(3)] == [b"page"] * 3 and len(calls) == 1
product = Product.objects.create(name="a")
assert Product.cached.get(pk=product.pk) == product
with CaptureQueriesContext(connection) as captured:
    assert Product.cached.get(pk=product.pk) == product
assert not len(captured)
Product.objects.filter(pk=product.pk).update(name="b")
assert Product.cached.get(pk=product.pk).name == "b"
for _ in range(5):
    Product.behind.update(product.pk, sold=F("sold") + 1)
assert Product.behind.get(product.pk).sold == 5
for partition in writebehind.seal_dirty():
    writebehind.drain(partition)
assert Product.objects.get(pk=product.pk).sold == 5
client = Client()
client.force_login(get_user_model().objects.create_superuser("root"))
ring = client.get("/admin/cachebackend/ring/")
assert ring.status_code == 200 and b"ring-a" in ring.content, ring.status_code
print("all of it works")
"""
ALONE = """
import importlib
import importlib.util
import sys

import django
from django.conf import settings

extras = ["celery", "psycopg", "prometheus_client", "libcachesim", "rich", "lz4", "zstandard", "pgtrigger"]
assert not [name for name in extras if importlib.util.find_spec(name)]
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "cachebackend"],
    CACHES={"default": {"BACKEND": "cachebackend.RingCache", "LOCATION": LOCATIONS}},
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "alone.sqlite3"}},
    RINGCACHE={"models": {"auth.Group": {}}},
)
django.setup()
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.core.management import call_command

import cachebackend
from cachebackend.schedule import beat_schedule

for name in cachebackend.__all__:
    getattr(cachebackend, name)
call_command("migrate", verbosity=0)
call_command("check", "--database", "default")
call_command("ring", "status")
cache.set("k", 1)
assert cache.get_or_set("k", lambda: 2) == 1
assert cache.get_or_set("tagged", lambda: 3, tags=[Group]) == 3
Group.objects.create(name="g")
assert cache.get_or_set("tagged", lambda: 4, tags=[Group]) == 4
assert beat_schedule()
for name, extra in (("tasks", "celery"), ("prometheus", "prometheus")):
    try:
        importlib.import_module(f"cachebackend.{name}")
    except ImportError as error:
        assert f"pip install 'django-ringcache[{extra}]'" in str(error), error
    else:
        raise AssertionError(name)
print("works without extras")
"""


@pytest.fixture
def database(services: Services) -> Iterator[str]:
    """The URL of a Postgres with a database of the test's own."""
    url = services.database_url
    assert url is not None
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE wheel")
    yield url
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP DATABASE wheel WITH (FORCE)")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), cwd=MANAGE.parent)
    return folder


def run(*words: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO")}
    finished = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_wheel_holds_the_library_and_no_more(built: Path) -> None:
    """Its pages, scripts, migrations and types; no tests and no demo."""
    [wheel] = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names > {
        "cachebackend/migrations/0001_initial.py",
        "cachebackend/protocol/queue/fold.lua",
        "cachebackend/py.typed",
        "cachebackend/static/cachebackend/ring.css",
        "cachebackend/templates/cachebackend/ring.html",
    }
    assert {name.split("/")[0] for name in names} == {
        "cachebackend",
        "django_ringcache-0.1.0.dist-info",
    }


def test_the_source_is_enough_to_run_the_tests(built: Path) -> None:
    """All that ``make test`` and ``make demo`` need, and the pages that a wheel is made with."""
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names > {
        ".env.example",
        "Makefile",
        "benchmarks/page.py",
        "cachebackend/templates/cachebackend/ring.html",
        "cacheproject/settings.py",
        "compose.yaml",
        "docs/conf.py",
        "manage.py",
        "requirements.lock",
        "templates/demo/base.html",
        "tests/conftest.py",
    }


def test_an_editable_install_finds_its_pages() -> None:
    """The source tree has them where Django looks for an app's templates."""
    beside_apps = DjangoTemplates({"NAME": "", "DIRS": [], "APP_DIRS": True, "OPTIONS": {}})
    assert beside_apps.get_template("cachebackend/ring.html")


def test_a_project_is_served_by_the_wheel(
    tmp_path: Path, built: Path, services: Services, database: str
) -> None:
    """A page, a model and a counter, with ten lines of settings; and the ring's page in the admin."""
    [wheel] = built.glob("*.whl")
    venv.create(tmp_path / "clean", with_pip=False)
    python = tmp_path / "clean" / "bin" / "python"
    tested = [f"{each.name}=={each.version}" for each in distributions() if each.name != "django-ringcache"]
    (tmp_path / "tested.txt").write_text("\n".join(tested))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "-q"]
    run(*pip, "--no-compile", "-c", "tested.txt", wheel, cwd=tmp_path)
    alone = ALONE.replace("LOCATIONS", repr(services.ring_urls))
    assert "works without extras" in run(python, "-c", alone, cwd=tmp_path)
    run(*pip, "--no-compile", "-c", "tested.txt", f"{wheel}[postgres]", cwd=tmp_path)
    run(python, "-m", "django", "startproject", "site_", ".", cwd=tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    (tmp_path / "shop" / "__init__.py").touch()
    ten = SETTINGS.replace("RING", repr(services.ring_urls)).replace("QUEUE", repr(services.queue_urls))
    address = urlsplit(database)
    ten = ten.replace(": PASSWORD", f": {address.password!r}").replace("PORT}", f"{address.port}}}")
    with (tmp_path / "site_" / "settings.py").open("a") as settings:
        settings.write(ten)
    (tmp_path / "site_" / "urls.py").write_text(URLS)
    manage = (python, "manage.py")
    run(*manage, "makemigrations", "shop", cwd=tmp_path)
    run(*manage, "migrate", "-v", "0", cwd=tmp_path)
    assert "no issues" in run(*manage, "check", cwd=tmp_path)
    assert "all of it works" in run(*manage, "shell", "-v", "0", "-c", USE, cwd=tmp_path)
