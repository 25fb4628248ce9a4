"""The filter of Django's error page."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from django.test import RequestFactory
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from cachebackend.error_reports import URLPasswordFilter

USER, PASSWORD = "alice", "hunter2"
URL = f"redis://{USER}:{PASSWORD}@h:1/0?name=a"
LOCATION = [URL, f"redis+sentinel://:{PASSWORD}@h1,h2/shop?sentinel_password={PASSWORD}&db=1"]


def page(reporter_filter: SafeExceptionReporterFilter, settings: Any) -> str:
    """Django's error page for an error in a function whose local variables hold the settings."""
    settings.CACHES = {"default": {"BACKEND": "cachebackend.RingCache", "LOCATION": LOCATION}}

    def create_connection(location: list[str], params: dict[str, Any]) -> None:
        text, nested = f"{location[0]},redis://u:{PASSWORD}@b", ("x", location)
        for _ in range(50):
            nested = [nested]  # type: ignore[assignment]  # deeper than anything is shown
        raise ValueError(text[:5], nested is params)

    request = RequestFactory().get("/")
    request.META["RING_NODES"] = URL
    request.exception_reporter_filter = reporter_filter  # type: ignore[attr-defined]  # Django reads it
    with pytest.raises(ValueError, match="redis") as raised:
        create_connection(LOCATION, {"OPTIONS": {"password": PASSWORD, "timeout": 1}})
    error = raised.value
    # The frame of this test is not the site's
    frames = error.__traceback__ and error.__traceback__.tb_next
    return unescape(ExceptionReporter(request, type(error), error, frames).get_traceback_html())


@pytest.mark.parametrize("is_debug", [True, False])
def test_the_error_page_masks_the_logins_of_urls(settings: Any, is_debug: bool) -> None:
    """In settings, the request's environment and local variables; hosts and names stay."""
    settings.DEBUG = is_debug
    shown = page(URLPasswordFilter(), settings)
    text = shown[shown.index("Traceback") :]
    source = 'hunter2@b", ("x"'  # the page quotes this file too
    assert "hunter2" not in text.replace(source, "")
    assert "alice" not in text
    assert "redis://***@h:1/0?name=a" in text
    assert "'timeout': 1" in text


def test_without_the_filter_django_shows_them(settings: Any) -> None:
    """So the test above tests something."""
    assert f"{USER}:{PASSWORD}@h" in page(SafeExceptionReporterFilter(), settings)
