"""The project's Celery app: ``celery -A cacheproject worker -B``, or one worker for each queue."""

import os

from celery import Celery
from kombu import Queue

from cachebackend.schedule import DRAIN_QUEUE, PERIODIC_QUEUE, task_routes

__all__ = ["app"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cacheproject.settings")

app = Celery("cacheproject")
app.config_from_object("django.conf:settings", namespace="CELERY")
#: A worker that is started without ``-Q`` serves all three queues.
app.conf.task_queues = [Queue("celery"), Queue(DRAIN_QUEUE), Queue(PERIODIC_QUEUE)]
app.conf.task_routes = task_routes(DRAIN_QUEUE, PERIODIC_QUEUE)
app.autodiscover_tasks()
