"""Times that people read: all of them are in Django's current time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from cachebackend.models import Event, OutboxRow, ParkedWrite
from cachebackend.monitoring.formatting import moment

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "lite"])
STORED, SHOWN = datetime(2026, 1, 31, 23, 20, 22, tzinfo=UTC), "02-01 08:20:22"


def test_every_time_is_in_the_current_zone() -> None:
    """In the commands, in the names of rows, and beside faults."""
    write = ParkedWrite.objects.create(
        label="shop.meter", partition=0, batch=1, key="1", changes=b"", error="no"
    )
    ParkedWrite.objects.filter(pk=write.pk).update(created=STORED)
    out = StringIO()
    with timezone.override("Asia/Tokyo"):
        assert f"2026-{SHOWN} (" in moment(STORED.timestamp())
        for row in (Event(created=STORED, text="deployed"), OutboxRow(created=STORED)):
            assert f"2026-{SHOWN}" in str(row)
        with pytest.raises(SystemExit):
            call_command("writebehind", "parked", stdout=out)
    assert SHOWN in " ".join(out.getvalue().split())
