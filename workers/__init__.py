"""The Celery workers of this project: the app, its queues and its routes.

The tasks are in ``cachebackend.tasks``, which the app discovers. A project that installs
``django-ringcache`` writes its own Celery app: this package is not part of the wheel, and nothing
in ``cachebackend`` imports it.
"""
