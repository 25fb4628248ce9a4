"""The filter of Django's error page."""

from __future__ import annotations

import inspect
import json
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from types import MappingProxyType, SimpleNamespace
from typing import Any
from urllib.parse import urlparse, urlsplit

import pytest
from django.template.defaultfilters import pprint
from django.test import RequestFactory
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from cachebackend.error_reports import URLPasswordFilter

USER, PASSWORD = "alice", "hunter2"
URL = f"redis://{USER}:{PASSWORD}@h:1/0?name=a"
LOCATION = [URL, f"redis+sentinel://:{PASSWORD}@h1,h2/shop?sentinel_password={PASSWORD}&db=1"]


def page(reporter_filter: SafeExceptionReporterFilter, settings: Any) -> str:
    """Django's error page for an error in a function whose local variables hold the settings."""
    settings.CACHES = {"default": {"BACKEND": "cachebackend.RingCache", "LOCATION": LOCATION}}

    def create_connection(location: list[str], params: dict[str, Any]) -> None:
        text, nested = f"{location[0]},redis://u:{PASSWORD}@b", ("x", location)
        for _ in range(50):
            nested = [nested]  # type: ignore[assignment]  # deeper than anything is shown
        raise ValueError(text[:5], nested is params)

    request = RequestFactory().get("/")
    request.META["RING_NODES"] = URL
    request.exception_reporter_filter = reporter_filter  # type: ignore[attr-defined]  # Django reads it
    with pytest.raises(ValueError, match="redis") as raised:
        create_connection(LOCATION, {"OPTIONS": {"password": PASSWORD, "timeout": 1}})
    error = raised.value
    # The frame of this test is not the site's
    frames = error.__traceback__ and error.__traceback__.tb_next
    return unescape(ExceptionReporter(request, type(error), error, frames).get_traceback_html())


@pytest.mark.parametrize("is_debug", [True, False])
def test_the_error_page_masks_the_logins_of_urls(settings: Any, is_debug: bool) -> None:
    """In settings, the request's environment and local variables; hosts and names stay."""
    settings.DEBUG = is_debug
    shown = page(URLPasswordFilter(), settings)
    text = shown[shown.index("Traceback") :]
    source = 'hunter2@b", ("x"'  # the page quotes this file too
    assert "hunter2" not in text.replace(source, "")
    assert "alice" not in text
    assert "redis://***@h:1/0?name=a" in text
    assert "'timeout': 1" in text


def test_without_the_filter_django_shows_them(settings: Any) -> None:
    """So the test above tests something."""
    assert f"{USER}:{PASSWORD}@h" in page(SafeExceptionReporterFilter(), settings)


Point = namedtuple("Point", "a b")


class Text(str):
    __slots__ = ()


#: Values in which Django's page prints a URL.
VALUES: dict[str, Callable[[str], Any]] = {
    "text": lambda url: url,
    "in a text": lambda url: f"cannot connect to {url}, and gives up",
    "after another": lambda url: f"redis://a,{url}",
    "text of a class": Text,
    "bytes": str.encode,
    "list": lambda url: [url],
    "set": lambda url: {url},
    "frozenset": lambda url: frozenset({url}),
    "named tuple": lambda url: Point(url, 1),
    "ordered": lambda url: OrderedDict(a=url),
    "default": lambda url: defaultdict(str, a=url),
    "deque": lambda url: deque([url]),
    "proxy": lambda url: MappingProxyType({"a": url}),
    "key": lambda url: {url: 1},
    "keys": lambda url: {url: 1}.keys(),
    "object": lambda url: SimpleNamespace(url=url),
    "error": ValueError,
    "split": urlsplit,
    "parsed": urlparse,
    "bytes in a list": lambda url: [{"a": (url.encode(),)}],
    "password": lambda _: {"PASSWORD": PASSWORD.encode()},
}
URLS = [
    *(f"redis://:x{character}{PASSWORD}@h:1/0" for character in ",;'\"(|\\"),
    f"REDIS://:{PASSWORD}@h",
    f"redis+sentinel://a/s?sentinel_password=x,;'\"{PASSWORD}",
]


@pytest.mark.parametrize("kind", VALUES)
def test_a_login_is_masked_in_values_of_any_kind(kind: str) -> None:
    """What the page prints of a value counts, and not its type."""

    def show(value: Any) -> str:
        frame = inspect.currentframe()
        assert frame is not None
        [(_, shown)] = [
            each for each in reporter_filter.get_traceback_frame_variables(None, frame) if each[0] == "value"
        ]
        return pprint(shown) + pprint(reporter_filter.cleanse_setting("SOME", value))

    reporter_filter = URLPasswordFilter()
    for url in URLS:
        shown = show(VALUES[kind](url))
        assert PASSWORD not in shown
        assert "***" in shown


def test_a_value_without_a_login_is_shown_as_it_is() -> None:
    """Also one whose repr() fails: Django's page says so."""

    class Awkward:
        def __repr__(self) -> str:
            raise ValueError(URL)

    setting = {"a": [1, b"2", {3}], "b": deque([4])}
    assert pprint(URLPasswordFilter().cleanse_setting("SOME", setting)) == pprint(setting)
    assert "ValueError" in pprint(URLPasswordFilter().cleanse_setting("SOME", Awkward()))
    assert PASSWORD not in pprint(URLPasswordFilter().cleanse_setting("SOME", Awkward()))


@pytest.mark.parametrize("seed", [PASSWORD, 7654321])
def test_the_seed_of_the_hash_is_masked(seed: str | int) -> None:
    """A text or a number, in settings and in local variables."""

    def fail(given: dict[str, Any]) -> None:
        raise ValueError(len(given))

    alias = {"OPTIONS": {"hash_seed": seed}}
    with pytest.raises(ValueError, match="1") as raised:
        fail(alias)
    frames = raised.value.__traceback__
    assert frames is not None
    assert frames.tb_next is not None
    reporter_filter = URLPasswordFilter()
    shown = pprint(list(reporter_filter.get_traceback_frame_variables(None, frames.tb_next.tb_frame)))
    shown += pprint(reporter_filter.cleanse_setting("CACHES", {"default": alias}))
    assert "hash_seed" in shown
    assert str(seed) not in shown


@dataclass
class Options:
    password: str
    hash_seed: str


#: Texts and containers of a project in which a secret is named.
NAMED: dict[str, Callable[[str], Any]] = {
    "libpq": lambda secret: f"host=h password={secret} dbname=d",
    "libpq, quoted": lambda secret: f"host=h password='a {secret}' dbname=d",
    "libpq, escaped": lambda secret: rf"host=h password='a\' {secret}' dbname=d",
    "libpq, ampersand": lambda secret: f"host=h password=a&{secret} dbname=d",
    "libpq, spaces": lambda secret: f"host=h password = {secret} dbname=d",
    "ordered": lambda secret: OrderedDict(password=secret, hash_seed=f"a {secret}"),
    "pairs": lambda secret: [("x", 1), repr(("hash_seed", secret))],
    "proxy": lambda secret: MappingProxyType({"hash_seed": secret.encode()}),
    "list": lambda secret: {"hash_seed": [secret], "password": ("a", secret)},
    "list in a proxy": lambda secret: MappingProxyType({"hash_seed": ["a", secret]}),
    "object": lambda secret: SimpleNamespace(password=f"a {secret}"),
    "dataclass": lambda secret: Options(secret, f"a '{secret}"),
    "json": lambda secret: json.dumps({"password": secret, "hash_seed": f'a" {secret}'}),
    "json in a list": lambda secret: [json.dumps({"hash_seed": secret})],
    "json in a proxy": lambda secret: MappingProxyType({"a": json.dumps({"hash_seed": f"a {secret}"})}),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_secret_is_masked_by_its_name_in_values_of_any_kind(kind: str) -> None:
    """With any character: its end is that of its quotes, of its list, or white space."""
    shown = pprint(URLPasswordFilter().cleanse_setting("SOME", NAMED[kind](PASSWORD)))
    assert PASSWORD not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text", ["wrong password, try again", "host=h dbname=d", "redis://h/0?password=***&db=1", "password"]
)
def test_a_text_that_names_no_secret_stays(text: str) -> None:
    """So does what is masked already, and what follows it."""
    assert URLPasswordFilter().cleanse_setting("SOME", text) == text
