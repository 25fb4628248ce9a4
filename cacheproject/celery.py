"""The project's Celery app: ``celery -A cacheproject worker -B``."""

import os

from celery import Celery

__all__ = ["app"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cacheproject.settings")

app = Celery("cacheproject")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
