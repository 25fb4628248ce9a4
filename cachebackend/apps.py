"""The Django app. ``ready`` only calls named steps."""

from django.apps import AppConfig

__all__ = ["CacheBackendConfig"]


class CacheBackendConfig(AppConfig):
    """The app ``cachebackend`` of ``INSTALLED_APPS``: its tables, checks, admin and commands."""

    name = "cachebackend"
    verbose_name = "Ring cache"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register checks, add managers to models, connect signals, and publish counters at exit."""
        from cachebackend import checks, invalidation, writebehind
        from cachebackend.backend.test_prefix import connect_test_prefix
        from cachebackend.managers.configured import add_configured_managers
        from cachebackend.telemetry import shutdown

        checks.register_checks()
        add_configured_managers()
        invalidation.add_relation_triggers()
        invalidation.connect_outbox()
        invalidation.connect_migrations()
        connect_test_prefix(writebehind.erase_queue)
        shutdown.connect()
