"""Django's admin of what needs a person: writes that Postgres refused."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from cachebackend import writebehind
from cachebackend.admin.actions import log_action
from cachebackend.models import ParkedWrite
from cachebackend.writebehind.parked import row_of
from cachebackend.writebehind.queue import model_named
from cachebackend.writebehind.reads import describe_row

__all__ = ["ParkedWriteAdmin"]


@admin.register(ParkedWrite)
class ParkedWriteAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """Parked writes: to retry is an action; to delete one is to discard it, after Django has asked."""

    list_display = ("id", "label", "key", "batch", "created", "changes_in_words", "error")
    list_filter = ("label",)
    search_fields = ("key", "error")
    readonly_fields = ("label", "partition", "batch", "key", "created", "changes_in_words", "error")
    fields = readonly_fields
    actions = ("retry",)

    @admin.display(description="changes")
    def changes_in_words(self, parked: ParkedWrite) -> str:
        """Return what the write was to do."""
        model = model_named(parked.label)
        return describe_row(model, row_of(parked, model)) if model else "of a model that is gone"

    @admin.action(description="Try the selected parked writes again", permissions=["change"])
    def retry(self, request: HttpRequest, queryset: QuerySet[ParkedWrite]) -> HttpResponse | None:
        """Try writes again, each with all that is parked of its row, after asking."""
        if "confirmed" not in request.POST:
            return self._ask(request, queryset)
        asked = f"try {queryset.count()} parked writes again"
        retried = writebehind.retry(queryset, queryset.db)
        log_action(
            request, ParkedWrite, f"{asked}: {retried.applied} landed, {len(retried.remaining)} did not"
        )
        self.message_user(request, f"{retried.applied} writes landed.")
        for parked in retried.remaining[:10]:
            self.message_user(request, f"{parked}: {parked.error}", messages.WARNING)
        return None

    def _ask(self, request: HttpRequest, queryset: QuerySet[ParkedWrite]) -> HttpResponse:
        """Show what would be tried, for its user to confirm."""
        kept = [
            (name, value)
            for name in ("action", "select_across", ACTION_CHECKBOX_NAME)
            for value in request.POST.getlist(name)
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": "Are you sure?",
            "opts": self.opts,
            "words": f"try {queryset.count()} parked writes again",
            "after": "What lands changes its row in the database; what is refused again stays parked.",
            "asked": kept,
            "back": request.get_full_path(),
        }
        return TemplateResponse(request, "cachebackend/ring_confirm.html", context)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ParkedWrite]) -> None:
        """Discard writes, under their partitions' locks."""
        writebehind.discard(queryset, queryset.db)

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        """Discard one write."""
        assert isinstance(obj, ParkedWrite)  # noqa: S101  # what this admin is of
        writebehind.discard([obj], obj._state.db or "default")

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Nobody parks by hand."""
        return False
