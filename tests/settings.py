"""The demo project's settings, with the tests' own models."""

import os
import tempfile
from pathlib import Path

from cacheproject.settings import *  # noqa: F403
from cacheproject.settings import CACHES as _CACHES
from cacheproject.settings import DATABASES as _DATABASES
from cacheproject.settings import INSTALLED_APPS as _APPS
from tests.mariadb import COLLATION, use_pymysql

INSTALLED_APPS = [*_APPS, "pgtrigger", "tests.shop", "tests.signup", "tests.zoo"]
DATABASES = _DATABASES | {"lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
for _alias, _database in DATABASES.items():
    if _database["ENGINE"].endswith("sqlite3"):
        # In a file, because Django never closes a database in memory, in any thread
        _file = Path(tempfile.gettempdir(), f"ringcache-{os.getpid()}-{_alias}.sqlite3")
        _database["TEST"] = {"NAME": str(_file)}
if DATABASES["default"]["ENGINE"].endswith("mysql"):
    use_pymysql()
    DATABASES["default"]["TEST"] = {"CHARSET": "utf8mb4", "COLLATION": COLLATION}
if os.environ.get("DATABASE_POOL") and DATABASES["default"]["ENGINE"].endswith("postgresql"):
    DATABASES["default"] |= {
        "CONN_MAX_AGE": 0,
        "OPTIONS": {"pool": {"min_size": 1, "max_size": 20, "timeout": 5}},
    }
if os.environ.get("PREPARED") and DATABASES["default"]["ENGINE"].endswith("postgresql"):
    # The server gets values apart from the text, which it parses only the first times
    DATABASES["default"]["OPTIONS"] = {"server_side_binding": True, "prepare_threshold": 2}
if os.environ.get("PGBOUNCER"):
    # Two transactions of one process may have two connections of the server
    DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True
    # The process that hands out the tests has no database
    RINGCACHE = {"listen": {"default": {"PORT": os.environ.get("PGBOUNCER_DATABASE_PORT", "")}}}
if os.environ.get("RING") == "cluster":  # some models of the tests are cached strictly
    _CACHES["default"]["OPTIONS"]["strict_on_failover"] = "accept"
