"""The status page: what is wrong and what to do, without a session, a user or a database.

``path("ring-status/", cachebackend.status_page.status)`` serves it to requests that have the token of
``RINGCACHE["status"]``, as ``Authorization: Bearer`` or as the password that a browser asks for, or that come
from one of its addresses. ``?format=json`` returns the same for programs. It shows no keys and no values,
and changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound, JsonResponse
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from cachebackend.admin.fault_rows import MAX_SHOWN, href, with_code
from cachebackend.admin.tiles import UNKNOWN, tiles
from cachebackend.conf import project_options
from cachebackend.interrupts import raise_interrupt
from cachebackend.monitoring import Fault, SiteFigures, site_figures
from cachebackend.monitoring.observer import observe
from cachebackend.monitoring.runbook import RUNBOOK
from cachebackend.options.project import StatusOptions

__all__ = ["status"]

#: Seconds after which the browser fetches the page again.
REFRESH_SECONDS = 5
#: A proxy adds one of them: the address of the request is then that of the proxy.
_PROXY_HEADERS = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP")


@transaction.non_atomic_requests
@require_safe
def status(request: HttpRequest) -> HttpResponse:
    """Serve the status page; 404 if ``RINGCACHE["status"]`` is not set."""
    options = project_options().status
    if options is None:
        return HttpResponseNotFound("RINGCACHE['status'] is not set.\n", content_type="text/plain")
    if not (_has_token(request, options) or _is_internal(request, options)):
        response = HttpResponse("The token is missing or wrong.\n", status=401, content_type="text/plain")
        response["WWW-Authenticate"] = 'Basic realm="ring status", charset="UTF-8"'
        return response
    site = site_figures()
    observe(site.faults)
    if request.GET.get("format") == "json":
        return JsonResponse(_data(site))
    return HttpResponse(render_to_string("cachebackend/status.html", _context(site)))


def _has_token(request: HttpRequest, options: StatusOptions) -> bool:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        value = _password(value)
    return bool(options.token) and constant_time_compare(value.strip(), options.token)


def _password(credentials: str) -> str:
    """Return the password of ``Authorization: Basic``; the name does not matter."""
    try:
        return base64.b64decode(credentials).decode().partition(":")[2]
    except (binascii.Error, ValueError) as error:
        raise_interrupt(error)
        return ""


def _is_internal(request: HttpRequest, options: StatusOptions) -> bool:
    """Return whether the request comes from one of the addresses, and not through a proxy."""
    if any(name in request.META for name in _PROXY_HEADERS):
        return False
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError as error:
        raise_interrupt(error)
        return False
    return any(address in ipaddress.ip_network(each) for each in options.addresses)


def _context(site: SiteFigures) -> dict[str, Any]:
    rows = [_row(fault) for fault in site.faults]
    return {
        "faults": rows,
        "shown": rows[:MAX_SHOWN],
        "folded": rows[MAX_SHOWN:],
        "tiles": tiles(site.aliases, site.worker, site.outbox, site.queues),
        "aliases": site.aliases,
        "notes": [_row(note) for note in site.notes],
        "processes": site.processes.processes,
        "unknown": UNKNOWN,
        "now": timezone.now(),
        "refresh_seconds": REFRESH_SECONDS,
        "title": _("Ring status"),
    }


def _row(fault: Fault) -> dict[str, Any]:
    entry = RUNBOOK[fault.kind]
    return {
        "fault": fault,
        "href": _href(fault),
        "way_out": with_code(fault.way_out),
        "meaning": with_code(entry.meaning),
        "steps": [with_code(step) for step in entry.steps],
    }


def _href(fault: Fault) -> str:
    """Return the address of the ring page, or of the parked writes; empty if the project has no admin."""
    try:
        return href(fault, "admin", reverse("admin:cachebackend_ring_changelist"))
    except NoReverseMatch as error:
        raise_interrupt(error)
        return ""


def _data(site: SiteFigures) -> dict[str, Any]:
    faults, notes = ([each.as_data() for each in found] for found in (site.faults, site.notes))
    return {"well": not faults, "faults": faults, "notes": notes}
