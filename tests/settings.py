"""The demo project's settings, with the tests' own models."""

from cacheproject.settings import *  # noqa: F403
from cacheproject.settings import DATABASES as _DATABASES
from cacheproject.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "pgtrigger", "tests.shop"]
DATABASES = _DATABASES | {"lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
