"""The faults as the page shows them: each with what to do, and with links to what it concerns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from cachebackend.monitoring import Fault
from cachebackend.monitoring.runbook import FaultKind

__all__ = ["fault_rows", "href", "parked_url", "partition_anchor", "with_code"]

#: The faults above the tiles, also on a phone; more are folded away.
MAX_SHOWN = 2
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
#: Where the page shows more of a topic.
_SECTIONS = {"worker": "#invalidation", "pending": "#invalidation", "waiting": "#write-behind"}


def fault_rows(faults: Sequence[Fault], admin_site: str) -> dict[str, list[dict[str, Any]]]:
    """Return all faults, those that the page shows at once, and those that it folds away.

    Args:
        faults: The faults, with their consequences.
        admin_site: The name of the admin site.
    """
    rows = [_row(fault, admin_site) for fault in faults]
    return {"all": rows, "shown": rows[:MAX_SHOWN], "folded": rows[MAX_SHOWN:]}


def partition_anchor(partition: object) -> str:
    """Return the id of the row of a partition."""
    return f"partition-{partition}"


def with_code(text: str) -> SafeString:
    """Return a text of the runbook as HTML: its code, and links without their addresses."""
    parts = _CODE.split(_LINK.sub(r"\1", text))  # the code is every second part
    marked = (format_html("<code>{}</code>", part) if at % 2 else part for at, part in enumerate(parts))
    return format_html_join("", "{}", ((part,) for part in marked))


def _row(fault: Fault, admin_site: str) -> dict[str, Any]:
    return {
        "fault": fault,
        "way_out": with_code(fault.way_out),
        "href": href(fault, admin_site),
        "runbook": f"{reverse(f'{admin_site}:cachebackend_ring_runbook')}#{fault.kind}",
        "consequences": [_row(each, admin_site) for each in fault.consequences],
    }


def href(fault: Fault, admin_site: str, page: str = "") -> str:
    """Return the address of what a fault concerns.

    Args:
        fault: The fault.
        admin_site: The name of the admin site.
        page: The address of the ring page, if another page has the link.
    """
    if fault.kind in {FaultKind.WRITES_PARKED, FaultKind.WRITES_RETRIED}:
        return parked_url(admin_site)
    if fault.subject:
        return f"{page}#{partition_anchor(fault.subject)}"
    return page + _SECTIONS.get(fault.topic, "#processes" if fault.topic == "processes" else "#ring-page")


def parked_url(admin_site: str, label: str = "") -> str:
    """Return the address of the list of parked writes: of all models, or of one."""
    query = f"?{urlencode({'label': label})}" if label else ""
    return f"{reverse(f'{admin_site}:cachebackend_parkedwrite_changelist')}{query}"
