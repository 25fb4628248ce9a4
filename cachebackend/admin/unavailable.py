"""The answer of the ring page while the database of the session and of the users does not answer.

It is small, comes within a few seconds, and names the status page, which needs no database.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth import get_user_model
from django.db import Error, connections, router, transaction
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from cachebackend.conf import project_options
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases

__all__ = ["needs_database"]

#: The view of the status page, which imports this package.
_STATUS = "cachebackend.status_page.status"
View = Callable[..., HttpResponse]


def needs_database(view: View) -> View:
    """Return a view that answers with 503 while the database of users does not answer.

    Whether it answers is asked first, with a limited time: the session is read without one.
    """

    @wraps(view)
    def answered(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponse:
        using = router.db_for_read(get_user_model())
        if not connections[using].in_atomic_block:
            for error in ask_databases(_ping, READ_TIMEOUT, [using]).errors.values():
                return _unavailable(using, error)
        try:
            return view(request, *arguments, **named)
        except Error as error:
            raise_interrupt(error)
            if not ask_databases(_ping, READ_TIMEOUT, [using]).errors:
                raise  # it is a fault of the page
            return _unavailable(using, error)

    return transaction.non_atomic_requests(answered)


def _ping(using: str) -> None:
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT 1")


def _unavailable(using: str, error: Exception) -> HttpResponse:
    context = {
        "title": _("The database does not answer"),
        "using": using,
        "error": str(error).partition("\n")[0],
        "status_page": _status_page(),
    }
    return HttpResponse(render_to_string("cachebackend/ring_unavailable.html", context), status=503)


def _status_page() -> str:
    """Return the address of the status page; empty if the project has none."""
    if project_options().status is None:
        return ""
    try:
        return reverse(import_string(_STATUS))
    except NoReverseMatch as error:
        raise_interrupt(error)
        return ""
