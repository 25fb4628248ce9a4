"""The project's Celery app: ``celery -A cacheproject worker -B``."""

import os

from celery import Celery
from kombu import Queue

__all__ = ["DRAIN_QUEUE", "app"]

#: The queue of the ``drain`` tasks. The site's other tasks do not delay a worker that serves this queue
#: only (``-Q drains``), and long drains do not delay the relay.
DRAIN_QUEUE = "drains"

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cacheproject.settings")

app = Celery("cacheproject")
app.config_from_object("django.conf:settings", namespace="CELERY")
#: A worker that is started without ``-Q`` serves both queues.
app.conf.task_queues = [Queue("celery"), Queue(DRAIN_QUEUE)]
app.conf.task_routes = {"cachebackend.tasks.drain": {"queue": DRAIN_QUEUE}}
app.autodiscover_tasks()
