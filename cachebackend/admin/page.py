"""The ring page: whether the cache works, and if not, what is wrong and since when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from cachebackend.admin.actions import ActionForm, log_action
from cachebackend.admin.charts import ring_picture
from cachebackend.admin.fault_rows import fault_rows, parked_url, partition_anchor, with_code
from cachebackend.admin.history import alias_history, chosen_period, drained_chart, period_links
from cachebackend.admin.tiles import UNKNOWN, tiles
from cachebackend.admin.unavailable import needs_database
from cachebackend.conf import ring_aliases
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.models import Ring
from cachebackend.monitoring import (
    AliasFigures,
    KeyFigures,
    ProcessFigures,
    QueryFigures,
    QueueFigures,
    key_figures,
    query_figures,
    site_figures,
)
from cachebackend.monitoring.events import TimelineEvent, timeline
from cachebackend.monitoring.formatting import moment, percentiles
from cachebackend.monitoring.nodes import seen_by
from cachebackend.monitoring.observer import observe
from cachebackend.monitoring.queues import kind_of
from cachebackend.monitoring.runbook import RUNBOOK
from cachebackend.monitoring.usage import usage_figures

__all__ = ["RingAdmin"]

#: Seconds between two refreshes of the page by its script.
REFRESH_SECONDS = 5
#: The events that the page shows.
MAX_EVENTS = 30
#: In a table of more nodes, those that are up are folded away.
MAX_ROWS = 12


class KeyForm(forms.Form):
    """Which key to look up."""

    alias = forms.ChoiceField()
    key = forms.CharField(max_length=1000, strip=False)
    version = forms.IntegerField(required=False, min_value=0)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        field = self.fields["alias"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101  # it is defined above
        field.choices = [(alias, alias) for alias in ring_aliases()]


@admin.register(Ring)
class RingAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """The ring page: nodes, hit ratios, pending deletes, queued writes; looks up and deletes keys."""

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the page and of its forms."""

        def view(own: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
            return needs_database(self.admin_site.admin_view(own))

        return [
            path("", view(self.page), name="cachebackend_ring_changelist"),
            path("act/", view(self.act), name="cachebackend_ring_act"),
            path("runbook/", view(self.runbook), name="cachebackend_ring_runbook"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: nodes are added and removed in the settings."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nodes are added and removed in the settings."""
        return False

    def page(self, request: HttpRequest) -> HttpResponse:
        """Show the figures, and the key that was looked up."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        site = site_figures()
        worker, queues = site.worker, site.queues
        observe(site.faults)
        period = chosen_period(request.GET.get("period"))
        form = KeyForm(request.GET if "key" in request.GET else None)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Ring"),
            "opts": self.opts,
            "unknown": UNKNOWN,
            "tiles": tiles(site.aliases, worker, site.outbox, queues),
            "panels": [
                _panel(each) | alias_history(each, period) | _queries(query_figures(each.alias))
                for each in site.aliases
            ],
            "usage": [usage_figures(each.alias) for each in site.aliases] if "usage" in request.GET else None,
            "period": period,
            "periods": period_links(period),
            "outbox": site.outbox,
            "worker": worker,
            "processes": _process_rows(site.processes),
            "last_runs": {task: moment(ran) for task, ran in sorted((worker.last_runs or {}).items())},
            "queues": queues,
            "low_write_sums": site.aliases[0].low_sums if site.aliases else "",
            "drain_times": percentiles(queues.drain_times),
            "drained_chart": drained_chart(queues, period),
            "timeline": _timeline() if site.outbox.rows is not None else None,
            "faults": site.faults,
            "fault_rows": fault_rows(site.faults, self.admin_site.name),
            "note_rows": fault_rows(site.notes, self.admin_site.name)["all"],
            "runbook": reverse(f"{self.admin_site.name}:cachebackend_ring_runbook"),
            "partitions": self._partitions(queues),
            "now": timezone.now(),
            "refresh_seconds": REFRESH_SECONDS,
            "form": form,
            "looked_up": self._look_up(request, form),
            "may_change": self.has_change_permission(request),
        }
        return TemplateResponse(request, "cachebackend/ring.html", context)

    def _partitions(self, queues: QueueFigures) -> list[dict[str, Any]]:
        """Return what the page shows of each partition."""
        runbook = reverse(f"{self.admin_site.name}:cachebackend_ring_runbook")
        return [
            {
                "status": status,
                "anchor": partition_anchor(status.partition),
                "parked_url": parked_url(self.admin_site.name, status.partition.label),
                "reasons": [(reason, f"{runbook}#{kind_of(reason)}") for reason in reasons],
            }
            for status, reasons in queues.listed_partitions
        ]

    def runbook(self, request: HttpRequest) -> HttpResponse:
        """Show what to do about each kind of fault."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": _("Runbook"),
            "opts": self.opts,
            "entries": [
                (kind, with_code(entry.meaning), with_code(entry.way_out), map(with_code, entry.steps))
                for kind, entry in RUNBOOK.items()
            ],
            "back": reverse(f"{self.admin_site.name}:cachebackend_ring_changelist"),
        }
        return TemplateResponse(request, "cachebackend/ring_runbook.html", context)

    def _look_up(self, request: HttpRequest, form: KeyForm) -> KeyFigures | None:
        if not form.is_bound or not form.is_valid():
            return None
        asked = form.cleaned_data
        may_change = self.has_change_permission(request)
        return key_figures(asked["alias"], asked["key"], asked["version"], shows_value=may_change)

    def act(self, request: HttpRequest) -> HttpResponse:
        """Delete a key, a tag or the keys on a node, after a confirmation."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        back = reverse(f"{self.admin_site.name}:cachebackend_ring_changelist")
        form = ActionForm(request.POST)
        if request.method != "POST" or not form.is_valid():
            self.message_user(request, form.fault, messages.ERROR)
            return HttpResponseRedirect(back)
        if not form.cleaned_data["confirmed"]:
            return self._ask(request, form, back)
        title = form.description[0].upper() + form.description[1:]
        try:
            outcome, level = form.act(), messages.INFO
            log_action(request, Ring, f"{form.description}: {outcome}")
        except RingCacheError as error:
            outcome, level = str(error), messages.ERROR
            log_action(request, Ring, f"{form.description}: failed: {outcome}")
        self.message_user(request, f"{title}: {outcome}.", level)
        return HttpResponseRedirect(back)

    def _ask(self, request: HttpRequest, form: ActionForm, back: str) -> HttpResponse:
        """Show what will be done, for the user to confirm."""
        fields = [
            (name, value)
            for name, value in form.cleaned_data.items()
            if name != "confirmed" and value is not None
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Are you sure?"),
            "opts": self.opts,
            "description": form.description,
            "consequence": _("The next read of a deleted key loads its value from the database."),
            "fields": fields,
            "back": back,
        }
        return TemplateResponse(request, "cachebackend/ring_confirm.html", context)


def _panel(figures: AliasFigures) -> dict[str, Any]:
    """Return what the page shows of an alias; nodes that are not up come first."""
    down = [node for node in figures.nodes if not node.is_up]
    up = [node for node in figures.nodes if node.is_up]
    is_large = len(figures.nodes) > MAX_ROWS
    return {
        "figures": figures,
        "seen_by": seen_by(),
        "ring": ring_picture(figures.ring_nodes),
        "shown": down if is_large else down + up,
        "folded": up if is_large else [],
        "get_times": "" if figures.hour is None else percentiles(figures.hour.get_times),
        "load_times": "" if figures.hour is None else percentiles(figures.hour.load_times),
    }


def _process_rows(figures: ProcessFigures) -> dict[str, Any] | None:
    """Return what the page shows of each process, those that differ first; None: no node answered."""
    if figures.processes is None:
        return None
    rows: list[dict[str, Any]] = [
        {
            "process": process,
            "since": moment(process.started),
            "drains": [(partition, moment(since)) for partition, since in process.drains],
            "differences": figures.differences_of(process),
            "silent": f"{process.age:.0f}" if process in figures.silent else "",
        }
        for process in [*figures.processes, *figures.silent]
    ]
    differing = sum(bool(row["differences"]) for row in rows)
    rows.sort(key=lambda row: not row["differences"])
    shown = max(MAX_ROWS, differing)
    return {"shown": rows[:shown], "folded": rows[shown:], "versions": figures.versions_text}


def _timeline() -> list[TimelineEvent] | None:
    """Return the latest events; None if the database cannot be asked."""
    try:
        return timeline(MAX_EVENTS)
    except Exception as error:  # noqa: BLE001  # the table may be missing; the page shows the rest
        raise_interrupt(error)
        return None


def _queries(figures: QueryFigures) -> dict[str, Any]:
    """Return what the page shows of an alias' queries; the rest of a long list is folded away."""
    return {
        "queries": figures,
        "queries_since": moment(figures.since),
        "shown_queries": figures.cached[:MAX_ROWS],
        "folded_queries": figures.cached[MAX_ROWS:],
        "shown_keys": figures.keys[:MAX_ROWS],
        "folded_keys": figures.keys[MAX_ROWS:],
    }
