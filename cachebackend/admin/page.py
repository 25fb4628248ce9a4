"""The ring page: is it well, and if not, what and since when."""

from __future__ import annotations

from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from cachebackend.admin.actions import ActionForm, log_action
from cachebackend.admin.charts import line_chart, ring_picture
from cachebackend.admin.tiles import tiles
from cachebackend.conf import ring_aliases
from cachebackend.errors import RingCacheError
from cachebackend.models import Ring
from cachebackend.monitoring import (
    AliasFigures,
    Fault,
    alias_figures,
    attempt,
    hit_ratio,
    key_figures,
    queue_figures,
)
from cachebackend.monitoring.formatting import moment, percentiles

__all__ = ["RingAdmin"]

#: Seconds between two looks of the page at itself.
REFRESH_SECONDS = 5
#: With more nodes than these, those that are well are folded away.
MOST_ROWS = 12


class KeyForm(forms.Form):
    """Which key to look at."""

    alias = forms.ChoiceField()
    key = forms.CharField(max_length=1000, strip=False)
    version = forms.IntegerField(required=False, min_value=0)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        aliases = [(alias, alias) for alias in ring_aliases()]
        field = self.fields["alias"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101  # it stands above
        field.choices = aliases


@admin.register(Ring)
class RingAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """The ring, its hit rates, what is owed and what waits; a key's owner; deletes by hand."""

    def get_urls(self) -> list[URLPattern]:
        """Serve the page, and what it posts."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.page), name="cachebackend_ring_changelist"),
            path("act/", view(self.act), name="cachebackend_ring_act"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nodes are settings."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nodes are settings."""
        return False

    def page(self, request: HttpRequest) -> HttpResponse:
        """Show how all is."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        found = {name: attempt(partial(alias_figures, name)) for name in ring_aliases()}
        aliases = [each for each in found.values() if isinstance(each, AliasFigures)]
        queues = queue_figures()
        faults = [fault for each in aliases for fault in each.faults] + queues.faults
        faults += [
            Fault("nodes", f"{name!r} cannot be seen: {each}")
            for name, each in found.items()
            if isinstance(each, str)
        ]
        form = KeyForm(request.GET if "key" in request.GET else None)
        context = {
            **self.admin_site.each_context(request),
            "title": "Ring",
            "opts": self.opts,
            "tiles": tiles(aliases, queues),
            "panels": [_panel(each) for each in aliases],
            "queues": queues,
            "last_runs": {task: moment(at) for task, at in sorted((queues.last_runs or {}).items())},
            "drain_times": percentiles(queues.drain_times),
            "landed_chart": line_chart("Rows that landed a minute in the last hour", queues.landed),
            "faults": faults,
            "now": timezone.now(),
            "refresh_seconds": REFRESH_SECONDS,
            "form": form,
            "looked": self._look(request, form),
            "may_change": self.has_change_permission(request),
        }
        return TemplateResponse(request, "cachebackend/ring.html", context)

    def _look(self, request: HttpRequest, form: KeyForm) -> Any:
        if not form.is_bound or not form.is_valid():
            return None
        asked = form.cleaned_data
        may = self.has_change_permission(request)
        return key_figures(asked["alias"], asked["key"], asked["version"], shows_value=may)

    def act(self, request: HttpRequest) -> HttpResponse:
        """Delete a key, a tag or a node's entries, after asking."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        back = reverse(f"{self.admin_site.name}:cachebackend_ring_changelist")
        form = ActionForm(request.POST)
        if request.method != "POST" or not form.is_valid():
            self.message_user(request, form.fault, messages.ERROR)
            return HttpResponseRedirect(back)
        if not form.cleaned_data["confirmed"]:
            return self._ask(request, form, back)
        try:
            outcome = form.act()
        except RingCacheError as error:
            self.message_user(request, f"{_sentence(form.words)}: {error}.", messages.ERROR)
        else:
            log_action(request, Ring, f"{form.words}: {outcome}")
            self.message_user(request, f"{_sentence(form.words)}: {outcome}.")
        return HttpResponseRedirect(back)

    def _ask(self, request: HttpRequest, form: ActionForm, back: str) -> HttpResponse:
        """Show what would be done, for its user to confirm."""
        asked = [
            (name, value)
            for name, value in form.cleaned_data.items()
            if name != "confirmed" and value is not None
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": "Are you sure?",
            "opts": self.opts,
            "words": form.words,
            "after": "What is asked for next is loaded from the database again.",
            "asked": asked,
            "back": back,
        }
        return TemplateResponse(request, "cachebackend/ring_confirm.html", context)


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _panel(figures: AliasFigures) -> dict[str, Any]:
    """Return an alias' figures with their pictures, and its nodes with those first that are not well."""
    minutes = list(figures.minutes.values())
    ratios = [None if each is None or (ratio := hit_ratio(each)) is None else 100 * ratio for each in minutes]
    gets = [None if each is None else each.hits + each.misses for each in minutes]
    loads = [None if each is None else each.loads for each in minutes]
    troubled = [node for node in figures.nodes if not node.is_well]
    well = [node for node in figures.nodes if node.is_well]
    is_large = len(figures.nodes) > MOST_ROWS
    return {
        "figures": figures,
        "ring": ring_picture(figures.of_ring),
        "shown": troubled if is_large else troubled + well,
        "folded": well if is_large else [],
        "get_times": percentiles(figures.hour.get_times),
        "load_times": percentiles(figures.hour.load_times),
        "charts": [
            ("Hit ratio", line_chart("Hit ratio of the last hour, in percent", ratios, 100, " %")),
            ("Gets a minute", line_chart("Keys asked for, each minute of the last hour", gets)),
            ("Loads a minute", line_chart("Loads, each minute of the last hour", loads)),
        ],
        "rows": [
            (f"-{len(minutes) - 1 - at} min", each.hits, each.misses, ratio, each.loads)
            for at, (each, ratio) in enumerate(zip(minutes, ratios, strict=True))
            if each is not None and (each.hits or each.misses or each.loads)
        ],
    }
