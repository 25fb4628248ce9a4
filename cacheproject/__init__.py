"""A small real project that uses ``cachebackend`` and ``workers``, and the services it runs on."""

from workers.app import app as celery_app

__all__ = ["celery_app"]
