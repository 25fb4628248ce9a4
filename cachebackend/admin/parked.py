"""The admin of parked writes: rows that Postgres refused, and that a person must retry or discard."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from cachebackend import writebehind
from cachebackend.admin.actions import log_action
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.models import ParkedWrite
from cachebackend.monitoring.events import record_event
from cachebackend.monitoring.parked import changes_text

__all__ = ["ParkedWriteAdmin"]

#: The most writes of a retry whose new errors are shown.
MAX_ERRORS = 10


@admin.register(ParkedWrite)
class ParkedWriteAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """Parked writes: an action retries them; to delete one is to discard the write."""

    list_display = ("id", "label", "key", "changes_text", "error", "batch", "created", "retry_at")
    list_filter = ("label",)
    search_fields = ("key", "error")
    readonly_fields = ("label", "partition", "batch", "key", "created", "retry_at", "changes_text", "error")
    fields = readonly_fields
    actions = ("retry",)

    @admin.display(description=gettext_lazy("changes"))
    def changes_text(self, parked: ParkedWrite) -> str:
        """Return what the write does to its row, as text."""
        return changes_text(parked)

    @admin.action(description=gettext_lazy("Retry the selected parked writes"), permissions=["change"])
    def retry(self, request: HttpRequest, queryset: QuerySet[ParkedWrite]) -> HttpResponse | None:
        """Retry writes after a confirmation, each with every other parked write of its row."""
        if "confirmed" not in request.POST:
            return self._ask(request, queryset)
        description = _description(queryset)
        retried = writebehind.retry(queryset, queryset.db)
        outcome = f"{retried.applied} applied, {len(retried.remaining)} still parked"
        if retried.missing:
            outcome += f", {retried.missing} of rows that no longer exist"
        log_action(request, ParkedWrite, f"{description}: {outcome}")
        self.message_user(request, _("%(number)d writes were applied.") % {"number": retried.applied})
        for parked in retried.remaining[:MAX_ERRORS]:
            self.message_user(request, f"{parked}: {parked.error}", messages.WARNING)
        return None

    def _ask(self, request: HttpRequest, queryset: QuerySet[ParkedWrite]) -> HttpResponse:
        """Show what will be retried, for the user to confirm."""
        fields = [
            (name, value)
            for name in ("action", "select_across", ACTION_CHECKBOX_NAME)
            for value in request.POST.getlist(name)
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Are you sure?"),
            "opts": self.opts,
            "description": _description(queryset),
            "consequence": _(
                "A write that succeeds changes its row in the database; "
                "one that is refused again stays parked."
            ),
            "fields": fields,
            "back": request.get_full_path(),
        }
        return TemplateResponse(request, "cachebackend/ring_confirm.html", context)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the parked writes of one database, and name the other databases that have some."""
        shown = self.get_queryset(request).db
        others = set(writebehind.databases()) - {shown} if request.method == "GET" else ()
        asked = ask_databases(lambda using: ParkedWrite.objects.using(using).count(), READ_TIMEOUT, others)
        for using, error in asked.errors.items():
            self.message_user(request, f"The database {using!r} does not answer: {error}", messages.WARNING)
        for using, count in asked.found.items():
            if count:
                text = (
                    f"{count} writes are parked in the database {using!r}, which this page does not show: "
                    "use `manage.py writebehind parked`."
                )
                self.message_user(request, text, messages.WARNING)
        return super().changelist_view(request, extra_context)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ParkedWrite]) -> None:
        """Discard writes, under the locks of their partitions; Django's log has one entry for each."""
        count = queryset.count()
        writebehind.discard(queryset, queryset.db)
        record_event("action", request.user.get_username(), f"discard {count} parked writes")

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        """Discard one write."""
        assert isinstance(obj, ParkedWrite)  # noqa: S101  # this admin has no other model
        writebehind.discard([obj], obj._state.db or "default")
        record_event("action", request.user.get_username(), f"discard the parked write {obj}")

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Return False: only a drain parks writes."""
        return False


def _description(queryset: QuerySet[ParkedWrite]) -> str:
    return f"retry {queryset.count()} parked writes"
