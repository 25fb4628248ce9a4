"""The Django app of the demo."""

from django.apps import AppConfig

__all__ = ["DemoConfig"]


class DemoConfig(AppConfig):
    """``INSTALLED_APPS`` entry ``cacheproject.demo``."""

    name = "cacheproject.demo"
    label = "demo"
    verbose_name = "Demo"
