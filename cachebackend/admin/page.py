"""The ring page: whether the cache works, and if not, what is wrong and since when."""

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
from django.utils.translation import gettext as _

from cachebackend.admin.actions import ActionForm, log_action
from cachebackend.admin.charts import ring_picture
from cachebackend.admin.history import alias_history, chosen_period, drained_chart, period_links
from cachebackend.admin.tiles import UNKNOWN, tiles
from cachebackend.conf import ring_aliases
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.models import Ring
from cachebackend.monitoring import (
    AliasFigures,
    Fault,
    KeyFigures,
    ProcessFigures,
    QueryFigures,
    alias_figures,
    key_figures,
    outbox_figures,
    process_figures,
    query_figures,
    queue_figures,
    try_to_read,
    worker_figures,
)
from cachebackend.monitoring.events import TimelineEvent, timeline
from cachebackend.monitoring.formatting import moment, percentiles
from cachebackend.monitoring.nodes import seen_by
from cachebackend.monitoring.observer import observe
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.node.breaker import REPLAYING, UP

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
        view = self.admin_site.admin_view
        return [
            path("", view(self.page), name="cachebackend_ring_changelist"),
            path("act/", view(self.act), name="cachebackend_ring_act"),
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
        read = {alias: try_to_read(partial(alias_figures, alias)) for alias in ring_aliases()}
        aliases = [each for each in read.values() if isinstance(each, AliasFigures)]
        nodes_down = [
            node.name for each in aliases for node in each.nodes if node.state not in {UP, REPLAYING}
        ]
        processes = process_figures()
        worker, outbox = worker_figures(processes), outbox_figures(nodes_down)
        queues = queue_figures(is_database_up=outbox.rows is not None, processes=processes)
        faults = [fault for each in aliases for fault in each.faults]
        faults += [*processes.faults, *worker.faults, *outbox.faults, *queues.faults]
        faults += [
            Fault(FaultKind.FIGURES_UNREADABLE, f"The figures of {alias!r} cannot be read: {each}")
            for alias, each in read.items()
            if isinstance(each, str)
        ]
        observe()
        period = chosen_period(request.GET.get("period"))
        form = KeyForm(request.GET if "key" in request.GET else None)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Ring"),
            "opts": self.opts,
            "unknown": UNKNOWN,
            "tiles": tiles(aliases, worker, outbox, queues),
            "panels": [
                _panel(each) | alias_history(each, period) | _queries(query_figures(each.alias))
                for each in aliases
            ],
            "period": period,
            "periods": period_links(period),
            "outbox": outbox,
            "worker": worker,
            "processes": _process_rows(processes),
            "last_runs": {task: moment(ran) for task, ran in sorted((worker.last_runs or {}).items())},
            "queues": queues,
            "drain_times": percentiles(queues.drain_times),
            "drained_chart": drained_chart(queues, period),
            "timeline": _timeline() if outbox.rows is not None else None,
            "faults": faults,
            "now": timezone.now(),
            "refresh_seconds": REFRESH_SECONDS,
            "form": form,
            "looked_up": self._look_up(request, form),
            "may_change": self.has_change_permission(request),
        }
        return TemplateResponse(request, "cachebackend/ring.html", context)

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
            outcome = form.act()
        except RingCacheError as error:
            self.message_user(request, f"{title}: {error}.", messages.ERROR)
        else:
            log_action(request, Ring, f"{form.description}: {outcome}")
            self.message_user(request, f"{title}: {outcome}.")
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
        }
        for process in figures.processes
    ]
    differing = sum(bool(row["differences"]) for row in rows)
    rows.sort(key=lambda row: not row["differences"])
    shown = max(MAX_ROWS, differing)
    return {"shown": rows[:shown], "folded": rows[shown:]}


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
    }
