"""A site of two pages and one task, loaded by web servers and workers; each uses the ring in several ways.

The cache is used while the module is loaded, so a server that loads it before it forks
(``gunicorn --preload``, ``celery -P prefork``) forks with open connections.
"""

from __future__ import annotations

import os
from typing import Any

import django
from celery import Celery
from django.conf import settings

settings.configure(
    SECRET_KEY="served",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.contenttypes", "cachebackend"],
    CACHES={
        "default": {
            "BACKEND": "cachebackend.RingCache",
            "LOCATION": os.environ["RING_NODES"],
            "OPTIONS": {"near": {"max_entries": 100}, "connect_timeout": 2.0},
        }
    },
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from cachebackend import tasks  # noqa: E402, F401  # a worker of a project has its signal handlers

cache.add("requests", 0)


def blocking(request: HttpRequest, number: int) -> HttpResponse:
    cache.incr("requests")
    cache.get_many([f"page-{number}", "none"])
    return HttpResponse(cache.get_or_set(f"page-{number}", "a page", 60))


async def awaiting(request: HttpRequest, number: int) -> HttpResponse:
    await cache.aincr("requests")
    await cache.aget_many([f"page-{number}", "none"])
    return HttpResponse(await cache.aget_or_set(f"page-{number}", "a page", 60))


urlpatterns = [path("blocking/<int:number>/", blocking), path("awaiting/<int:number>/", awaiting)]
wsgi: Any = get_wsgi_application()
asgi: Any = get_asgi_application()
celery = Celery("served", broker=os.environ["CELERY_BROKER_URL"])
celery.conf.broker_connection_retry_on_startup = True


@celery.task(ignore_result=True)
def ask(number: int) -> None:
    cache.get_or_set(f"page-{number}", "a page", 60)
    cache.incr("requests")
