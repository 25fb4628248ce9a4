"""The wheel, installed beside its requirements in a project that knows nothing of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cacheproject.launch import MANAGE
from cacheproject.services import Services

pytestmark = pytest.mark.usefixtures("empty_nodes")
SETTINGS = """
INSTALLED_APPS += ["cachebackend", "workers", "shop"]
CACHES = {"default": {"BACKEND": "cachebackend.RingCache", "LOCATION": RING}}
WRITE_BEHIND = {"nodes": QUEUE}
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "wheel", "USER": "postgres",
                         "HOST": "127.0.0.1", "PORT": PORT}}
ALLOWED_HOSTS = ["testserver"]
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
import sys
import cachebackend
import cachebackend.backend
assert not {"celery", "cacheproject", "workers", "prometheus_client", "libcachesim"} & sys.modules.keys()
"""


@pytest.fixture
def database(services: Services) -> Iterator[str]:
    """The port of a Postgres with a database of the test's own."""
    url = services.database_url
    assert url is not None
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE wheel")
    yield url.rpartition(":")[2].partition("/")[0]
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP DATABASE wheel WITH (FORCE)")


def test_a_project_is_served_by_the_wheel(tmp_path: Path, services: Services, database: str) -> None:
    """A page, a model and a counter, with ten lines of settings; and the ring's page in the admin."""

    def run(*words: str, cwd: Path = tmp_path) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO")}
        environment |= {"PYTHONPATH": str(tmp_path / "installed")}
        finished = subprocess.run(
            [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    run("-m", "hatchling", "build", "-d", str(tmp_path), cwd=MANAGE.parent)
    [wheel] = tmp_path.glob("*.whl")
    [source] = tmp_path.glob("*.tar.gz")
    assert source.stat().st_size > wheel.stat().st_size // 2
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"cachebackend/py.typed", "workers/py.typed", "cachebackend/migrations/0001_initial.py"} <= names
    assert not any(name.startswith(("tests/", "cacheproject/", "benchmarks/")) for name in names)
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", "installed", str(wheel))
    run("-c", ALONE)
    run("-m", "django", "startproject", "site_", ".")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    (tmp_path / "shop" / "__init__.py").touch()
    ten = SETTINGS.replace("RING", repr(services.ring_urls)).replace("QUEUE", repr(services.queue_urls))
    with (tmp_path / "site_" / "settings.py").open("a") as settings:
        settings.write(ten.replace("PORT}", f"{database}}}"))
    (tmp_path / "site_" / "urls.py").write_text(URLS)
    run("manage.py", "makemigrations", "shop")
    run("manage.py", "migrate", "-v", "0")
    assert "no issues" in run("manage.py", "check")
    assert "all of it works" in run("manage.py", "shell", "-v", "0", "-c", USE)
