"""The view that answers a scrape."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cachebackend.prometheus.collector import RingCollector

__all__ = ["metrics"]


@transaction.non_atomic_requests
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scrape; 403 to a user without the permission, and to a request without the token."""
    if not _may_see(request):
        return HttpResponse(
            "Log in as a user who may view the ring, or send the metrics token.\n", status=403
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RingCollector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)


def _may_see(request: HttpRequest) -> bool:
    token = getattr(settings, "RINGCACHE_METRICS_TOKEN", None)
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token and constant_time_compare(given, token):
        return True
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.has_perm("cachebackend.view_ring")
