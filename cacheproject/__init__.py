"""A small real project that uses ``cachebackend`` and ``workers``, and the services it runs on.

``settings`` is read from the environment; ``services`` starts real servers where the environment
names none; ``processes`` starts workers and the site; ``demo`` is the Django app. May import
everything here. Never imported by ``cachebackend``.
"""

from workers.app import app as celery_app

__all__ = ["celery_app"]
