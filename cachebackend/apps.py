"""The Django app; ``ready`` only calls named steps."""

from django.apps import AppConfig

__all__ = ["CacheBackendConfig"]


class CacheBackendConfig(AppConfig):
    """``INSTALLED_APPS`` entry ``cachebackend``: checks, admin, commands and the checkpoint's table."""

    name = "cachebackend"
    verbose_name = "Ring cache"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, keep what nodes miss in the outbox, and fold the counters."""
        from cachebackend import checks, invalidation
        from cachebackend.telemetry import shutdown

        checks.register_checks()
        invalidation.connect_outbox()
        shutdown.connect()
