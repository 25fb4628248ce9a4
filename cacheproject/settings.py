"""Settings of the demo project; everything that differs between machines comes from the environment."""

from pathlib import Path
from typing import Any

import environ

from cachebackend.schedule import beat_schedule

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
environ.Env.read_env(BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=False)
DEFAULT_EXCEPTION_REPORTER_FILTER = "cachebackend.error_reports.URLPasswordFilter"
#: Good enough for a demo on one machine; a site that others can reach sets its own.
SECRET_KEY = env.str("SECRET_KEY", default="for-the-demo-only-not-a-secret-0000000000000000000000")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "cachebackend",
    "cacheproject.demo",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "cacheproject.urls"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
WSGI_APPLICATION = "cacheproject.wsgi.application"
ASGI_APPLICATION = "cacheproject.asgi.application"

DATABASES = {"default": env.db("DATABASE_URL", default="postgres://postgres@127.0.0.1:5432/postgres")}
DATABASES["default"]["CONN_MAX_AGE"] = env.int("CONN_MAX_AGE", default=60)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "cachebackend.RingCache",
        "LOCATION": env.str("RING_NODES", default="redis://127.0.0.1:6379/0?name=ring-a"),
        "TIMEOUT": 300,
        "KEY_PREFIX": env.str("RING_KEY_PREFIX", default="demo"),
        "OPTIONS": env.json("RING_OPTIONS", default={}),
    }
}
FLUSH_INTERVAL = env.float("WRITE_BEHIND_FLUSH_INTERVAL", default=1.0)
WRITE_BEHIND = {
    "nodes": env.str("WRITE_BEHIND_NODES", default=""),
    "flush_interval": FLUSH_INTERVAL,
} | env.json("WRITE_BEHIND_OPTIONS", default={})
#: The token of the status page, which needs no database; without one there is no page.
STATUS_TOKEN = env.str("RING_STATUS_TOKEN", default="")
RINGCACHE: dict[str, Any] = {"status": {"token": STATUS_TOKEN} if STATUS_TOKEN else None}
#: The token of the metrics; without one only users with the permission may read them.
RINGCACHE_METRICS_TOKEN = env.str("RING_METRICS_TOKEN", default="")
CELERY_BEAT_SCHEDULE = beat_schedule(FLUSH_INTERVAL)
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default="redis://127.0.0.1:6379/1")
CELERY_WORKER_POOL = env.str("CELERY_WORKER_POOL", default="prefork")
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
#: Static files are served from the apps' folders, read once at the start; collectstatic is not needed.
WHITENOISE_USE_FINDERS = True
