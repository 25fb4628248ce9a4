"""A filter for Django's error page and error mails: it masks the logins of URLs.

Django masks a setting by its name, so it shows the password of a URL in ``CACHES["default"]["LOCATION"]``,
and in each local variable that holds these settings::

    DEFAULT_EXCEPTION_REPORTER_FILTER = "cachebackend.error_reports.URLPasswordFilter"
"""

from __future__ import annotations

import re
from collections.abc import ItemsView
from types import FrameType
from typing import Any

from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter

__all__ = ["URLPasswordFilter"]

#: What precedes the host in a URL, and a password in its query.
_LOGIN = re.compile(r"(?<=://)[^\s'\",;]*@")
_QUERY = re.compile(r"(?<=password=)[^\s'\",;&]+")
#: Values that are nested deeper than this are masked whole.
_MAX_DEPTH = 20


class URLPasswordFilter(SafeExceptionReporterFilter):
    """Django's filter, which also masks user and password of each URL in settings and local variables."""

    def cleanse_setting(self, key: int | str, value: Any) -> Any:
        """Return a setting as Django masks it, without the logins of URLs."""
        return self._masked(super().cleanse_setting(key, value))

    def get_traceback_frame_variables(
        self, request: HttpRequest | None, tb_frame: FrameType
    ) -> ItemsView[str, Any]:
        """Return the local variables of a frame, with ``DEBUG`` too, without the logins of URLs."""
        variables = super().get_traceback_frame_variables(request, tb_frame)
        masked: dict[str, Any] = self._masked(dict(variables))
        return masked.items()

    def _masked(self, value: Any, depth: int = 0) -> Any:
        """Return a text or a container with masked texts; any other value as it is."""
        if depth > _MAX_DEPTH:
            return self.cleansed_substitute
        kind = type(value)
        if kind is str:
            return _QUERY.sub("***", _LOGIN.sub("***@", value))
        if kind is dict:
            return {
                key: (
                    self.cleansed_substitute
                    if isinstance(key, str) and "password" in key.lower() and isinstance(each, str)
                    else self._masked(each, depth + 1)
                )
                for key, each in value.items()
            }
        if kind in {list, tuple}:
            return kind(self._masked(each, depth + 1) for each in value)
        return value
