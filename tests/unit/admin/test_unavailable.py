"""The ring page while the database of the users does not answer."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.urls import path

from cachebackend.admin import unavailable
from cachebackend.admin.unavailable import needs_database
from cachebackend.invalidation.outbox_databases import Answers
from cachebackend.status_page import status

urlpatterns = [path("ring-status/", status)]
AWAY = OperationalError("connection refused\nIs the server running?")


@needs_database
def page(request: HttpRequest) -> HttpResponse:
    if "fail" in request.GET:
        raise OperationalError("server closed the connection")
    return HttpResponse("figures")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, settings: Any) -> list[Exception | None]:
    """What the database answers when it is asked, the first time first."""
    settings.ROOT_URLCONF = __name__
    settings.RINGCACHE = {"status": {"token": "a-token-of-24-characters"}}
    outcomes: list[Exception | None] = []

    def ask(_: object, timeout: float, databases: list[str]) -> Answers[None]:
        assert timeout <= 3.0
        error = outcomes.pop(0)
        return Answers({}, {databases[0]: error} if error else {})

    monkeypatch.setattr(unavailable, "ask_databases", ask)
    return outcomes


def get(query: str = "") -> HttpResponse:
    return page(RequestFactory().get(f"/admin/cachebackend/ring/{query}"))


def test_it_names_the_status_page(asked: list[Exception | None]) -> None:
    """With 503, instead of a bare error of the server; the session is not read, which may hang."""
    asked.append(AWAY)
    response = get()
    text = response.content.decode()
    assert response.status_code == 503
    assert '<a href="/ring-status/">' in text
    assert "connection refused." in text


def test_a_project_without_the_status_page_is_told_of_it(
    asked: list[Exception | None], settings: Any
) -> None:
    """And of the command that needs no page."""
    settings.RINGCACHE = {}
    asked.append(AWAY)
    assert "manage.py ring doctor" in get().content.decode()


def test_a_database_that_goes_away_meanwhile_is_the_same(asked: list[Exception | None]) -> None:
    """An error of the page itself is one, if the database answers."""
    asked += [None]
    assert get().content == b"figures"
    asked += [None, AWAY]
    assert get("?fail").status_code == 503
    asked += [None, None]
    with pytest.raises(OperationalError):
        get("?fail")


def test_no_transaction_is_opened_before_it_is_asked() -> None:
    """With ``ATOMIC_REQUESTS`` that would raise before the view is called."""
    assert page._non_atomic_requests == {"default"}  # type: ignore[attr-defined]
