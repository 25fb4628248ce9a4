"""The Django app, so that Celery finds the tasks."""

from django.apps import AppConfig

__all__ = ["WorkersConfig"]


class WorkersConfig(AppConfig):
    """``INSTALLED_APPS`` entry ``workers``."""

    name = "workers"
    verbose_name = "Ring cache workers"
